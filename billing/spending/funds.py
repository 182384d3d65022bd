"""What an account can still pay, held as a hard budget of its organization that billing alone sets.

Prepaid: its credit, less open invoices and what it used and has no invoice yet. Post-paid with a
limit: the limit and its credit, less the same. Gateways' leases and the reservations
of device-seconds are bounded by that budget as by any other, so what cannot be paid does not scale
or stay warm, and what runs drains. Its amount is spending so far and what is still available;
`tend` sets it anew wherever that has changed by a cent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from django.db import connection, transaction
from django.db.models import F, Q, Sum

from billing.books import chart
from billing.credit import credits
from billing.invoices.models import Customer, Invoice, InvoiceKind, InvoiceState, Mode
from billing.models import Basis, Budget, BudgetWindow, Period, Subject, Unit
from billing.payments.allotting import claims
from billing.reports import costs
from billing.spending import budgets
from billing.vat.countries import standard_rate
from billing.vat.tables import UnknownRule
from compliance import audit

NANO = 10**9
WINDOW = "total"
THRESHOLDS = (80, 95, 100)  # percent
_PACE = timedelta(days=1)
_LATE = timedelta(days=31)  # beyond it, usage without an accrual is the reconciliation's


@dataclass(frozen=True)
class Whose:
    """The organization of an account. `pending`: nanoeuro of requests that are spent in its
    budgets and are not usage yet."""

    organization_id: str
    region: str
    pending: int = 0


@dataclass(frozen=True)
class Funds:
    """Nanoeuro without VAT. `whole`: what `available` was when nothing of it was used;
    `a_day`: what the last day used."""

    account_id: str
    mode: str
    whole: int
    available: int
    unbilled: int
    open: int  # cents of open invoices, VAT included
    a_day: int

    @property
    def used_percent(self) -> int:
        if self.whole <= 0:
            return 100
        return max(0, min(100, (self.whole - self.available) * 100 // self.whole))

    @property
    def days_left(self) -> Decimal | None:
        """At the pace of the last day; None where nothing was used."""
        if self.a_day <= 0:
            return None
        return (Decimal(max(0, self.available)) / self.a_day).quantize(Decimal("0.1"))


def bounded() -> list[Customer]:
    """The customers whose spending is bounded by what they can pay."""
    found = Customer.objects.filter(Q(mode=Mode.PREPAID) | Q(credit_limit__isnull=False))
    return list(found.select_related("entity").order_by("account_id"))


def of(customer: Customer, now: datetime, pending: int = 0) -> Funds:
    account_id = customer.account_id
    vat = 1 + _rate(customer, now) / 100
    credit = credits.balance(account_id, now)
    owed = _open(account_id)
    used = unbilled(account_id, now) + pending
    there = credit.free * chart.NANO_PER_CENT + _net(credit.bought, vat)
    granted = credits.granted(account_id, now)
    whole = granted.free * chart.NANO_PER_CENT + _net(granted.bought, vat)
    there -= _net(owed, vat)
    if customer.mode == Mode.POSTPAID:
        there += _net(customer.credit_limit or 0, vat)
        whole += _net(customer.credit_limit or 0, vat)
    return Funds(
        account_id,
        customer.mode,
        whole,
        there - used,
        used,
        owed,
        _used_between(account_id, now - _PACE, now),
    )


def unbilled(account_id: str, now: datetime) -> int:
    """Nanoeuro of usage that is on no invoice: accrued, or too new for that."""
    since = _accrued_to(account_id, now)
    return chart.accrued_until(account_id, since) + _used_between(account_id, since, now)


def tend(owners: Mapping[str, Whose], now: datetime) -> list[Funds]:
    """Set the budget of every customer with one, take away those of the others; what each has."""
    customers = [one for one in bounded() if one.account_id in owners]
    found = [_set(one, owners[one.account_id], now) for one in customers]
    kept = {owners[one.account_id].organization_id for one in customers}
    stale = Budget.objects.filter(by_billing=True, deleted_at=None)
    for budget in stale.exclude(organization_id__in=kept):
        region = next(
            (
                one.region
                for one in owners.values()
                if one.organization_id == budget.organization_id
            ),
            "",
        )
        with transaction.atomic():
            if Budget.objects.filter(pk=budget.pk, deleted_at=None).update(deleted_at=now):
                _tell(budget, "delete", region, now, ())
    return found


def _set(customer: Customer, whose: Whose, now: datetime) -> Funds:
    with budgets.alone(Subject.ORGANIZATION, whose.organization_id):
        budget, made = Budget.objects.get_or_create(
            organization_id=whose.organization_id,
            subject=Subject.ORGANIZATION,
            subject_id=whose.organization_id,
            unit=Unit.NANO_EUR,
            window=Period.TOTAL,
            by_billing=True,
            deleted_at=None,
            defaults={"amount": 0, "created_at": now},
        )
        BudgetWindow.objects.bulk_create(
            [BudgetWindow(budget=budget, window=WINDOW)], ignore_conflicts=True
        )
        # Metering settles in the transaction that records the usage, under this lock: from here
        # on both of them are seen, or neither.
        window = BudgetWindow.objects.select_for_update().get(budget=budget, window=WINDOW)
        funds = of(customer, now, whose.pending)
        amount = max(0, min(window.spent + funds.available, budgets.AMOUNT_MAX))
        if made or abs(amount - budget.amount) >= chart.NANO_PER_CENT or amount == 0:
            _write(budget, amount, "create" if made else "update", whose.region, now)
    return funds


def _write(budget: Budget, amount: int, verb: str, region: str, now: datetime) -> None:
    if budget.amount == amount and verb == "update":
        return
    change = audit.Change("amount", None if verb == "create" else budget.amount, amount)
    budget.amount = amount
    budget.save(update_fields=["amount"])
    _tell(budget, verb, region, now, [change, audit.Change("by", None, "billing")])


def _tell(
    budget: Budget,
    verb: str,
    region: str,
    now: datetime,
    change: list[audit.Change] | tuple[()],
) -> None:
    audit.record(
        actor=audit.SYSTEM,
        action=f"budget.{verb}",
        target=audit.Target("budget", budget.id),
        log=budget.organization_id,
        now=now,
        region=region,
        change=change,
    )


def _open(account_id: str) -> int:
    """Cents of invoices that are not paid, and of claims."""
    found = Invoice.objects.filter(account_id=account_id, state=InvoiceState.FINAL)
    mine = found.exclude(kind=InvoiceKind.CREDIT_NOTE)
    return int(mine.aggregate(owed=Sum(F("due") - F("settled")))["owed"] or 0) + claims(account_id)


def _rate(customer: Customer, now: datetime) -> Decimal:
    """The VAT that its invoices bear, in percent: at home the standard rate, elsewhere none."""
    if customer.country != customer.entity.country:
        return Decimal(0)
    try:
        return standard_rate(customer.country, now.astimezone(UTC).date())
    except UnknownRule:
        return Decimal(0)


def _net(gross: int, vat: Decimal) -> int:
    """Nanoeuro of usage that so many cents pay."""
    return int(Fraction(gross * chart.NANO_PER_CENT) / Fraction(vat))


def _accrued_to(account_id: str, now: datetime) -> datetime:
    """The end of the newest hour that was accrued; late usage within it follows soon."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(split_part(idempotency_key, ':', 3)::bigint)"
            " FROM billing_ledgertransaction WHERE idempotency_key LIKE %s AND kind = 'accrual'",
            [f"accrual:{account_id}:%".replace("_", r"\_")],
        )
        newest = cursor.fetchone()[0]
    if newest is None:
        return now - _LATE
    return datetime.fromtimestamp(newest, UTC) + timedelta(hours=1)


def _used_between(account_id: str, start: datetime, end: datetime) -> int:
    found = costs.by("hour", account_id, start=start, end=end)
    signs = {Basis.CHARGE: 1, Basis.CREDIT: -1}
    exact = (signs.get(Basis(line.basis), 0) * Decimal(line.exact) for line in found.lines)
    return int(sum(exact, Decimal(0)) * NANO)
