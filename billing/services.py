"""The verbs of billing: open an account, accrue hours of usage."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import DatabaseError, connection, transaction

from billing import errors, months, rating
from billing.books import closing, ledger
from billing.meters import rollup
from billing.models import Account, Basis, LedgerTransaction
from billing.pricing import prices
from billing.reports import costs
from compliance import locks

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
ACCRUAL = "accrual"
SCALE = 9
REVENUE = "revenue:"
_SOON = timedelta(hours=6)
AT_ONCE = 500  # hours of accounts of one transaction
_ACCRUE = "accrue"  # held by who accrues, so that what an hour owes is posted once

_Pair = tuple[str, datetime]  # an account and an hour
_Units = dict[str, int]  # units of 10^-9 by meter


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
    """Posts what the usage of a past hour is worth, not yet invoiced, to the ledger.

    Debit unbilled:<account>, credit revenue:<meter>, at scale 9; what was given back counts
    against it. A repetition posts nothing; after late usage it posts the difference, as a further
    transaction of that hour, effective in the first month whose books are open. Usage without a
    price is reported in `unpriced` and accrued once a price for it exists. Raises
    `errors.UnknownAccount`, and ValueError for an hour that is not over.
    """
    start = hour_start(hour)
    if start + HOUR > now:
        raise ValueError(f"the hour of {start.isoformat()} is not over")
    with transaction.atomic():
        locks.hold(_ACCRUE)
        with connection.cursor() as cursor:
            cursor.execute(_TAKE_ONE, [start, account_id])
        (accrual,) = _accrue([(account_id, start)])
    _report([accrual])
    return accrual


def accrue_due(now: datetime, *, start: datetime | None = None, end: datetime | None = None) -> int:
    """Accrues every hour that is over and whose usage has changed since, however old it is (or
    with start <= hour < end); how many hours of accounts were posted.

    In many transactions, oldest first, with little memory; what was interrupted goes on at the next
    call. An hour that cannot be accrued is told in the log and tried again then; one without a
    price, when that is published.
    """
    posted, past = 0, (datetime.min.replace(tzinfo=UTC) if start is None else start, "")
    before = min(hour_start(now), end or now)
    while True:
        taken: list[_Pair] = []
        try:
            with transaction.atomic():
                locks.hold(_ACCRUE)
                taken = _take(past, before)
                accruals = _accrue(taken) if taken else []
        except (errors.BillingError, DatabaseError) as error:
            if not taken:
                raise
            log.error("some of %s hours cannot be accrued together: %s", len(taken), error)
            accruals = [one for pair in taken if (one := _try(pair, now))]
        if not taken:
            return posted
        _report(accruals)
        posted += sum(one.posted is not None for one in accruals)
        past = (taken[-1][1], taken[-1][0])


def unaccrued(start: datetime, end: datetime) -> list[tuple[str, datetime]]:
    """The (account, hour) pairs in start <= hour < end whose ledger may not say what they owe.

    Hours with usage that has no price are among them: `accrue_due` reports it once, and looks at
    them again when a price is published or more is used.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT account_id, hour FROM billing_usagedue WHERE hour >= %s AND hour < %s"
            " ORDER BY hour, account_id",
            [start, end],
        )
        return list(cursor)


@dataclass(frozen=True)
class Compared:
    """An hour's accruals beside its usage at its prices, in units of 10^-9."""

    account_id: str
    hour: datetime
    accrued: int
    due: int
    unpriced: tuple[costs.UnpricedUsage, ...]


def compare(start: datetime, end: datetime) -> Iterator[Compared]:
    """Every hour of an account in start <= hour < end that has usage or was accrued.

    But those of the last hours that wait for their accrual.
    """
    waiting = set(unaccrued(end - _SOON, end))
    with connection.cursor() as cursor:
        cursor.execute(_USED_OR_ACCRUED, {"start": start, "end": end})
        pairs = [pair for pair in cursor.fetchall() if pair not in waiting]
    versions = prices.versions()
    for at in range(0, len(pairs), AT_ONCE):
        some = pairs[at : at + AT_ONCE]
        accounts = Account.objects.in_bulk({account for account, _ in some})
        used: defaultdict[_Pair, list[rollup.HourSum]] = defaultdict(list)
        for one in rollup.of_hours(some):
            used[one.account_id, one.hour].append(one)
        accrued, _ = _accrued(some)
        for pair in some:
            due, unpriced = _due(used[pair], versions, accounts[pair[0]])
            posted = sum(accrued[pair].values())
            yield Compared(pair[0], pair[1], posted, sum(due.values()), unpriced)


def hour_start(moment: datetime) -> datetime:
    return rollup.hour_start(moment)


# Marks are taken away before sums are read: who adds usage then waits, and marks the hour anew.
# What is being added at this moment is left for the next run.
_TAKE = """
WITH due AS (
    SELECT hour, account_id FROM billing_usagedue
    WHERE (hour, account_id) > (%s, %s) AND hour < %s AND changed_at < 'infinity'
    ORDER BY hour, account_id LIMIT %s FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM billing_usagedue d USING due
    WHERE (d.hour, d.account_id) = (due.hour, due.account_id)
    RETURNING d.account_id, d.hour
) SELECT * FROM taken ORDER BY hour, account_id
"""
# An accrual's hour is in its key; it is effective then, or later where books are closed.
_USED_OR_ACCRUED = """
SELECT DISTINCT account_id, date_trunc('hour', bucket, 'UTC') FROM billing_usagehour
WHERE bucket >= %(start)s AND bucket < %(end)s AND basis IN ('charge', 'credit')
UNION
SELECT account_id, hour FROM (
    SELECT split_part(idempotency_key, ':', 2) AS account_id,
        to_timestamp(split_part(idempotency_key, ':', 3)::bigint) AS hour
    FROM billing_ledgertransaction WHERE kind = 'accrual' AND effective_at >= %(start)s
) accrued WHERE hour >= %(start)s AND hour < %(end)s
ORDER BY 2, 1
"""
_TAKE_ONE = "DELETE FROM billing_usagedue WHERE hour = %s AND account_id = %s"
# What has no price waits, until one is published or more is used: both set the time anew.
_WAIT = """
INSERT INTO billing_usagedue (hour, account_id, changed_at)
SELECT hour, account_id, 'infinity' FROM unnest(%s::timestamptz[], %s::text[]) _(hour, account_id)
ON CONFLICT DO NOTHING
"""
# By keys, which name the hour: one look-up by the index for patterns for each.
_ACCRUED = f"""
SELECT p.account_id, p.hour, t.id, a.code, e.amount
FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::text[]) p(account_id, hour, first, last)
CROSS JOIN LATERAL (
    SELECT id FROM billing_ledgertransaction
    WHERE idempotency_key ~>=~ p.first AND idempotency_key ~<~ p.last OFFSET 0
) t
JOIN billing_ledgerentry e ON e.transaction_id = t.id
JOIN billing_ledgeraccount a ON a.id = e.account_id AND starts_with(a.code, '{REVENUE}')
"""


def _take(past: tuple[datetime, str], before: datetime) -> list[_Pair]:
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [*past, before, AT_ONCE])
        return list(cursor)


def _try(pair: _Pair, now: datetime) -> Accrual | None:
    try:
        return accrue(*pair, now=now)
    except (errors.BillingError, DatabaseError) as error:
        log.error("%s: the hour of %s cannot be accrued: %s", *pair, error)
        return None


def _accrue(pairs: Sequence[_Pair]) -> list[Accrual]:
    """Of hours whose marks this transaction has taken."""
    accounts = Account.objects.in_bulk({account for account, _ in pairs})
    if missing := {account for account, _ in pairs} - accounts.keys():
        raise errors.UnknownAccount(", ".join(sorted(missing)))
    used: defaultdict[_Pair, list[rollup.HourSum]] = defaultdict(list)
    for one in rollup.of_hours(pairs):
        used[one.account_id, one.hour].append(one)
    accrued, numbers = _accrued(pairs)
    versions = prices.versions()
    opened = {
        month: closing.open_at(month) for month in {months.start_of(hour) for _, hour in pairs}
    }
    due, unpriced = {}, {}
    for pair in pairs:
        due[pair], unpriced[pair] = _due(used[pair], versions, accounts[pair[0]])
    postings = {}
    for pair in pairs:
        if entries := _entries(accounts[pair[0]], due[pair], accrued[pair]):
            key = f"{_prefix(pair)}{len(numbers[pair])}"
            at = max(pair[1], opened[months.start_of(pair[1])])
            postings[pair] = ledger.Posting(key, ACCRUAL, at, entries)
    posted = dict(zip(postings, ledger.post_new(list(postings.values())), strict=True))
    if again := [pair for pair in pairs if unpriced[pair]]:
        with connection.cursor() as cursor:
            cursor.execute(_WAIT, [[hour for _, hour in again], [account for account, _ in again]])
    return [
        Accrual(
            *pair,
            amount=Decimal(sum(due[pair].values())).scaleb(-SCALE),
            posted=posted.get(pair),
            unpriced=unpriced[pair],
        )
        for pair in pairs
    ]


def _due(
    used: Iterable[rollup.HourSum], versions: Sequence[rating.PriceVersion], account: Account
) -> tuple[_Units, tuple[costs.UnpricedUsage, ...]]:
    """Units of 10^-9 by meter; a meter that comes to nothing is left out."""
    units: defaultdict[str, int] = defaultdict(int)
    unpriced: list[costs.UnpricedUsage] = []
    parts: defaultdict[str, list[rating.Quantity]] = defaultdict(list)
    hour = ""
    for one in used:
        hour = f"{one.hour:%Y-%m-%dT%H:00:00Z}"
        quantity = rating.Quantity(one.meter, one.quantity, one.at, one.device_kind, one.share)
        parts[one.basis].append(quantity)
    for basis, quantities in parts.items():
        sign = -1 if basis == Basis.CREDIT else 1
        lines, without = rating.split(quantities, versions, account.currency, account.id)
        for line in lines:
            units[line.meter] += sign * int(rating.rounded(line.exact, SCALE).scaleb(SCALE))
        unpriced += [
            costs.UnpricedUsage(hour, basis, q.meter, q.device_kind, q.quantity, q.share)
            for q in without
        ]
    return {meter: amount for meter, amount in units.items() if amount}, tuple(unpriced)


def _prefix(pair: _Pair) -> str:
    account_id, hour = pair
    return f"{ACCRUAL}:{account_id}:{int(hour.timestamp())}:"


def _accrued(
    pairs: Sequence[_Pair],
) -> tuple[defaultdict[_Pair, _Units], defaultdict[_Pair, set[str]]]:
    """Units credited to revenue, by meter, and the transactions that did."""
    prefixes = [_prefix(pair) for pair in pairs]
    last = [f"{prefix[:-1]};" for prefix in prefixes]  # the character after the colon
    accrued: defaultdict[_Pair, _Units] = defaultdict(dict)
    numbers: defaultdict[_Pair, set[str]] = defaultdict(set)
    with connection.cursor() as cursor:
        accounts, hours = [account for account, _ in pairs], [hour for _, hour in pairs]
        cursor.execute(_ACCRUED, [accounts, hours, prefixes, last])
        for account, hour, posted, code, amount in cursor:
            meter, pair = code.removeprefix(REVENUE), (account, hour)
            accrued[pair][meter] = accrued[pair].get(meter, 0) - amount
            numbers[pair].add(posted)
    return accrued, numbers


def _entries(account: Account, due: _Units, accrued: _Units) -> list[ledger.Entry]:
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


def _report(accruals: Iterable[Accrual]) -> None:
    """Usage without a price: once for each account, with the first and the last hour."""
    lost = sorted((one for one in accruals if one.unpriced), key=lambda one: one.account_id)
    for account_id, of in itertools.groupby(lost, key=lambda one: one.account_id):
        hours = list(of)
        log.error(
            "%s: usage of %d hours from %s to %s has no price: %s",
            account_id,
            len(hours),
            min(one.hour for one in hours).isoformat(),
            max(one.hour for one in hours).isoformat(),
            sorted({(q.meter, q.device_kind) for one in hours for q in one.unpriced}),
        )
