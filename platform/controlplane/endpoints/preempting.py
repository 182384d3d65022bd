"""Makes room for a replica that finds no device free, and keeps it for that one.

Who goes is `placement.preempt`'s to say. Everybody takes devices from engines that sleep. From
engines that serve, beyond their endpoint's minimum, only a replica takes them that its own
endpoint's minimum asks for; or, where they compute nothing but batches, one that people ask for.
So nobody who was sent away sends anybody away in turn.

What comes free is reserved for a while, so that smaller ones do not take it first. A replica that
has waited long for several devices reserves a node even where nobody has to go.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from controlplane.endpoints import lifecycle, sharers
from controlplane.endpoints.models import Activity, DeviceClaim, Replica, Reservation
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.placement.choose import but_the_kept
from controlplane.placement.mix import WHOLE
from controlplane.placement.nodes import Candidate, Need, devices, obstacle
from controlplane.placement.preempt import Holder, Room, Tier, make_room

RESERVED = timedelta(seconds=30)  # each time that it is asked for anew
PATIENCE = timedelta(seconds=30)  # after it, one that needs several devices reserves a node
_LATELY = timedelta(seconds=60)  # so long back it matters who asked


def for_replica(
    replica: Replica, need: Need, nodes: Sequence[Candidate], *, now: datetime, size: int = 1
) -> bool:
    """Have those that must give up what `need` lacks on `size` nodes do so; False where there are
    not so many nodes on which they can: then nobody goes.

    The replica is placed when the nodes have confirmed that the engines are gone; until then
    nobody else is sent away for it.
    """
    able = but_the_kept(need, size, [one for one in nodes if not obstacle(need, one)])
    if size == 1:  # where enough is free, what stands in the way is no engine
        able = [one for one in able if _free(need, one) < need.count]
    free = {node.node_id: _free(need, node) for node in able}
    if len(free) < size:
        return False
    going, holders = _held(free, need, _may_take(replica, now), now)
    for node in able:  # others have waited for that
        going[node.node_id] = max(0, going[node.node_id] - node.awaited)
    rooms = _rooms(need.count, size, free, going, holders)
    if not rooms:
        if (need.count > 1 or size > 1) and now - replica.created_at >= PATIENCE:
            _reserve(replica.id, _emptiest(free, size), need, now)
        return False
    for victim in (victim for room in rooms for victim in room.victims):
        was = State.ASLEEP if victim.tier is Tier.ASLEEP else State.READY
        for id in (victim.replica_id, *victim.others):
            lifecycle.advance(id, State.DRAINING, reason=Reason.YIELDED, now=now, expected=was)
    _reserve(replica.id, [room.node_id for room in rooms], need, now)
    return True


def _rooms(
    count: int,
    size: int,
    free: Mapping[str, int],
    going: Mapping[str, int],
    holders: Sequence[Holder],
) -> list[Room]:
    """On so many nodes, each the best of those that are left; or none."""
    rooms: list[Room] = []
    left = dict(free)
    while len(rooms) < size:
        room = make_room(count, left, going, holders)
        if room is None:
            return []
        rooms.append(room)
        del left[room.node_id]
    return rooms


def _emptiest(free: Mapping[str, int], size: int) -> list[str]:
    return sorted(free, key=lambda one: (-free[one], one))[:size]


def forget(now: datetime) -> None:
    """Reservations that are over."""
    Reservation.objects.filter(expires_at__lte=now).delete()


def _reserve(replica_id: str, node_ids: Collection[str], need: Need, now: datetime) -> None:
    mine = Reservation.objects.filter(replica_id=replica_id)
    mine.exclude(node__in=node_ids).delete()
    for node_id in node_ids:
        Reservation.objects.update_or_create(
            replica_id=replica_id,
            node_id=node_id,
            defaults={"kind": need.kind, "count": need.count, "expires_at": now + RESERVED},
        )


def _free(need: Need, node: Candidate) -> int:
    if need.milli < WHOLE:
        return len(devices(need, node))
    return sum(one.kind == need.kind and one.milli == WHOLE for one in node.free)


def _may_take(replica: Replica, now: datetime) -> frozenset[Tier]:
    endpoint = replica.endpoint
    mine = Replica.objects.filter(endpoint=endpoint, state__in=LIVE)
    there = mine.exclude(state__in=(State.REQUESTED, State.DRAINING)).count()
    if there < endpoint.min_replicas:
        return frozenset(Tier)
    asked = Activity.objects.filter(endpoint_id=endpoint.id, people=True, at__gt=now - _LATELY)
    if asked.exclude(in_flight=0, waiting=0).exists():
        return frozenset((Tier.ASLEEP, Tier.BATCH))
    return frozenset((Tier.ASLEEP,))


def _held(
    node_ids: Iterable[str], need: Need, tiers: Collection[Tier], now: datetime
) -> tuple[Counter[str], list[Holder]]:
    """What comes free by itself on each node, and who could be made to go.

    A gang's members go together or not at all, so they are let be.
    """
    going: Counter[str] = Counter()
    held: Counter[tuple[str, str]] = Counter()
    rows: dict[str, tuple[str, datetime]] = {}
    parts: list[sharers.Part] = []
    claims = DeviceClaim.objects.filter(
        device__node__in=list(node_ids), device__kind=need.kind, device__healthy=True
    )
    told = claims.values_list(
        *("device__node_id", "replica_id", "replica__state", "replica__state_at"),
        *("replica__node_count", "device_id", "milli"),
        "replica__endpoint__project__organization_id",
    )
    for node_id, replica_id, state, since, nodes, device_id, milli, organization_id in told:
        goes = state not in LIVE or state == State.DRAINING
        if milli < WHOLE:
            parts.append(
                sharers.Part(
                    *(node_id, device_id, replica_id, organization_id, milli),
                    *(goes, since.timestamp()),
                )
            )
            rows[replica_id] = state, since
        elif goes:
            going[node_id] += 1
        elif nodes == 1:
            held[node_id, replica_id] += 1
            rows[replica_id] = state, since
    serving = [id for id, (state, _) in rows.items() if state == State.READY]
    tier_of = {id: Tier.ASLEEP for id, (state, _) in rows.items() if state == State.ASLEEP}
    if len(tiers) > 1:
        tier_of |= _above_minimum(serving, now)
    may = {id: tier for id, tier in tier_of.items() if tier in tiers}
    freed, holders = sharers.yielding(parts, may, need)
    going.update(freed)
    return going, holders + [
        Holder(replica_id, node_id, may[replica_id], count, rows[replica_id][1].timestamp())
        for (node_id, replica_id), count in held.items()
        if replica_id in may
    ]


def _above_minimum(replica_ids: Collection[str], now: datetime) -> dict[str, Tier]:
    """Those that their endpoints have beyond the minimum: the newest of each."""
    mine = Replica.objects.filter(id__in=replica_ids).values("endpoint")
    serving = Replica.objects.filter(endpoint__in=mine, state=State.READY).order_by("id")
    of: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for endpoint_id, minimum, id in serving.values_list(
        "endpoint_id", "endpoint__min_replicas", "id"
    ):
        of[endpoint_id, minimum].append(id)
    batches = _batches_alone({endpoint_id for endpoint_id, _ in of}, now)
    return {
        id: Tier.BATCH if endpoint_id in batches else Tier.ABOVE_MINIMUM
        for (endpoint_id, minimum), ids in of.items()
        for id in ids[minimum:]
    }


def _batches_alone(endpoint_ids: Collection[str], now: datetime) -> set[str]:
    """Endpoints that lately computed lines of batches, and nothing else."""
    rows = Activity.objects.filter(endpoint_id__in=endpoint_ids, at__gt=now - _LATELY)
    found: dict[str, bool] = {}
    for endpoint_id, in_flight, waiting, people in rows.values_list(
        "endpoint_id", "in_flight", "waiting", "people"
    ):
        if in_flight or waiting:
            found[endpoint_id] = found.get(endpoint_id, True) and not people
    return {endpoint_id for endpoint_id, alone in found.items() if alone}
