"""Replicas of one organization that share a device of this node.

One of them starts at a time: an engine measures what memory is free while it starts, and takes
what a neighbour takes or gives back meanwhile for its own. The others wait their turn.
"""

from collections.abc import Iterable

from controlplane.fleet import wire
from workers.agent.records import ENDED, Phase, Record

WHOLE = 1000  # thousandths of a device
_STARTS = frozenset({Phase.STARTING, Phase.PROBING})


class Sharers:
    """Whose turn it is on each device. For one loop."""

    def __init__(self) -> None:
        self._turns: dict[int, Record] = {}

    def turn(self, record: Record, others: Iterable[Record]) -> bool:
        """Whether this one may start beside the others; if so, it is its turn until it serves."""
        if not shares(record.spec):
            return True
        (index,) = record.spec.device_indexes
        now = self._turns.get(index)
        if now is not None and now is not record and now.phase in _STARTS:
            return False
        there = beside(record.spec, others)
        if any(one.running is not None and one.phase in _STARTS for one in there):
            return False  # an agent before this one started it
        self._turns[index] = record
        return True


def shares(spec: wire.ReplicaSpec) -> bool:
    return spec.device_share < WHOLE and len(spec.device_indexes) == 1


def beside(spec: wire.ReplicaSpec, others: Iterable[Record]) -> list[Record]:
    """Of the others, those that may live on its device with it."""
    return [
        one
        for one in others
        if one.spec.replica_id != spec.replica_id
        and one.phase not in ENDED
        and shares(spec)
        and shares(one.spec)
        and one.spec.device_indexes == spec.device_indexes
        and one.spec.organization_id == spec.organization_id
    ]
