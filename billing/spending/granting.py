"""What many holders need of the same budgets is granted together: all or nothing to each.

The windows that are asked of are locked in their order, as by everybody who grants or settles, so
what is read after that stands until the grants are written. `share` is the rule; the rest asks
for so many rows at once that the number of statements does not depend on how many ask.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

EPOCH = "replica"  # a replica's leases end with it, one by one
_AT_ONCE = 1000  # holders; the windows are locked for as long as it takes to serve them

Counter = tuple[str, str]  # a budget's id and a window's


@dataclass(frozen=True)
class Need:
    """What one counter must have beyond what is settled: at least, and better."""

    counter: Counter
    least: int
    full: int


@dataclass(frozen=True)
class Held:
    """A lease, or what is not one yet."""

    id: int
    granted: int = 0
    settled: int = 0

    @property
    def left(self) -> int:
        return self.granted - self.settled


@dataclass(frozen=True)
class Grant:
    holder: str
    counter: Counter
    lease: Held
    left: int


def share(
    asked: Iterable[tuple[str, Sequence[Need]]],
    free: dict[Counter, int],
    held: Mapping[tuple[str, Counter], Held],
) -> tuple[list[Grant], set[str], set[Counter]]:
    """Who gets what, in the order in which they ask: the grants that change something, the
    holders that got not even their least, and so nothing, and the counters that fell short.

    `free` is what nobody holds; it is counted down. What a holder needs no longer it gives back.
    What it has it keeps, even where a budget has been cut to less.
    """
    grants: list[Grant] = []
    refused: set[str] = set()
    short: set[Counter] = set()
    for holder, needs in asked:
        mine = []
        for need in needs:
            if need.counter not in free:
                continue  # the budget was deleted meanwhile: it bounds nobody
            lease = held.get((holder, need.counter)) or Held(secrets.randbits(62) + 1)
            left = need.full
            if left > lease.left:
                there = free[need.counter] + max(lease.left, 0)
                left = max(lease.left, min(there, need.full))
            if left < need.full:
                short.add(need.counter)
            if left < need.least:
                refused.add(holder)
            mine.append(Grant(holder, need.counter, lease, left))
        if holder in refused:
            continue
        for one in mine:
            free[one.counter] -= max(one.left, 0) - max(one.lease.left, 0)
        grants += [one for one in mine if one.left != one.lease.left]
    return grants, refused, short


def grant(needs: Mapping[str, Sequence[Need]]) -> set[str]:
    """By holder, in the order of their names; returns those that were refused."""
    refused: set[str] = set()
    holders = sorted(holder for holder, some in needs.items() if some)
    for at in range(0, len(holders), _AT_ONCE):
        some = {holder: needs[holder] for holder in holders[at : at + _AT_ONCE]}
        with transaction.atomic(), connection.cursor() as cursor:
            refused |= _grant(cursor, some)
    return refused


def _grant(cursor: Any, needs: Mapping[str, Sequence[Need]]) -> set[str]:
    counters = sorted({need.counter for some in needs.values() for need in some})
    free = _locked(cursor, counters)
    held = _held(cursor, counters, list(needs))
    grants, refused, short = share(needs.items(), free, held)
    _write(cursor, grants)
    if short:
        # Others hold what is lacking: they give back what they do not use.
        payloads = [f"{budget} {window}" for budget, window in sorted(short)]
        cursor.execute("SELECT pg_notify('stoa_leases', p) FROM unnest(%s::text[]) p", [payloads])
    return refused


_COUNTERS = 'unnest(%s::text[], %s::text[]) AS c(budget, "window")'
_MAKE = f"""
INSERT INTO billing_budgetwindow (budget_id, "window", spent, calls)
SELECT c.budget, c."window", 0, 0 FROM {_COUNTERS} JOIN billing_budget b ON b.id = c.budget
ORDER BY 1, 2 ON CONFLICT DO NOTHING
"""
_LOCK = f"""
SELECT w.budget_id, w."window", b.amount + b.allowance - w.spent
FROM billing_budgetwindow w
JOIN {_COUNTERS} ON w.budget_id = c.budget AND w."window" = c."window"
JOIN billing_budget b ON b.id = w.budget_id
WHERE b.deleted_at IS NULL ORDER BY 1, 2 FOR UPDATE OF w
"""
_OUT = f"""
SELECT l.budget_id, l."window", sum(greatest(l.granted - l.settled, 0))
FROM billing_lease l JOIN {_COUNTERS} ON l.budget_id = c.budget AND l."window" = c."window"
WHERE l.closed_at IS NULL GROUP BY 1, 2
"""
_HELD = f"""
SELECT l.holder, l.budget_id, l."window", l.id, l.granted, l.settled
FROM billing_lease l JOIN {_COUNTERS} ON l.budget_id = c.budget AND l."window" = c."window"
WHERE l.closed_at IS NULL AND l.holder = ANY (%s) ORDER BY l.id
"""
# Only a settlement changes what is held, and that waits for the window; or its end, and a lease
# that has ended is nobody's.
_WRITE = """
INSERT INTO billing_lease AS l (id, budget_id, "window", holder, epoch, granted, settled, seq)
SELECT v.id, v.budget, v."window", v.holder, %s, v.granted, 0, 1
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[])
    AS v(id, budget, "window", holder, granted) ORDER BY v.id
ON CONFLICT (id) DO UPDATE SET granted = excluded.granted, seq = l.seq + 1
WHERE l.closed_at IS NULL
"""


def _locked(cursor: Any, counters: Sequence[Counter]) -> dict[Counter, int]:
    """What nobody holds of each window, none of which changes until the transaction ends."""
    columns = [[budget for budget, _ in counters], [window for _, window in counters]]
    cursor.execute(_MAKE, columns)
    cursor.execute(_LOCK, columns)
    free = {(budget, window): int(left) for budget, window, left in cursor.fetchall()}
    cursor.execute(_OUT, columns)
    for budget, window, out in cursor.fetchall():
        if (budget, window) in free:
            free[budget, window] -= int(out)
    return free


def _held(
    cursor: Any, counters: Sequence[Counter], holders: Sequence[str]
) -> dict[tuple[str, Counter], Held]:
    columns = [[budget for budget, _ in counters], [window for _, window in counters]]
    cursor.execute(_HELD, [*columns, list(holders)])
    return {
        (holder, (budget, window)): Held(id, granted, settled)
        for holder, budget, window, id, granted, settled in cursor.fetchall()
    }


def _write(cursor: Any, grants: Sequence[Grant]) -> None:
    if not grants:
        return
    columns = [
        [one.lease.id for one in grants],
        [one.counter[0] for one in grants],
        [one.counter[1] for one in grants],
        [one.holder for one in grants],
        [one.lease.settled + one.left for one in grants],
    ]
    cursor.execute(_WRITE, [EPOCH, *columns])
