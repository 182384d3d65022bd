"""Engines that sleep: out of the way of requests and bills, and back within seconds.

A sleeping replica keeps its devices, so that waking it is no question of capacity; where another
replica finds none free, the one that has slept longest yields them. `scaling.decide` says that
what is kept should sleep (`Decided.tier`), `ReplicaView.can_sleep` whether the node says that it
frees memory.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from controlplane.endpoints import lifecycle
from controlplane.endpoints.models import DeviceClaim
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.placement.choose import Candidate, Need, obstacle


def sleep(replica_id: str, *, now: datetime) -> bool:
    """It is routed and billed no more from here on; its node lets it finish what it answers."""
    return lifecycle.advance(
        replica_id, State.ASLEEP, reason=Reason.IDLE, now=now, expected=State.READY
    )


def wake(replica_id: str, *, now: datetime) -> bool:
    return lifecycle.advance(
        replica_id, State.STARTING, reason=Reason.WAKE, now=now, expected=State.ASLEEP
    )


def make_room(need: Need, nodes: Iterable[Candidate], *, now: datetime) -> bool:
    """Have those that slept longest give up what `need` lacks on one node; False if none can.

    Whoever waits for the devices is placed when the node has confirmed that the engines are gone;
    until then nobody else is sent away for it.
    """
    free = {node.node_id: len(node.free) for node in nodes if not obstacle(need, node, node.total)}
    going: Counter[str] = Counter()
    sleepers: dict[str, Counter[str]] = {node_id: Counter() for node_id in free}
    claims = DeviceClaim.objects.filter(
        device__node__in=free, device__kind=need.kind, device__healthy=True
    ).order_by("replica__state_at")
    for node_id, replica_id, state in claims.values_list(
        "device__node_id", "replica_id", "replica__state"
    ):
        if state == State.ASLEEP:
            sleepers[node_id][replica_id] += 1
        elif state not in LIVE or state == State.DRAINING:
            going[node_id] += 1
    missing = {node_id: need.count - free[node_id] - going[node_id] for node_id in free}
    if any(count <= 0 for count in missing.values()):
        return False  # they come free by themselves
    for node_id in sorted(free, key=lambda one: (missing[one], one)):
        if sum(sleepers[node_id].values()) >= missing[node_id]:
            return _take(sleepers[node_id], missing[node_id], now)
    return False


def _take(sleepers: Counter[str], missing: int, now: datetime) -> bool:
    took = False
    for replica_id, devices in sleepers.items():
        if missing <= 0:
            break
        took |= lifecycle.advance(
            replica_id, State.DRAINING, reason=Reason.YIELDED, now=now, expected=State.ASLEEP
        )
        missing -= devices
    return took
