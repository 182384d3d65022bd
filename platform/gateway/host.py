"""What the workers of one host share beside the counters of limits and budgets.

None of it is worth anything once the host's gateway has ended, and only `loads` knows who holds
what: the master frees there what a worker held when it has ended.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from gateway import brake, suspects, table
from gateway.table import Slots, Table

LOADS, SUSPECTS, RUNS = "loads", "suspects", "runs"
SIZES = {
    LOADS: table.size(1 << 14),
    SUSPECTS: table.size(suspects.SLOTS),
    RUNS: table.size(brake.SLOTS),
}


@dataclass(frozen=True, slots=True)
class Host:
    """One worker's view."""

    loads: Table  # what is in flight, who waits, and which replicas are out
    suspects: Slots
    runs: Slots

    @classmethod
    def of(cls, memory: Mapping[str, int]) -> "Host":
        """`memory` are descriptors by name. Raises TableFull, ValueError."""
        own = str(os.getpid())  # as its master knows it
        return cls(Table(memory[LOADS], own), Slots(memory[SUSPECTS]), Slots(memory[RUNS]))

    def close(self) -> None:
        for each in (self.loads, self.suspects, self.runs):
            each.close()


def ended(memory: Mapping[str, int], pid: int) -> None:
    """A worker has. Its engines stop by themselves, for its connections have ended too."""
    table.release(memory[LOADS], str(pid))
