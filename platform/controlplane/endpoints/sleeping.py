"""Engines that sleep: out of the way of requests and bills, and back within seconds.

A sleeping replica keeps its devices, so that waking it is no question of capacity; where another
replica finds none free, it yields them (`preempting`). `scaling.decide` says that what is kept
should sleep (`Decided.tier`), `ReplicaView.can_sleep` whether the node says that it frees memory.
"""

from datetime import datetime

from controlplane.endpoints import lifecycle
from controlplane.endpoints.states import Reason, State


def sleep(replica_id: str, *, now: datetime) -> bool:
    """It is routed and billed no more from here on; its node lets it finish what it answers."""
    return lifecycle.advance(
        replica_id, State.ASLEEP, reason=Reason.IDLE, now=now, expected=State.READY
    )


def wake(replica_id: str, *, now: datetime) -> bool:
    return lifecycle.advance(
        replica_id, State.STARTING, reason=Reason.WAKE, now=now, expected=State.ASLEEP
    )
