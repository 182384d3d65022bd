"""What each kind of device brought in, over all accounts: the revenue side of a margin.

Of an account whose month was invoiced, it is what its invoices say for that month, late usage on
later ones included: with all that was agreed, with rounding and credit given. So the revenue of a
closed month is what was invoiced for it, net. Of the others it is what an invoice would say now;
credit given is taken off only where it is used.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

from django.db import connection

from billing import rating
from billing.invoices.models import InvoiceKind, InvoiceState
from billing.meters import rollup
from billing.models import Account, Basis, Invoice, InvoiceLine, Term
from billing.pricing import agreements, charges, prices
from billing.pricing.terms import CurrencyMismatch
from billing.reports import margin

_SUMS = """
SELECT account_id, meter, device_kind, share, basis, sum(quantity)::bigint, min(bucket)
FROM billing_usagehour WHERE bucket >= %s AND bucket < %s AND basis <> %s
GROUP BY 1, 2, 3, 4, 5, width_bucket(bucket, ARRAY['-infinity'::timestamptz] || %s::timestamptz[])
"""
_ByKind = defaultdict[str, Fraction]


class _Used(NamedTuple):
    """One sum at its price; `sign`: below zero where it was given back."""

    account_id: str
    device_kind: str
    sign: int
    seconds: Fraction
    amount: Fraction


def of(start: datetime, end: datetime) -> list[margin.Sold]:
    """By kind of device, of the month from `start` to before `end`: seconds that were charged for,
    and what they and the tokens of shared endpoints on them brought in. "" has what is of no kind:
    tokens, monthly minimums, credit given. What has no price brought nothing in."""
    versions = prices.versions()
    billed, invoices = _billed(start, end)
    agreed = _agreed(start, end, versions, billed)
    seconds, revenue, returned = _ByKind(Fraction), _ByKind(Fraction), _ByKind(Fraction)
    for used in _usage(start, end, versions):
        seconds[used.device_kind] += used.sign * used.seconds
        revenue[used.device_kind] += 0  # a kind that was used has a row, whatever it brought in
        if used.sign < 0:
            returned[used.device_kind] += used.amount
        if used.account_id not in billed and used.account_id not in agreed:
            revenue[used.device_kind] += used.sign * used.amount
    for found in (invoices, *agreed.values()):
        for kind, amount in found.items():
            revenue[kind] += amount
    return [margin.Sold(kind, seconds[kind], revenue[kind], returned[kind]) for kind in revenue]


def _usage(
    start: datetime, end: datetime, versions: Sequence[rating.PriceVersion]
) -> Iterator[_Used]:
    currencies = dict(Account.objects.values_list("id", "currency"))
    tables: dict[str, rating.PriceTable] = {}
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [start, end, Basis.ATTRIBUTION, rating.changes(versions)])
        for account_id, meter, kind, share, basis, quantity, at in cursor:
            if account_id not in tables:
                currency = currencies.get(account_id, "EUR")
                tables[account_id] = rating.PriceTable(versions, currency, account_id)
            price = tables[account_id].at(meter, kind, at)
            if price is None:
                continue
            timed = meter in rating.SECONDS
            yield _Used(
                account_id,
                kind,
                -1 if basis == Basis.CREDIT else 1,
                Fraction(quantity * share, rating.WHOLE) if timed else Fraction(0),
                rating.exact_amount(quantity, price, share),
            )


def _billed(start: datetime, end: datetime) -> tuple[set[str], dict[str, Fraction]]:
    """The accounts whose month was invoiced, and what is on invoices for it; what was credited
    brought nothing in."""
    final = Invoice.objects.filter(kind=InvoiceKind.INVOICE).exclude(state=InvoiceState.DRAFT)
    accounts = set(final.filter(period_start=start).values_list("account_id", flat=True))
    lines = InvoiceLine.objects.filter(
        invoice__in=final.exclude(state=InvoiceState.CREDITED),
        invoice__account__in=accounts,
        start__gte=start,
        start__lt=end,
    )
    found = _ByKind(Fraction)
    for kind, cents in lines.values_list("device_kind", "amount").iterator():
        found[kind] += Fraction(cents, 100)
    return accounts, found


def _agreed(
    start: datetime, end: datetime, versions: Sequence[rating.PriceVersion], billed: set[str]
) -> dict[str, dict[str, Fraction]]:
    """What is owed by those who have agreed something, by account and kind, as far as their
    invoices are still to come. Where one cannot be drawn, its usage stands at its prices."""
    having = Term.objects.filter(valid_from__lt=end).exclude(account__in=billed)
    accounts = Account.objects.filter(id__in=having.values("account_id"))
    found = {}
    for account in accounts:
        month = charges.Month(
            versions, account_id=account.id, currency=account.currency, start=start, end=end
        )
        try:
            for used in rollup.used(account.id, start, end, rating.changes(versions)):
                month.add(used)
            lines = month.lines(agreements.of(account.id))
        except (rating.Unpriced, CurrencyMismatch):
            continue
        by_kind = _ByKind(Fraction)
        for line in lines:
            by_kind[line.device_kind] += Fraction(line.amount)
        found[account.id] = dict(by_kind)
    return found
