"""What an account used and owes, hour by hour, as rows to load elsewhere: plain, or as FOCUS.

Rows come as they are read; a month of millions of them takes no memory. Amounts are at the prices
that held; what an invoice makes of them beyond that (allowances, tiers, rounding, VAT) is in the
FOCUS rows of a month that was invoiced.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from django.db import connection

from billing import rating
from billing.invoices.models import InvoiceKind, InvoiceState
from billing.models import Account, Basis, Customer, Invoice, InvoiceLine
from billing.pricing import prices
from billing.reports import focus

COLUMNS = (
    *("hour", "project", "endpoint", "key", "agent", "region", "meter", "basis", "device_kind"),
    *("share", "quantity", "price", "unit_amount", "unit_size", "currency", "amount"),
)
_HOUR = timedelta(hours=1)
_PLACES = 12
_READ = """
SELECT bucket, project_id, endpoint_id, key_id, agent, region, meter, basis, device_kind, share,
       quantity
FROM billing_usagehour WHERE account_id = %s AND bucket >= %s AND bucket < %s{narrowed}
ORDER BY bucket, project_id, endpoint_id, key_id, agent, region, meter, basis, device_kind, share
"""
# How FOCUS calls what a line beside usage is.
_CATEGORIES = {"allowance": "Credit", "tier": "Credit", "commitment": "Adjustment"}


@dataclass(frozen=True)
class Hour:
    """One sum of usage. `price` is None where nothing priced it: that is owed nowhere yet."""

    price: rating.PriceVersion | None
    at: datetime
    project_id: str
    endpoint_id: str
    key_id: str
    agent: str
    region: str
    meter: str
    basis: str
    device_kind: str
    share: int
    quantity: int

    @property
    def exact(self) -> Fraction:
        """At its price; what is given back is below zero."""
        if self.price is None:
            return Fraction(0)
        sign = -1 if self.basis == Basis.CREDIT else 1
        return sign * rating.exact_amount(self.quantity, self.price, self.share)


def hours(
    account: Account, start: datetime, end: datetime, project_id: str | None = None
) -> Iterator[Hour]:
    """Oldest first, start <= t < end; `project_id`: only of that project."""
    table = rating.PriceTable(
        prices.versions(account.currency, account.id), account.currency, account.id
    )
    narrowed = "" if project_id is None else " AND project_id = %s"
    arguments: list[str | datetime] = [account.id, start, end]
    arguments += [] if project_id is None else [project_id]
    with connection.chunked_cursor() as cursor:
        cursor.execute(_READ.format(narrowed=narrowed), arguments)
        while some := cursor.fetchmany(2_000):
            for row in some:
                yield Hour(table.at(row[6], row[8], row[0]), *row)


def rows(
    account: Account, start: datetime, end: datetime, project_id: str | None = None
) -> Iterator[tuple[str, ...]]:
    """In the order of COLUMNS, as text."""
    for one in hours(account, start, end, project_id):
        price = one.price
        yield (
            focus.stamp(one.at),
            *(one.project_id, one.endpoint_id, one.key_id, one.agent, one.region),
            *(one.meter, one.basis, one.device_kind, str(one.share), str(one.quantity)),
            price.id if price else "",
            f"{price.amount:f}" if price else "",
            str(rating.UNITS_PER_PRICE[one.meter]),
            account.currency,
            f"{rating.rounded(one.exact, _PLACES):f}" if price else "",
        )


def focus_rows(
    account: Account, start: datetime, end: datetime, names: focus.Names
) -> Iterator[tuple[focus.Value, ...]]:
    """A month in FOCUS's columns: what is charged or given back, never what only attributes."""
    versions = prices.versions(account.currency, account.id)
    listed = rating.PriceTable(versions, account.currency)
    turns = rating.changes(versions)
    invoice = _invoice(account, start)
    bill = _bill(account, start, end, invoice)
    total = Fraction(0)
    for one in hours(account, start, end):
        if one.basis == Basis.ATTRIBUTION or one.price is None:
            continue
        used = _used(one, one.price, listed, turns)
        total += focus.cost(used)
        yield from focus.rows(bill, names, [used])
    if invoice is not None:
        extras = _extras(invoice)
        demanded = Decimal(invoice.due).scaleb(-2)
        extras.append(focus.rounding(bill, total, extras, demanded))
        yield from focus.rows(bill, names, [], extras)


def _used(
    one: Hour, price: rating.PriceVersion, listed: rating.PriceTable, turns: list[datetime]
) -> focus.Used:
    hour = one.at.replace(minute=0, second=0, microsecond=0) + _HOUR
    after = bisect_right(turns, one.at)  # a price that starts within the hour ends this sum
    until = min(hour, turns[after]) if after < len(turns) else hour
    return focus.Used(
        at=one.at,
        until=until,
        project_id=one.project_id,
        endpoint_id=one.endpoint_id,
        key_id=one.key_id,
        agent=one.agent,
        region=one.region,
        quantity=one.quantity,
        price=price,
        listed=listed.at(one.meter, one.device_kind, one.at) or price,
        share=one.share,
        credit=one.basis == Basis.CREDIT,
    )


def _invoice(account: Account, start: datetime) -> Invoice | None:
    """The month's final invoice, if nothing took it back."""
    live = Invoice.objects.filter(account=account, kind=InvoiceKind.INVOICE, period_start=start)
    return live.exclude(state__in=(InvoiceState.DRAFT, InvoiceState.CREDITED)).first()


def _bill(account: Account, start: datetime, end: datetime, invoice: Invoice | None) -> focus.Bill:
    customer = Customer.objects.filter(account=account).select_related("entity").first()
    issuer = (invoice and invoice.entity) or (customer and customer.entity)
    return focus.Bill(
        account_id=account.id,
        account_name=customer.legal_name if customer else account.name,
        currency=account.currency,
        start=start,
        end=end,
        issuer=issuer.name if issuer else "Stoa",
        invoice=invoice.label if invoice else "",
    )


def _extras(invoice: Invoice) -> list[focus.Extra]:
    """What the invoice says beside usage, its VAT and what was paid before included."""
    lines = list(InvoiceLine.objects.filter(invoice=invoice).order_by("position"))
    found = [_extra(line) for line in lines if line.kind not in ("usage", "credit", "egress")]
    rest = {
        "Credit": ("Credit granted", invoice.net - sum(line.amount for line in lines)),
        "Tax": ("VAT", invoice.vat),
        "Adjustment": ("Paid in advance", -invoice.prepaid),
    }
    found += [
        focus.Extra(
            category, text, Decimal(cents).scaleb(-2), invoice.period_start, invoice.period_end
        )
        for category, (text, cents) in rest.items()
        if cents
    ]
    return found


def _extra(line: InvoiceLine) -> focus.Extra:
    return focus.Extra(
        category=_CATEGORIES.get(line.kind, "Adjustment"),
        text=line.note or line.kind,
        amount=Decimal(line.amount).scaleb(-2),
        start=line.start,
        end=line.end,
        project_id=line.project_id,
        endpoint_id=line.endpoint_id,
        correction=line.kind == "adjustment",
    )
