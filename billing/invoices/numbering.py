"""Numbers of invoices: gapless for each entity, series and year, drawn when one becomes final."""

from django.db import connection

from billing.models import Entity, NumberSeries

SERIES = {"invoice": "INV", "credit_note": "CRN", "advance": "ADV"}


def draw(entity_id: str, series: str, year: int) -> int:
    """The next number, in the caller's transaction.

    The series' row stays locked until that transaction ends, so that who draws next waits, and a
    rollback leaves no hole. The database refuses a number without its invoice.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_numberseries (entity_id, series, year, last)"
            " VALUES (%s, %s, %s, 0) ON CONFLICT DO NOTHING",
            [entity_id, series, year],
        )
        cursor.execute(
            "UPDATE billing_numberseries SET last = last + 1"
            " WHERE (entity_id, series, year) = (%s, %s, %s) RETURNING last",
            [entity_id, series, year],
        )
        (number,) = cursor.fetchone()
    return int(number)


def label(series: str, year: int, number: int) -> str:
    """As it stands on the document; letters and digits alone tell it from every other."""
    return f"{series}-{year}-{number:06d}"


def current(entity_id: str, base: str, year: int) -> str:
    """The series that goes on: its base's own, or the one that took its place (`leave_off`)."""
    found = NumberSeries.objects.filter(entity_id=entity_id, series__startswith=base, year=year)
    return max(found.values_list("series", flat=True), key=_order, default=base)


def leave_off(label: str) -> None:
    """A document of this label was issued and is lost: no other ever gets its number, or one after
    it. The rest of its year goes on in a series of another name, from 1, without a gap: INV, INVA,
    INVB. Again changes nothing."""
    series, year, _ = label.split("-")
    base = next(base for base in SERIES.values() if series.startswith(base))
    for entity_id in Entity.objects.values_list("id", flat=True):
        if current(entity_id, base, int(year)) == series:
            after = base + _following(series.removeprefix(base))
            NumberSeries.objects.create(entity_id=entity_id, series=after, year=int(year), last=0)


def _order(series: str) -> tuple[int, str]:
    return len(series), series


def _following(suffix: str) -> str:
    """Of "" A, of A B, of Z ZA."""
    if not suffix or suffix[-1] == "Z":
        return suffix + "A"
    return suffix[:-1] + chr(ord(suffix[-1]) + 1)


def expected(entity_id: str, series: str, year: int) -> int:
    """What `draw` would most likely give; nothing is locked, so another may be quicker."""
    found = NumberSeries.objects.filter(entity_id=entity_id, series=series, year=year)
    return (found.values_list("last", flat=True).first() or 0) + 1
