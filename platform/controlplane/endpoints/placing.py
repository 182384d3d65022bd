"""Takes devices for a replica: choose on a picture, then look again under the node's lock."""

from collections import Counter
from datetime import datetime

from django.db import transaction

from controlplane.endpoints import lifecycle, notify, sleeping, starts
from controlplane.endpoints.models import DeviceClaim, Endpoint, Replica
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet.models import Device, Node
from controlplane.placement.choose import (
    Candidate,
    FreeDevice,
    Need,
    Placement,
    Refusal,
    choose,
)

# Each lost race shows a fuller picture, so this is far more than a full pool needs.
_ATTEMPTS = 20


def place(replica_id: str, *, now: datetime) -> Placement | Refusal | None:
    """Give a requested replica its devices, or say why nobody can. None: not requested any more.

    A refusal leaves it requested, with the reason `no_capacity` and the words for people.
    """
    replica = (
        Replica.objects.select_related("endpoint__pool", "endpoint__project")
        .filter(id=replica_id, state=State.REQUESTED)
        .first()
    )
    if replica is None:
        return None
    need = _need(replica.endpoint)
    for _ in range(_ATTEMPTS):
        nodes = candidates(replica.endpoint, now=now)
        answer = choose(need, nodes)
        if isinstance(answer, Refusal):
            sleeping.make_room(need, nodes, now=now)
            _remember(replica, answer)
            return answer
        refused = replica.reason in (Reason.NO_CAPACITY, Reason.WALLS_MISSING)
        if (taken := _take(replica_id, need, answer.node_id, now, refused)) is not None:
            return taken
        if not Replica.objects.filter(id=replica_id, state=State.REQUESTED).exists():
            return None
    return Refusal({"": "others took the devices first"})


def candidates(endpoint: Endpoint, *, now: datetime) -> list[Candidate]:
    """The nodes of the endpoint's pool as they stand: free means healthy and claimed by nobody."""
    nodes = list(Node.objects.filter(pool_id=endpoint.pool_id, removed_at=None).order_by("id"))
    healthy = Device.objects.filter(node__in=nodes, healthy=True, kind=endpoint.device_kind)
    claimed = set(
        DeviceClaim.objects.filter(device__in=healthy).values_list("device_id", flat=True)
    )
    free: dict[str, list[FreeDevice]] = {node.id: [] for node in nodes}
    total: Counter[str] = Counter()
    for device in healthy:
        total[device.node_id] += 1
        if device.id not in claimed:
            free[device.node_id].append(FreeDevice(device.id, device.index, device.kind))
    siblings = Counter(
        Replica.objects.filter(endpoint=endpoint, state__in=LIVE, node__in=nodes).values_list(
            "node_id", flat=True
        )
    )
    owner = endpoint.pool.organization_id or ""
    return [
        Candidate(
            node_id=node.id,
            name=node.name,
            free=tuple(free[node.id]),
            total=total[node.id],
            closed=_closed(node, now),
            organization_id=owner,
            walled=walled(node),
            siblings=siblings[node.id],
        )
        for node in nodes
    ]


def walled(node: Node) -> bool:
    """Whether its engines cannot reach each other: a user of its own, and no shared loopback."""
    walls = set(node.inventory.get("walls", ()))
    return "uid" in walls and bool(walls & {"network", "socket"})


def _need(endpoint: Endpoint) -> Need:
    return Need(
        kind=endpoint.device_kind,
        count=endpoint.device_count,
        organization_id=endpoint.project.organization_id,
        shared=endpoint.pool.organization_id is None,
    )


def _closed(node: Node, now: datetime) -> str:
    if node.drain_requested_at is not None:
        return "it is being drained"
    if node.cordoned_at is not None:
        return "it is cordoned"
    return "" if node.reachable(now) else "it is unreachable"


def _take(
    replica_id: str, need: Need, node_id: str, now: datetime, refused: bool
) -> Placement | None:
    """Claim devices of this node, whichever are free now; None where somebody was faster.

    The node's row is the lock, taken before any claim and before the replica: everybody who
    wants devices of a node queues there, so nobody holds one and waits for another.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update(no_key=True).get(id=node_id)
        if not node.schedulable(now) or node.drain_requested_at is not None:
            return None
        free = Device.objects.filter(
            node=node, healthy=True, kind=need.kind, deviceclaim__isnull=True
        ).order_by("index")
        device_ids = tuple(free.values_list("id", flat=True)[: need.count])
        if len(device_ids) < need.count:
            return None
        moved = lifecycle.advance(
            replica_id,
            State.PLACED,
            reason=Reason.PLACED,
            now=now,
            expected=State.REQUESTED,
            node_id=node_id,
            detail=starts.NO_ROOM if refused else "",
        )
        if not moved:
            return None
        DeviceClaim.objects.bulk_create(
            DeviceClaim(device_id=device_id, replica_id=replica_id) for device_id in device_ids
        )
        return Placement(node_id, device_ids)


def _remember(replica: Replica, refusal: Refusal) -> None:
    reason = Reason.WALLS_MISSING if refusal.walls_missing else Reason.NO_CAPACITY
    detail = str(refusal)[:500]
    waiting = Replica.objects.filter(id=replica.id, state=State.REQUESTED)
    with transaction.atomic():
        if waiting.exclude(reason=reason, detail=detail).update(reason=reason, detail=detail):
            notify.changed(replica.endpoint_id)
