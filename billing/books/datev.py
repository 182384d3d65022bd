"""The journal of a month as DATEV's CSV ("EXTF", data category 21, "Buchungsstapel", version 13).

Written after the published description of the format, and not tried with DATEV's own software. It
is in Windows-1252 with CRLF; a line is one amount from one account to another. Amounts of DATEV
have two decimals: what we keep finer (accruals, revenue by meter) is one booking at the month's
end, of what the rounded balances changed by, so that no sum drifts from one file to the next.
Accounts are named by a table that the operator sets with the tax adviser; what has no number in
it is refused by its name, never left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from django.db import connection, transaction

from billing import errors, months
from billing.books import chart, journal
from billing.books.models import DatevSetting
from compliance import audit

ENCODING = "cp1252"
MOST = 99_999  # lines that DATEV reads of one file
# Proposals in the numbers of SKR 03, none of them of those that compute VAT by themselves.
PROPOSED: Mapping[str, str] = {
    "receivable": "1400",
    "prepaid": "1710",
    "claims": "1500",
    "unbilled": "1502",
    "bank": "1200",
    "clearing": "1361",
    "transfers": "1360",
    "unmatched": "1590",
    "opening": "9000",
    "vat": "1770",
    "vat:DE:19": "1776",
    "revenue": "8200",
    "discount": "8700",
    "rounding": "2700",
    "fees": "4970",
    "bad_debt": "2400",
    "bridge": "1591",
    "accrual_difference": "1592",
}
# The columns up to those that we fill; the 111 after them are optional and stay empty.
COLUMNS = (
    *("Umsatz (ohne Soll/Haben-Kz)", "Soll/Haben-Kennzeichen", "WKZ Umsatz", "Kurs"),
    *("Basis-Umsatz", "WKZ Basis-Umsatz", "Konto", "Gegenkonto (ohne BU-Schlüssel)"),
    *("BU-Schlüssel", "Belegdatum", "Belegfeld 1", "Belegfeld 2", "Skonto", "Buchungstext"),
)


@dataclass(frozen=True)
class Setting:
    """`accounts` adds to `PROPOSED`, or replaces what is there."""

    consultant: int = 1001
    client: int = 1
    year_begins: int = 1
    digits: int = 4
    chart: str = "03"
    accounts: Mapping[str, str] = field(default_factory=dict)

    def number(self, code: str) -> str:
        """Of the longest beginning that is in the table. Raises errors.BooksRefused."""
        table = {**PROPOSED, **self.accounts}
        parts = code.split(":")
        for length in range(len(parts), 0, -1):
            if found := table.get(":".join(parts[:length])):
                return found
        raise errors.BooksRefused(f"{code} has no account number: set one", code="unmapped")


@dataclass(frozen=True)
class Booking:
    """`cents` from the account `credit` to `debit`."""

    cents: int
    debit: str
    credit: str
    on: date
    document: str
    text: str


def setting() -> Setting:
    row = DatevSetting.objects.order_by("id").first()
    if row is None:
        return Setting()
    return Setting(row.consultant, row.client, row.year_begins, row.digits, row.chart, row.accounts)


def configure(wanted: Setting, *, actor: audit.Actor, now: datetime) -> Setting:
    """Set the numbers, all at once. Raises errors.BooksRefused with the field's name."""
    _check(wanted)
    with transaction.atomic():
        row = DatevSetting.objects.select_for_update().order_by("id").first() or DatevSetting()
        before = dict(row.accounts)
        row.consultant, row.client = wanted.consultant, wanted.client
        row.year_begins, row.digits, row.chart = wanted.year_begins, wanted.digits, wanted.chart
        row.accounts, row.changed_at = dict(wanted.accounts), now
        row.save()
        audit.record(
            actor=actor,
            action="books.configure_export",
            target=audit.Target("datev_setting", row.id),
            log=audit.PLATFORM,
            now=now,
            change=[
                audit.Change("consultant", None, row.consultant),
                audit.Change("client", None, row.client),
                *(
                    audit.Change(f"accounts/{code}", before.get(code), row.accounts.get(code))
                    for code in sorted({*before, *row.accounts})
                    if before.get(code) != row.accounts.get(code)
                ),
            ],
        )
    return setting()


def write(month: date, now: datetime) -> bytes:
    """The file of a calendar month in UTC. Raises errors.BooksRefused where an account has no
    number, an amount is not in euro, or there are more lines than DATEV reads."""
    by = setting()
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = months.after(start)
    rows = [_row(one) for one in bookings(start, end, by)]
    if len(rows) > MOST:
        text = f"{len(rows)} lines, and DATEV reads {MOST}: use the JSON lines"
        raise errors.BooksRefused(text, code="too_many")
    lines = (_head(by, start, end, now), ";".join(COLUMNS), *rows)
    return ("\r\n".join(lines) + "\r\n").encode(ENCODING, "replace")


def bookings(start: datetime, end: datetime, by: Setting) -> Iterator[Booking]:
    for one in journal.posted(start, end):
        sides: dict[str, int] = {}
        for side in one.sides:
            if side.currency != "EUR":
                raise errors.BooksRefused(f"{one.id} is in {side.currency}", code="currency")
            if side.scale == 2:
                number = by.number(side.account)
                sides[number] = sides.get(number, 0) + side.units
        # Keys that name people's banks or payments are ours to read; the id finds the rest.
        yield from pairs(sides, one.effective_at.date(), one.id, one.kind.replace("_", " "))
    last = (end - timedelta(days=1)).date()
    before, after = rounded(_fine(start, by)), rounded(_fine(end, by))
    moved = {one: after.get(one, 0) - before.get(one, 0) for one in sorted({*before, *after})}
    yield from pairs(moved, last, f"{last:%Y-%m}", "accruals and revenue of the month")


def pairs(sides: Mapping[str, int], on: date, document: str, text: str) -> Iterator[Booking]:
    """Debits against credits, in the order in which they stand, until nothing is left."""
    credits = [(code, -units) for code, units in sides.items() if units < 0]
    for debit, units in sides.items():
        while units > 0:
            credit, there = credits.pop(0)
            part = min(units, there)
            units -= part
            if there > part:
                credits.insert(0, (credit, there - part))
            yield Booking(part, debit, credit, on, document, text)


def rounded(units: Mapping[str, int]) -> dict[str, int]:
    """Units of 10^-9 that come to zero, in cents that come to zero: each is cut, and what that
    leaves goes to the largest remainders."""
    if sum(units.values()):
        raise errors.Unbalanced("the accruals do not balance")
    cents = {code: amount // chart.NANO_PER_CENT for code, amount in units.items()}
    by_rest = sorted(units, key=lambda code: (-(units[code] % chart.NANO_PER_CENT), code))
    for code in by_rest[: -sum(cents.values())]:
        cents[code] += 1
    return cents


_FINE = """
SELECT a.code, sum(e.amount) FROM billing_ledgertransaction t
JOIN billing_ledgerentry e ON e.transaction_id = t.id
JOIN billing_ledgeraccount a ON a.id = e.account_id
WHERE t.effective_at < %s AND a.scale = %s GROUP BY 1
"""


def _fine(end: datetime, by: Setting) -> dict[str, int]:
    """The balance of each number before `end`, of what is kept in units of 10^-9."""
    sums: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(_FINE, [end, chart.FINE])
        for code, units in cursor:
            number = by.number(code)
            sums[number] = sums.get(number, 0) + int(units)
    return sums


def _head(by: Setting, start: datetime, end: datetime, now: datetime) -> str:
    year = start.year - (start.month < by.year_begins)
    last = end - timedelta(days=1)
    made = f"{now.astimezone(UTC):%Y%m%d%H%M%S}{now.microsecond // 1000:03d}"
    fields: Sequence[str] = (
        *('"EXTF"', "700", "21", '"Buchungsstapel"', "13", made, "", '"ST"', '""', '""'),
        *(f"{by.consultant}", f"{by.client}", f"{year}{by.year_begins:02d}01", f"{by.digits}"),
        *(f"{start:%Y%m%d}", f"{last:%Y%m%d}", f'"Stoa {start:%Y-%m}"', '""', "1", "0", "0"),
        *('"EUR"', "", '""', "", "", f'"{by.chart}"', "", "", '""', '""'),
    )
    return ";".join(fields)


def _row(one: Booking) -> str:
    amount = f"{one.cents // 100},{one.cents % 100:02d}"
    fields = (
        *(amount, '"S"', '"EUR"', "", "", '""', one.debit, one.credit, '""', f"{one.on:%d%m}"),
        *(_text(one.document, 36), '""', "", _text(one.text, 60)),
    )
    return ";".join(fields)


def _text(text: str, most: int) -> str:
    return '"' + text[:most].replace('"', "'") + '"'


def _check(wanted: Setting) -> None:
    limits = (
        ("consultant", wanted.consultant, 1001, 9_999_999),
        ("client", wanted.client, 1, 99_999),
        ("year_begins", wanted.year_begins, 1, 12),
        ("digits", wanted.digits, 4, 8),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise errors.BooksRefused(f"{name} is from {least} to {most}", code=name)
    if not re.fullmatch("[0-9]{2}", wanted.chart):
        raise errors.BooksRefused("chart has two digits, such as 03 or 04", code="chart")
    _check_accounts(wanted.accounts.items(), wanted.digits)


def _check_accounts(accounts: Iterable[tuple[str, str]], digits: int) -> None:
    for code, number in accounts:
        if not re.fullmatch("[a-z_]+(:[A-Za-z0-9_.:]+)?", code) or len(code) > 100:
            raise errors.BooksRefused(f"{code!r} is no account of ours", code="accounts")
        if not re.fullmatch("[0-9]+", number) or not digits <= len(number) <= digits + 1:
            text = f"{number!r} has not {digits} digits, or one more for a customer"
            raise errors.BooksRefused(text, code="accounts")
