"""The verbs of billing: open an account, accrue an hour of its usage."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection, transaction
from django.db.models import Sum

from billing import costs, errors, ledger
from billing.models import Account, Basis, LedgerEntry, LedgerTransaction

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
ACCRUAL = "accrual"
SCALE = 9


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
    after late usage it posts the difference, as a further transaction of that hour. Usage
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
        due = _due(line for line in hourly.lines if line.basis == Basis.CHARGE)
        unpriced = tuple(one for one in hourly.unpriced if one.basis == Basis.CHARGE)
        if unpriced:
            log.error("%s: usage of %s has no price: %s", account_id, start, unpriced)
        prefix = f"{ACCRUAL}:{account_id}:{int(start.timestamp())}:"
        accrued = _accrued(prefix)
        posted = None
        entries = _entries(account, due, accrued)
        if entries:
            number = LedgerTransaction.objects.filter(idempotency_key__startswith=prefix).count()
            posted = ledger.post(
                idempotency_key=f"{prefix}{number}",
                kind=ACCRUAL,
                effective_at=start,
                entries=entries,
            )
    amount = Decimal(sum(due.values())).scaleb(-SCALE)
    return Accrual(account_id, start, amount, posted, unpriced)


def accruable(start: datetime, end: datetime) -> list[tuple[str, datetime]]:
    """The (account, hour) pairs with charged usage in start <= at < end, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT account_id, date_trunc('hour', at, 'UTC') FROM billing_usageevent"
            " WHERE at >= %s AND at < %s AND basis = %s ORDER BY 2, 1",
            [start, end, Basis.CHARGE],
        )
        return [(account_id, hour) for account_id, hour in cursor]


def newest_accrual() -> datetime | None:
    """The hour that the newest accrual is of. Ids sort by birth: no need to scan the ledger."""
    newest = LedgerTransaction.objects.filter(kind=ACCRUAL).order_by("-id").first()
    return newest.effective_at if newest else None


def hour_start(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _due(charged: Iterable[costs.CostLine]) -> dict[str, int]:
    """Units of 10^-9 by meter: lines show exactly as many decimals."""
    due: defaultdict[str, int] = defaultdict(int)
    for line in charged:
        due[line.meter] += int(Decimal(line.exact).scaleb(SCALE))
    return dict(due)


def _accrued(prefix: str) -> dict[str, int]:
    """Units already credited to revenue for this account and hour, by meter."""
    rows = (
        LedgerEntry.objects.filter(
            transaction__idempotency_key__startswith=prefix, account__code__startswith="revenue:"
        )
        .values("account__code")
        .annotate(total=Sum("amount"))
    )
    return {row["account__code"].removeprefix("revenue:"): -int(row["total"]) for row in rows}


def _entries(account: Account, due: dict[str, int], accrued: dict[str, int]) -> list[ledger.Entry]:
    changes = {
        meter: due.get(meter, 0) - accrued.get(meter, 0) for meter in sorted({*due, *accrued})
    }
    entries = [
        ledger.Entry(f"revenue:{meter}", -change, account.currency, SCALE)
        for meter, change in changes.items()
        if change
    ]
    if total := sum(changes.values()):
        entries.append(ledger.Entry(f"unbilled:{account.id}", total, account.currency, SCALE))
    return entries
