"""Of all lines of a host no more are cut off than there are people who wait.

Each worker sees how many wait at all of them, and cuts lines of its own. What it has cut stands in
the table that they share until its next look: by then whoever waited has the room.
"""

from collections.abc import Callable

from gateway.table import ENDS_US, Table, TableFull

_KEPT_US = 60_000_000


class Cuts:
    """One worker's. `clock`: seconds, the same for all workers."""

    def __init__(self, table: Table, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock
        self._told: dict[str, tuple[int, int]] = {}  # by endpoint: a slot, and how many

    def __bool__(self) -> bool:
        """Whether something of ours is to be forgotten."""
        return bool(self._told)

    def forget(self) -> None:
        """What was cut at the last look has made its room."""
        with self._table.locked():
            for slot, count in self._told.values():
                self._table.let_go(slot, count)
        self._told.clear()

    def take(self, endpoint_id: str, waiting: int, most: int) -> int:
        """How many of `most` lines are to be cut here for those who wait at all workers."""
        table = self._table
        with table.locked():
            now_us = int(self._clock() * 1e6)
            try:
                slot = table.find(f"cuts/{endpoint_id}", now_us + _KEPT_US, now_us)
            except TableFull:
                return min(waiting, most)
            table.words[slot + ENDS_US] = now_us + _KEPT_US
            count = max(0, min(most, waiting - table.total(slot)))
            table.hold(slot, count)
        if count:
            told = self._told.get(endpoint_id, (slot, 0))[1]
            self._told[endpoint_id] = slot, told + count
        return count
