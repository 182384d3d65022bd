"""How much of budgets is spent, as far as it has arrived here, and when that is worth a word."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import DecimalField, F, Q, QuerySet, Sum
from django.db.models.functions import Cast, Greatest

from billing import windows
from billing.models import Budget, BudgetWindow, Lease, Subject
from compliance import audit

THRESHOLDS = (80, 100)  # percent
# Each run has a counter: its owner hears from its replies, not from the organization's log.
_TOLD = [each for each in Subject.values if each not in (Subject.RUN, Subject.ROOT)]
_RECENT = timedelta(days=1)  # longer than this task is ever away
_NOTHING = (0, 0)
_BATCH = 5_000
_OLD_LEASES = """
DELETE FROM billing_lease WHERE id IN (
    SELECT l.id FROM billing_budgetwindow w
    JOIN billing_lease l ON l.budget_id = w.budget_id AND l."window" = w."window"
    WHERE w.last_at < %s AND (l.closed_at IS NOT NULL OR l.granted <= l.settled) AND {free}
    LIMIT %s)"""
_OLD_COUNTERS = """
DELETE FROM billing_budgetwindow WHERE id IN (
    SELECT w.id FROM billing_budgetwindow w
    WHERE w.last_at < %s AND w."window" LIKE '%%/%%' AND NOT EXISTS (
        SELECT 1 FROM billing_lease l
        WHERE l.budget_id = w.budget_id AND l."window" = w."window") AND {free}
    LIMIT %s)"""
_FREE = "w.budget_id NOT IN (SELECT id FROM billing_budget WHERE organization_id = ANY(%s))"
_WIDE = DecimalField(max_digits=30, decimal_places=0)  # a hundred times an amount leaves 64 bits
_WIDE_AMOUNT = Cast("budget__amount", _WIDE)
_WIDE_SPENT = Cast("spent", _WIDE)


@dataclass(frozen=True)
class Status:
    """Of one counter. `outstanding`: what gateways and replicas hold of it, spent or not."""

    window: str
    spent: int
    calls: int
    outstanding: int
    remaining: int  # of the amount; the allowance is beyond it


def current(budgets: Iterable[Budget], now: datetime) -> dict[str, Status]:
    """The status in the window around `now`, by budget id.

    Not of agents and runs, which have a counter each: `of` lists those.
    """
    now_us = int(now.timestamp() * 1_000_000)
    mine = {
        budget.id: (budget, windows.window(budget.window, budget.time_zone, now_us).id)
        for budget in budgets
        if budget.subject not in (Subject.AGENT, Subject.RUN, Subject.ROOT)
    }
    return _statuses(mine)


def single(budgets: Iterable[Budget], of: str, now: datetime) -> dict[str, Status]:
    """The same of one agent or run, by its reference, in budgets that count each of them."""
    now_us = int(now.timestamp() * 1_000_000)
    mine = {
        budget.id: (budget, f"{windows.window(budget.window, budget.time_zone, now_us).id}/{of}")
        for budget in budgets
        if budget.name in ("", of)
    }
    return _statuses(mine)


def of(budget: Budget) -> QuerySet[BudgetWindow]:
    """Every window, and of agents and runs every one's; page them newest first."""
    return BudgetWindow.objects.filter(budget=budget)


def statuses(budget: Budget, rows: Iterable[BudgetWindow]) -> list[Status]:
    found = list(rows)
    held = outstanding([(budget.id, row.window) for row in found])
    return [
        _status(budget, row.window, row.spent, row.calls, held.get((budget.id, row.window), 0))
        for row in found
    ]


def outstanding(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """What open leases of (budget, window) have beyond what was settled."""
    wanted = list(pairs)
    if not wanted:
        return {}
    sums = (
        Lease.objects.filter(_either(wanted), closed_at=None)
        .values_list("budget_id", "window")
        .annotate(held=Sum(Greatest(F("granted") - F("settled"), 0)))
    )
    return {(budget, window): int(held) for budget, window, held in sums}


def crossed(now: datetime) -> list[tuple[BudgetWindow, int]]:
    """Counters that passed a threshold since it was last noted, and which."""
    found = []
    for percent in THRESHOLDS:
        rows = BudgetWindow.objects.filter(
            last_at__gte=now - _RECENT,
            noted__lt=percent,
            budget__deleted_at=None,
            budget__by_billing=False,  # told in a notice, with the days that are left
            budget__amount__gt=0,
            budget__subject__in=_TOLD,
        ).annotate(bound=_WIDE_AMOUNT * percent, hundredfold=_WIDE_SPENT * 100)
        rows = rows.filter(hundredfold__gte=F("bound"))
        found += [(row, percent) for row in rows.select_related("budget").order_by("id")]
    highest: defaultdict[int, int] = defaultdict(int)
    for row, percent in found:
        highest[row.id] = max(highest[row.id], percent)
    return [(row, percent) for row, percent in found if percent == highest[row.id]]


def note(row: BudgetWindow, percent: int, *, region: str, now: datetime) -> bool:
    """Say once a window that a threshold was passed; False where that was said already."""
    with transaction.atomic():
        mine = BudgetWindow.objects.filter(pk=row.pk, noted__lt=percent)
        if not mine.update(noted=percent):
            return False
        audit.record(
            actor=audit.SYSTEM,
            action="budget.threshold",
            target=audit.Target("budget", row.budget_id),
            log=row.budget.organization_id,
            now=now,
            region=region,
            change=[
                audit.Change("percent", None, percent),
                audit.Change("window", None, row.window),
                audit.Change("spent", None, row.spent),
            ],
        )
    return True


def prune(before: datetime, held: Sequence[str] = ()) -> int:
    """Removes what nobody counts any more: counters of runs and agents untouched since `before`,
    and leases without anything outstanding in windows as old, but for organizations in `held`.
    Returns the rows removed.

    A gateway that asks for such a lease again gets a new one; a run that goes on starts anew.
    """
    removed = 0
    with connection.cursor() as cursor:
        for statement in (_OLD_LEASES, _OLD_COUNTERS):
            while True:
                cursor.execute(statement.format(free=_FREE), [before, list(held), _BATCH])
                removed += cursor.rowcount
                if cursor.rowcount < _BATCH:
                    break
    return removed


def old(before: datetime, of: Sequence[str]) -> int:
    """How many counters of runs and agents of these organizations are as old."""
    rows = BudgetWindow.objects.filter(last_at__lt=before, budget__organization_id__in=of)
    return rows.filter(window__contains="/").count()


def _statuses(wanted: Mapping[str, tuple[Budget, str]]) -> dict[str, Status]:
    """By budget id, of each budget's window of that name; one that nobody counted in is unspent."""
    pairs = [(id, window) for id, (_, window) in wanted.items()]
    found = BudgetWindow.objects.filter(_either(pairs)) if pairs else BudgetWindow.objects.none()
    spent = {(row.budget_id, row.window): (row.spent, row.calls) for row in found}
    held = outstanding(pairs)
    return {
        id: _status(budget, window, *spent.get((id, window), _NOTHING), held.get((id, window), 0))
        for id, (budget, window) in wanted.items()
    }


def _either(pairs: Iterable[tuple[str, str]]) -> Q:
    found = Q()
    for budget, window in pairs:
        found |= Q(budget=budget, window=window)
    return found


def _status(budget: Budget, window: str, spent: int, calls: int, held: int) -> Status:
    return Status(window, spent, calls, held, max(0, budget.amount - spent))
