"""Numbers of invoices: gapless for each entity, series and year, drawn when one becomes final."""

from django.db import connection

from billing.models import NumberSeries

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


def expected(entity_id: str, series: str, year: int) -> int:
    """What `draw` would most likely give; nothing is locked, so another may be quicker."""
    found = NumberSeries.objects.filter(entity_id=entity_id, series=series, year=year)
    return (found.values_list("last", flat=True).first() or 0) + 1
