"""Whose turn it is among all workers of a host: each endpoint's queue as they see it together.

Each worker queues its own clients' requests. In the table that they share stands how many wait at
each, what their projects were served, and who is first at each. Who is not the first of all leaves
free room to the other worker, which looks at its queue every few milliseconds. A worker that has
not looked for a moment is not waited for: it may hang, or have died.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from billing.windows import ALWAYS_US
from gateway import errors
from gateway.fairness import Head, urgency
from gateway.table import COLUMN, COLUMNS, ENDS_US, HELD, Table, TableFull

_ANYBODY = "anybody"  # a line of all endpoints' waiting
FRESH_S = 0.1  # who has not looked for so long hangs

# Words of three kinds of slots; HELD and the columns say how many wait (COLUMN and HELD apart).
_ROUND = 4  # of a line: begins anew when somebody waits after nobody did
_SERVED, _OF_ROUND = 4, 5  # of a project: tokens, in that round
_PRIORITY, _SINCE_US, _HEAD_SERVED, _LEAST, _LOOKED_US = 4, 5, 7, 8, 9  # of a worker's first
_KEPT_US = 600_000_000


def anybody(table: Table) -> int:
    """The word of the table that is not 0 while somebody waits, for any endpoint at any worker:
    mostly nobody does. Raises TableFull."""
    with table.locked():
        return table.find(_ANYBODY, ALWAYS_US, 0) + HELD


class Order:
    """One endpoint's. The `Tally` of its queue here; raises 503 where the table is full."""

    __slots__ = ("_aging_s", "_clock", "_endpoint_id", "_heads", "_line", "_table")

    def __init__(
        self, table: Table, endpoint_id: str, aging_s: float, clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._endpoint_id = endpoint_id
        self._aging_s = aging_s
        self._clock = clock
        self._line = f"line/{endpoint_id}"
        self._heads = [f"head/{endpoint_id}/{column}" for column in range(COLUMNS)]

    # --- the tally ------------------------------------------------------------------------
    def joins(self, project: str, others: Iterable[str]) -> None:
        table, words = self._table, self._table.words
        with table.locked():
            line, tally = self._find(self._line), self._find(self._name(project))
            everywhere = self._find(_ANYBODY)
            if not words[line + HELD]:
                words[line + _ROUND] += 1
            if not words[tally + HELD]:
                served = self._served(line, tally)
                words[tally + _SERVED] = max(served, self._least(line, others))
                words[tally + _OF_ROUND] = words[line + _ROUND]
            table.hold(everywhere, 1)
            table.hold(line, 1)
            table.hold(tally, 1)

    def leaves(self, project: str) -> None:
        with self._table.locked():
            self._table.let_go(self._find(self._name(project)), 1)
            self._table.let_go(self._find(self._line), 1)
            self._table.let_go(self._find(_ANYBODY), 1)

    def waiting(self, project: str) -> int:
        tally = self._table.known(self._name(project))
        return self._table.words[tally + HELD] if tally else 0

    @property
    def length(self) -> int:
        """How many wait, of all projects and workers."""
        return self._table.words[self._slot(self._line) + HELD]

    def served(self, project: str) -> int:
        return self._served(self._slot(self._line), self._slot(self._name(project)))

    def charge(self, project: str, tokens: float) -> None:
        words = self._table.words
        with self._table.locked():
            line = self._find(self._line)
            if words[line + HELD]:
                tally = self._find(self._name(project))
                words[tally + _SERVED] = self._served(line, tally) + round(tokens)
                words[tally + _OF_ROUND] = words[line + _ROUND]

    def _served(self, line: int, tally: int) -> int:
        words = self._table.words
        current = words[tally + _OF_ROUND] == words[line + _ROUND]
        return words[tally + _SERVED] if current else 0

    def _least(self, line: int, others: Iterable[str]) -> int:
        """The least served of those that wait, here or elsewhere; 0 if nobody does."""
        here = [self._served(line, self._find(self._name(other))) for other in others]
        there = [self._table.words[head + _LEAST] for _, head in self._others(line)]
        return min(here + there, default=0)

    # --- the first of all -----------------------------------------------------------------
    def ours(self, head: Head[Any], now: float) -> bool:
        """Say who is first here. Whether no other worker's first goes before it."""
        item, words = head.item, self._table.words
        since_us = int(item.since * 1e6)
        with self._table.locked():
            line, own = self._find(self._line), self._find(self._heads[self._table.column])
            words[own + _PRIORITY] = item.priority
            words[own + _SINCE_US] = since_us
            words[own + _HEAD_SERVED] = head.served
            words[own + _LEAST] = head.least
            words[own + _LOOKED_US] = int(now * 1e6)
            rank = self._rank(own, now), self._table.column
            return all(
                rank < (self._rank(other, now), column) for column, other in self._others(line)
            )

    def step_aside(self) -> None:
        """What keeps our first from going is nobody else's affair."""
        self._table.words[self._slot(self._heads[self._table.column]) + _LOOKED_US] = 0

    def _rank(self, head: int, now: float) -> tuple[int, int, int]:
        words = self._table.words
        since_us = words[head + _SINCE_US]
        urgent = urgency(words[head + _PRIORITY], since_us / 1e6, now, self._aging_s)
        return -urgent, words[head + _HEAD_SERVED], since_us

    def _others(self, line: int) -> Iterator[tuple[int, int]]:
        """The columns and heads of other workers where somebody waits, and that look."""
        words, own = self._table.words, self._table.column
        oldest_us = int((self._clock() - FRESH_S) * 1e6)
        for column in range(COLUMNS):
            if column != own and words[line + COLUMN + column]:
                head = self._find(self._heads[column])
                if words[head + _LOOKED_US] >= oldest_us:
                    yield column, head

    # --- slots ----------------------------------------------------------------------------
    def _name(self, project: str) -> str:
        return f"tally/{self._endpoint_id}/{project}"

    def _slot(self, name: str) -> int:
        if known := self._table.known(name):
            return known
        with self._table.locked():
            return self._find(name)

    def _find(self, name: str) -> int:
        """Under the lock."""
        now_us = int(self._clock() * 1e6)
        try:
            slot = self._table.find(name, now_us + _KEPT_US, now_us)
        except TableFull:
            raise errors.gate_full() from None
        if self._table.words[slot + ENDS_US] < now_us + _KEPT_US:
            self._table.words[slot + ENDS_US] = now_us + _KEPT_US
        return slot
