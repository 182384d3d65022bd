"""What replicas cost is reserved ahead from the books that gateways ask too, and settled once.

A dedicated endpoint's seconds are paid by the budgets in euro of its organization and project.
Its replica is the holder of their leases: `reserve` before it is made and while it serves,
`settle` in the transaction that meters it, `close` when all that it served is settled. What the
platform gives back of it is `give_back` to the same budgets.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from django.db import connection
from django.db.models import Q

from billing import rating, windows
from billing.models import Budget, Lease, Subject, Unit
from billing.pricing import prices
from billing.spending import granting
from billing.spending.granting import Need

HOLDER = "rep_"
_NANO = 10**9
_MICROSECOND = timedelta(microseconds=1)
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Payer:
    """Whose budgets pay, and for what: so many devices of a kind, or thousandths of one."""

    organization_id: str
    project_id: str
    device_kind: str
    devices: int
    share: int = rating.WHOLE
    account_id: str = ""  # whose own prices hold


@dataclass(frozen=True)
class Ask:
    """To hold what serving from `since` (all before it is settled) to `until` costs; what it
    costs to `least` is enough for now."""

    holder: str
    payer: Payer
    since: datetime
    least: datetime
    until: datetime


def payable(payers: Iterable[Payer]) -> dict[tuple[str, str], list[Budget]]:
    """The live budgets in euro of each (organization, project)."""
    pairs = {(payer.organization_id, payer.project_id) for payer in payers}
    organizations, projects = {one for one, _ in pairs}, {one for _, one in pairs}
    live = Budget.objects.filter(
        Q(subject=Subject.ORGANIZATION, subject_id__in=organizations)
        | Q(subject=Subject.PROJECT, subject_id__in=projects),
        unit=Unit.NANO_EUR,
        deleted_at=None,
    )
    of: defaultdict[str, list[Budget]] = defaultdict(list)
    for budget in live:
        of[budget.subject_id].append(budget)
    return {pair: [*of[pair[0]], *of[pair[1]]] for pair in pairs}


def reserve(asks: Iterable[Ask], budgets: Mapping[tuple[str, str], Sequence[Budget]]) -> set[str]:
    """Hold what each holder asks for, on every hard budget of its payer or on none; returns those
    that have not even their least.

    One organization's after the other, all of it together. What was held before for a longer
    time than is asked now is given back. `budgets`: as `payable` says.
    """
    versions = prices.versions("EUR")
    needs: defaultdict[str, dict[str, list[Need]]] = defaultdict(dict)
    for ask in asks:
        payer = ask.payer
        hard = [one for one in budgets[payer.organization_id, payer.project_id] if one.hard]
        price = _dearest(versions, payer, ask.since, ask.until) if hard else None
        if price is None:
            continue  # what has no price yet cannot be bounded; accruing says so aloud
        needs[payer.organization_id][ask.holder] = [
            Need((budget.id, window), _cost(price, payer, short), _cost(price, payer, long))
            for budget in hard
            for window, short, long in _spans(budget, ask.since, ask.least, ask.until)
        ]
    refused: set[str] = set()
    for organization_id in sorted(needs):
        refused |= granting.grant(needs[organization_id])
    return refused


def covered(holders: Collection[str], budgets: Iterable[Budget]) -> dict[tuple[str, str, str], int]:
    """What each (holder, budget, window) has beyond what is settled."""
    rows = Lease.objects.filter(
        holder__in=holders, budget__in=[one.id for one in budgets], closed_at=None
    )
    return {(one.holder, one.budget_id, one.window): one.granted - one.settled for one in rows}


def lasts(
    holder: str,
    payer: Payer,
    budgets: Sequence[Budget],
    held: dict[tuple[str, str, str], int],
    versions: Sequence[rating.PriceVersion],
    *,
    since: datetime,
    until: datetime,
) -> bool:
    """Whether what is held pays for serving from `since` to `until`."""
    price = _dearest(versions, payer, since, until)
    return price is None or all(
        held.get((holder, budget.id, window), 0) >= _cost(price, payer, seconds)
        for budget in budgets
        if budget.hard
        for window, seconds, _ in _spans(budget, since, until, until)
    )


@dataclass(frozen=True)
class Served:
    """What one replica served, of the payer's share: (when, device-seconds, meter) each."""

    holder: str
    payer: Payer
    pieces: Sequence[tuple[datetime, int, str]]


def settle(served: Sequence[Served]) -> None:
    """Spend what replicas served, in the caller's transaction and in statements for all of them.

    Every budget counts it; a hard one from the replica's lease, where it has one.
    """
    found = payable(one.payer for one in served if one.pieces)
    if not any(found.values()):
        return
    versions = prices.versions("EUR")
    sums: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for one in served:
        for at, seconds, meter in one.pieces:
            price = _price(versions, one.payer, at, meter)
            cost = 0
            if price is not None:
                exact = rating.exact_amount(seconds, price, one.payer.share)
                cost = math.ceil(exact * _NANO)
            for budget in found[one.payer.organization_id, one.payer.project_id]:
                sums[budget.id, _window(budget, at).id, one.holder] += cost
    _spend({key: cost for key, cost in sums.items() if cost})


def give_back(served: Served) -> None:
    """Take from what is spent what `settle` spent of these pieces, in the caller's transaction and
    once: they are not owed. Of budgets that are older than a piece: no other can have counted it.

    Rounded down where `settle` rounds up, so never more than that. What gateways and replicas hold
    is not touched: there is more to ask for.
    """
    found = payable([served.payer])[served.payer.organization_id, served.payer.project_id]
    versions = prices.versions("EUR") if found else []
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    for at, seconds, meter in served.pieces:
        price = _price(versions, served.payer, at, meter)
        if price is None:
            continue
        cost = math.floor(rating.exact_amount(seconds, price, served.payer.share) * _NANO)
        for budget in found:
            if budget.created_at <= at:
                sums[budget.id, _window(budget, at).id] += cost
    with connection.cursor() as cursor:
        for (budget_id, window), cost in sorted(sums.items()):
            cursor.execute(
                "UPDATE billing_budgetwindow SET spent = GREATEST(0, spent - %s)"
                ' WHERE budget_id = %s AND "window" = %s',
                [cost, budget_id, window],
            )


def _spend(sums: dict[tuple[str, str, str], int]) -> None:
    """By budget, window and holder. Windows in their order, then leases: as everybody who takes
    both."""
    windows: defaultdict[tuple[str, str], int] = defaultdict(int)
    for (budget_id, window, _), cost in sums.items():
        windows[budget_id, window] += cost
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO billing_budgetwindow AS w (budget_id, "window", spent, calls)'
            ' SELECT v.budget, v."window", v.spent, 0'
            ' FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS v(budget, "window", spent)'
            ' ORDER BY v.budget, v."window" ON CONFLICT (budget_id, "window")'
            " DO UPDATE SET spent = w.spent + excluded.spent, last_at = now()",
            _columns([(*key, cost) for key, cost in windows.items()], 3),
        )
        cursor.execute(
            "UPDATE billing_lease l SET settled = l.settled + v.amount"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[])"
            ' AS v(budget, "window", holder, amount)'
            ' WHERE l.budget_id = v.budget AND l."window" = v."window"'
            " AND l.holder = v.holder AND l.closed_at IS NULL",
            _columns([(*key, cost) for key, cost in sums.items()], 4),
        )


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]


def holders() -> list[str]:
    """Replicas that hold something."""
    mine = Lease.objects.filter(holder__startswith=HOLDER, closed_at=None)
    return list(mine.order_by().values_list("holder", flat=True).distinct())


def close(gone: Collection[str], *, now: datetime) -> int:
    """All that these replicas served is settled: they hold nothing any more."""
    return Lease.objects.filter(holder__in=gone, closed_at=None).update(closed_at=now)


def _spans(
    budget: Budget, since: datetime, least: datetime, until: datetime
) -> Iterator[tuple[str, Fraction, Fraction]]:
    """Each window from `since` on, with the seconds in it up to `least` and up to `until`."""
    at = since
    while at < until:
        window = _window(budget, at)
        end = until
        if window.ends_us < windows.ALWAYS_US:
            end = min(until, _UNIX + window.ends_us * _MICROSECOND)
        yield window.id, _seconds(at, min(max(least, at), end)), _seconds(at, end)
        at = end


def _seconds(start: datetime, end: datetime) -> Fraction:
    return Fraction((end - start) // _MICROSECOND, 1_000_000)


def _window(budget: Budget, at: datetime) -> windows.Window:
    return windows.window(budget.window, budget.time_zone, (at - _UNIX) // _MICROSECOND)


def _price(
    versions: Sequence[rating.PriceVersion], payer: Payer, at: datetime, meter: str
) -> rating.PriceVersion | None:
    return rating.price_at(versions, meter, payer.device_kind, at, "EUR", payer.account_id)


def _dearest(
    versions: Sequence[rating.PriceVersion], payer: Payer, since: datetime, until: datetime
) -> rating.PriceVersion | None:
    """Of the prices of a second, however warm, in force at some time in between."""
    table = rating.PriceTable(versions, "EUR", payer.account_id)
    found = [
        price
        for meter in rating.SECONDS
        for _, _, price in table.spans(meter, payer.device_kind, since, until)
        if price is not None
    ]
    return max(found, key=lambda one: one.amount, default=None)


def _cost(price: rating.PriceVersion, payer: Payer, seconds: Fraction) -> int:
    """Nanoeuro, rounded up as `settle` does for each minute, and for each of its meters."""
    whole = math.ceil(seconds)
    exact = rating.exact_amount(whole * payer.devices, price, payer.share) * _NANO
    return math.ceil(exact) + 2 * (whole // 60) + 4
