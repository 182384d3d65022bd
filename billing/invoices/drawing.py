"""What an account is to be billed for a month: its charges, late usage of before, zero egress.

Late usage lands here, on the next invoice: whatever was accrued for a month that was billed
already, as a dated adjustment of that month. Months whose draft still waits are drawn anew
instead, and what was credited is not billed again by itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from django.db import connection

from billing import months, rating, services
from billing.books import chart
from billing.invoices.models import InvoiceKind, InvoiceState
from billing.meters import rollup
from billing.models import Account, Invoice, InvoiceLine
from billing.pricing import agreements, charges, prices
from billing.pricing.charges import Charge, Terms
from billing.rating import PriceVersion

EGRESS = "egress"
FREE_CREDIT = "free_credit"
NANO = 10**9


@dataclass(frozen=True)
class Drawn:
    """`lines` in the order of the document. In units of 10^-9 of the currency, for the ledger:
    `accrued`, what it takes of the accruals of each month ("2026-03"); `discount`, what of that
    need not be paid; `extra`, what was never accrued, by the name of its revenue."""

    lines: tuple[Charge, ...]
    accrued: dict[str, int]
    discount: int
    extra: dict[str, int]

    @property
    def empty(self) -> bool:
        """Nothing but the egress line."""
        return all(line.kind == EGRESS for line in self.lines)

    @property
    def net(self) -> int:
        return sum(cents(line.amount) for line in self.lines)


def draw(
    account: Account, start: datetime, end: datetime, price_list: Sequence[PriceVersion]
) -> Drawn:
    """Raises `rating.Unpriced` where usage has no price, `terms.CurrencyMismatch`."""
    terms = agreements.of(account.id)
    open_ = open_accruals(account.id)
    own = _of_month(account, start, end, price_list, terms)
    discount, extra = unaccrued(own)
    accrued = {_key(start): open_.get(start, 0)}
    late: list[Charge] = []
    for month in sorted(month for month, amount in open_.items() if amount and month < start):
        lines = _late(account, month, price_list, terms)
        if lines is not None:
            late += lines
            accrued[_key(month)] = open_[month]
            if terms != Terms():
                # Late usage need not cost what it accrued: the rest is the terms' doing.
                exact = sum((line.exact for line in lines), Fraction(0))
                discount += open_[month] - units(exact)
    return Drawn((*own, *late, egress(start, end)), accrued, discount, extra)


def cents(amount: Decimal) -> int:
    return int(amount.scaleb(2))


def kept(invoice: Invoice) -> list[Charge]:
    """The lines of an invoice as they were charged, without egress and free credit."""
    return [as_charge(line) for line in invoice.lines.order_by("position") if _charged(line)]


def as_charge(line: InvoiceLine) -> Charge:
    return Charge(
        kind=line.kind,
        project_id=line.project_id,
        endpoint_id=line.endpoint_id,
        meter=line.meter,
        device_kind=line.device_kind,
        share=line.share,
        price_id=line.price_id,
        unit_amount=plain(line.unit_amount),
        unit_size=line.unit_size,
        quantity=line.quantity,
        exact=Fraction(line.exact),
        amount=Decimal(line.amount).scaleb(-2),
        start=line.start,
        end=line.end,
        note=line.note,
    )


def plain(amount: Decimal) -> Decimal:
    """Without the zeros that a column adds, and without an exponent."""
    short = amount.normalize()
    return short if int(short.as_tuple().exponent) <= 0 else short.quantize(Decimal(1))


def _charged(line: InvoiceLine) -> bool:
    return line.kind not in (EGRESS, FREE_CREDIT)


def _of_month(
    account: Account,
    start: datetime,
    end: datetime,
    price_list: Sequence[PriceVersion],
    terms: Terms,
) -> list[Charge]:
    month = charges.Month(
        price_list, account_id=account.id, currency=account.currency, start=start, end=end
    )
    for used in rollup.used(account.id, start, end, rating.changes(price_list)):
        month.add(used)
    return month.lines(terms)


def unaccrued(lines: Iterable[Charge]) -> tuple[int, dict[str, int]]:
    """(discount, extra) of a month's lines: what parts them from what its hours accrued."""
    discount = sum((one.exact for one in lines if one.kind in ("allowance", "tier")), Fraction(0))
    missing = sum((one.exact for one in lines if one.kind == "commitment"), Fraction(0))
    return -units(discount), {"commitment": units(missing)} if missing else {}


def units(exact: Fraction) -> int:
    """Of 10^-9, to the nearest."""
    return round(exact * NANO)


def _late(
    account: Account, month: datetime, price_list: Sequence[PriceVersion], terms: Terms
) -> list[Charge] | None:
    """The adjustments of a month that was billed before; None while it is still to be."""
    end = months.after(month)
    was = _billed(account, month, end)
    if was is None:
        return None
    now = _of_month(account, month, end, price_list, terms)
    note = f"late usage of {month:%B %Y}"
    return charges.adjustments(was, now, start=month, end=end, note=note)


def open_accruals(account_id: str) -> dict[datetime, int]:
    """What each month accrued and no invoice has taken yet. An invoice takes all that is there:
    what stands at a month that was billed came later."""
    with connection.cursor() as cursor:
        cursor.execute(_ACCRUED, [chart.unbilled(account_id), services.ACCRUAL])
        found = {month.astimezone(UTC): int(amount) for month, amount in cursor.fetchall()}
    taken = Invoice.objects.filter(account_id=account_id, kind=InvoiceKind.INVOICE)
    for accrued in taken.exclude(state=InvoiceState.DRAFT).values_list("accrued", flat=True):
        for key, amount in accrued.items():
            month = datetime.strptime(key, "%Y-%m").replace(tzinfo=UTC)
            found[month] = found.get(month, 0) - amount
    return found


# An accrual is told by the hour that it is of, which its key has: where the books of that hour
# are closed it is posted later.
_ACCRUED = """
SELECT date_trunc('month', to_timestamp(split_part(t.idempotency_key, ':', 3)::bigint), 'UTC'),
    sum(e.amount)
FROM billing_ledgeraccount a
JOIN billing_ledgerentry e ON e.account_id = a.id
JOIN billing_ledgertransaction t ON t.id = e.transaction_id
WHERE a.code = %s AND t.kind = %s GROUP BY 1
"""


def _key(month: datetime) -> str:
    return f"{month:%Y-%m}"


def _billed(account: Account, start: datetime, end: datetime) -> list[Charge] | None:
    """Every line that was billed for that month; None while a draft of it waits."""
    mine = Invoice.objects.filter(account=account, kind=InvoiceKind.INVOICE)
    of_month = list(mine.filter(period_start=start))
    if any(one.state == InvoiceState.DRAFT for one in of_month):
        return None
    replaced = [one.id for one in of_month if one.state == InvoiceState.CREDITED][
        : max(0, len(of_month) - 1)
    ]
    lines = InvoiceLine.objects.filter(
        invoice__account=account,
        invoice__kind=InvoiceKind.INVOICE,
        start__gte=start,
        start__lt=end,
    ).exclude(invoice__state=InvoiceState.DRAFT)
    found = lines.exclude(invoice_id__in=replaced).order_by("invoice_id", "position")
    return [as_charge(line) for line in found if _charged(line)]


def prices_now() -> list[PriceVersion]:
    """To be read once for many accounts."""
    return prices.versions()


def egress(start: datetime, end: datetime) -> Charge:
    """Traffic is on every invoice and costs nothing (Regulation (EU) 2023/2854, Art. 29)."""
    nothing = Decimal("0.00")
    return Charge(
        EGRESS, "", "", "", "", 1000, "", nothing, 1, 0, Fraction(0), nothing, start, end,
        "Traffic is not charged for, whatever its volume",
    )  # fmt: skip


def free_credit(amount: int, start: datetime, end: datetime) -> Charge:
    """`amount` cents of given credit, taken off before VAT."""
    given = Decimal(amount).scaleb(-2)
    return Charge(
        FREE_CREDIT, "", "", "", "", 1000, "", given, 1, -1, -Fraction(given), -given, start, end,
        "Credit given by us",
    )  # fmt: skip
