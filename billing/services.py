"""The verbs of billing: open an account, accrue an hour of its usage."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection, transaction
from django.db.models import Sum

from billing import closing, costs, errors, ledger, prices, rating
from billing.models import Account, Basis, LedgerEntry, LedgerTransaction

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
ACCRUAL = "accrual"
SCALE = 9
REVENUE = "revenue:"

_Pair = tuple[str, datetime]  # an account and an hour
_ByHour = dict[_Pair, dict[str, int]]  # units of 10^-9 by meter


@dataclass(frozen=True)
class Accrual:
    """What an hour owes. `posted` is None where nothing had changed since the last time."""

    account_id: str
    hour: datetime
    amount: Decimal  # of the whole hour, nine decimals
    posted: LedgerTransaction | None
    unpriced: tuple[costs.UnpricedUsage, ...]


def open_account(*, name: str, now: datetime) -> Account:
    """A customer's account, in EUR. The organization that it is for is audited in tenancy."""
    return Account.objects.create(name=name, created_at=now)


def accrue(account_id: str, hour: datetime, *, now: datetime) -> Accrual:
    """Posts what the charged usage of a past hour is worth, not yet invoiced, to the ledger.

    Debit unbilled:<account>, credit revenue:<meter>, at scale 9. A repetition posts nothing;
    after late usage it posts the difference, as a further transaction of that hour, effective in
    the first month whose books are open. Usage
    without a price is reported in `unpriced` and accrued once a price for it exists. Raises
    `errors.UnknownAccount`, and ValueError for an hour that is not over.
    """
    start = hour_start(hour)
    if start + HOUR > now:
        raise ValueError(f"the hour of {start.isoformat()} is not over")
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"accrue:{account_id}"]
            )
        account = Account.objects.filter(pk=account_id).first()
        if account is None:
            raise errors.UnknownAccount(account_id)
        hourly = costs.by("hour", account_id, start=start, end=start + HOUR)
        charged = [line for line in hourly.lines if line.basis == Basis.CHARGE]
        due = _units((line.meter, Decimal(line.exact)) for line in charged)
        unpriced = tuple(one for one in hourly.unpriced if one.basis == Basis.CHARGE)
        if unpriced:
            log.error("%s: usage of %s has no price: %s", account_id, start, unpriced)
        prefix = f"{ACCRUAL}:{account_id}:{int(start.timestamp())}:"
        accrued = _accrued_by_hour(start, start + HOUR, account_id).get((account_id, start), {})
        posted = None
        entries = _entries(account, due, accrued)
        if entries:
            number = LedgerTransaction.objects.filter(idempotency_key__startswith=prefix).count()
            posted = ledger.post(
                idempotency_key=f"{prefix}{number}",
                kind=ACCRUAL,
                effective_at=closing.open_at(start),
                entries=entries,
            )
    amount = Decimal(sum(due.values())).scaleb(-SCALE)
    return Accrual(account_id, start, amount, posted, unpriced)


def unaccrued(start: datetime, end: datetime) -> list[tuple[str, datetime]]:
    """The (account, hour) pairs in start <= hour < end whose ledger does not say what they owe.

    Two queries for all accounts, so that a run that finds nothing to do is cheap. Hours with
    usage that has no price are among them: `accrue` reports it.
    """
    due, unpriced = _due_by_hour(start, end)
    accrued = _accrued_by_hour(start, end)
    changed = {pair for pair in due | accrued if due.get(pair) != accrued.get(pair)}
    return sorted(changed | unpriced, key=lambda pair: (pair[1], pair[0]))


def newest_accrual() -> datetime | None:
    """The hour that the newest accrual is of. Ids sort by birth: no need to scan the ledger."""
    newest = LedgerTransaction.objects.filter(kind=ACCRUAL).order_by("-id").first()
    return _hour_of(newest.idempotency_key) if newest else None


def hour_start(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _due_by_hour(start: datetime, end: datetime) -> tuple[_ByHour, set[_Pair]]:
    versions = prices.versions()
    quantities: defaultdict[_Pair, list[rating.Quantity]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT account_id, date_trunc('hour', at, 'UTC'), meter, device_kind,"
            " share, sum(quantity)::bigint, min(at) FROM billing_usageevent"
            " WHERE at >= %s AND at < %s AND basis = %s GROUP BY 1, 2, 3, 4, 5, "
            + costs.PRICE_SEGMENT,
            [start, end, Basis.CHARGE, costs.price_changes(versions)],
        )
        for account_id, hour, meter, device_kind, share, quantity, at in cursor:
            used = rating.Quantity(meter, quantity, at, device_kind, share)
            quantities[account_id, hour].append(used)
    currencies = dict(Account.objects.values_list("id", "currency"))
    due: _ByHour = {}
    unpriced = set()
    for pair, used_then in quantities.items():
        lines, without = rating.split(used_then, versions, currencies.get(pair[0], "EUR"), pair[0])
        due[pair] = _units((line.meter, rating.rounded(line.exact, SCALE)) for line in lines)
        if without:
            unpriced.add(pair)
    return due, unpriced


def _accrued_by_hour(start: datetime, end: datetime, account_id: str = "") -> _ByHour:
    """Units credited to revenue, by meter, for each hour of the account, or of all accounts."""
    rows = (
        LedgerEntry.objects.filter(
            transaction__idempotency_key__startswith=f"{ACCRUAL}:{account_id}",
            transaction__kind=ACCRUAL,
            # Not before its hour: what came when the books of that were closed is effective later.
            transaction__effective_at__gte=start,
            account__code__startswith=REVENUE,
        )
        .values_list("transaction__idempotency_key", "account__code")
        .annotate(total=Sum("amount"))
    )
    accrued: defaultdict[_Pair, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, code, total in rows:
        if start <= (hour := _hour_of(key)) < end:
            accrued[key.split(":")[1], hour][code.removeprefix(REVENUE)] -= int(total)
    return {pair: dict(meters) for pair, meters in accrued.items()}


def _hour_of(key: str) -> datetime:
    return datetime.fromtimestamp(int(key.split(":")[2]), UTC)


def _units(amounts: Iterable[tuple[str, Decimal]]) -> dict[str, int]:
    """Units of 10^-9 by meter; a meter that comes to nothing is left out."""
    units: defaultdict[str, int] = defaultdict(int)
    for meter, amount in amounts:
        units[meter] += int(amount.scaleb(SCALE))
    return {meter: amount for meter, amount in units.items() if amount}


def _entries(account: Account, due: dict[str, int], accrued: dict[str, int]) -> list[ledger.Entry]:
    changes = {
        meter: due.get(meter, 0) - accrued.get(meter, 0) for meter in sorted({*due, *accrued})
    }
    entries = [
        ledger.Entry(f"{REVENUE}{meter}", -change, account.currency, SCALE)
        for meter, change in changes.items()
        if change
    ]
    if total := sum(changes.values()):
        entries.append(ledger.Entry(f"unbilled:{account.id}", total, account.currency, SCALE))
    return entries
