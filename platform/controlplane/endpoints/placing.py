"""Takes devices for a replica: choose on a picture, then look again under the node's lock."""

from dataclasses import replace
from datetime import datetime

from django.db import transaction

from controlplane.endpoints import (
    claiming,
    engine_versions,
    gangs,
    lifecycle,
    notify,
    preempting,
    starts,
)
from controlplane.endpoints.board import Board
from controlplane.endpoints.models import DeviceClaim, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Node
from controlplane.placement.choose import Placement, Refusal
from controlplane.placement.gang import GangPlacement, choose_gang
from controlplane.placement.nodes import Need

# Each lost race shows a fuller picture, so this is far more than a full pool needs.
_ATTEMPTS = 20
_REFUSED = (Reason.NO_CAPACITY, Reason.WALLS_MISSING, Reason.CONTAINERS_MISSING)


def place(
    replica_id: str, *, now: datetime, board: Board | None = None
) -> Placement | GangPlacement | Refusal | None:
    """Give a requested replica its devices, or say why nobody can. None: not requested any more.

    A refusal leaves it requested, with the reason `no_capacity` and the words for people. `board`:
    what was read for replicas before it; a refusal by one that is old may be wrong, for a while.
    """
    replica = (
        Replica.objects.select_related("endpoint__pool", "endpoint__project", "version")
        .filter(id=replica_id, state=State.REQUESTED)
        .first()
    )
    if replica is None:
        return None
    endpoint, need = replica.endpoint, _need(replica)
    board = board or Board(now)
    if endpoint.node_count > 1:
        return _place_gang(replica, need, board)
    for _ in range(_ATTEMPTS):
        known = board.refusal(endpoint, need)
        answer = known or board.choose(endpoint, need)
        if isinstance(answer, Refusal):
            if known is None:  # else room is being made, or there is none to be made
                nodes = board.candidates(endpoint, need.kind, replica.id)
                preempting.for_replica(replica, need, nodes, now=now)
            _remember(replica, answer)
            return answer
        refused = replica.reason in _REFUSED
        if (taken := _take(replica, need, answer, now, refused)) is not None:
            board.took(endpoint, need, taken)
            return taken
        if not Replica.objects.filter(id=replica_id, state=State.REQUESTED).exists():
            return None
        board.forget(endpoint, need.kind)  # somebody was faster
    return Refusal({"": "others took the devices first"})


def ask(replica: Replica, board: Board) -> Placement | GangPlacement | Refusal:
    """Where it would go, and why not elsewhere. Takes nothing."""
    need = _need(replica)
    if replica.endpoint.node_count > 1:
        return _choose_gang(replica, need, board)
    return board.choose(replica.endpoint, need)


def _choose_gang(replica: Replica, need: Need, board: Board) -> GangPlacement | Refusal:
    endpoint = replica.endpoint
    board.widen()  # the whole gang at once, or nothing
    able, siblings = gangs.able(endpoint.pool_id), gangs.siblings(endpoint.id)
    candidates = board.candidates(endpoint, need.kind, replica.id)
    nodes = [replace(one, siblings=siblings[one.node_id]) for one in candidates]
    return choose_gang(need, endpoint.node_count, nodes, able, board.mix(endpoint, need.kind))


def _place_gang(replica: Replica, need: Need, board: Board) -> GangPlacement | Refusal | None:
    for _ in range(_ATTEMPTS):
        answer = _choose_gang(replica, need, board)
        if isinstance(answer, Refusal):
            _make_room_for_gang(replica, need, board)
            _remember(replica, answer)
            return answer
        taken = gangs.take(replica, need, answer, board.now)
        board.forget(replica.endpoint, need.kind)
        if taken:
            return answer
        if not Replica.objects.filter(id=replica.id, state=State.REQUESTED).exists():
            return None
    return Refusal({"": "others took the devices first"})


def _make_room_for_gang(replica: Replica, need: Need, board: Board) -> None:
    endpoint = replica.endpoint
    able = gangs.able(endpoint.pool_id)
    nodes = board.candidates(endpoint, need.kind, replica.id)
    nodes = [one for one in nodes if one.node_id in able]
    preempting.for_replica(replica, need, nodes, now=board.now, size=endpoint.node_count)


def _need(replica: Replica) -> Need:
    endpoint, version = replica.endpoint, replica.version
    return Need(
        kind=version.device_kind,
        count=version.device_count,
        milli=version.device_share,
        organization_id=endpoint.project.organization_id,
        shared=endpoint.pool.organization_id is None,
        image=engine_versions.from_image(version),
        region=endpoint.region_code,
        lot=replica.id,
    )


def _take(
    replica: Replica, need: Need, chosen: Placement, now: datetime, refused: bool
) -> Placement | None:
    """Claim devices of this node, the best that are free now; None where somebody was faster.

    The node's row is the lock, taken before any claim and before the replica: everybody who
    wants devices of a node queues there, so nobody holds one and waits for another. Before it
    comes only the pool's, where its policy keeps a block.
    """
    replica_id, node_id = replica.id, chosen.node_id
    rejected = chosen.rejected.by_reason()
    with transaction.atomic():
        claiming.lock_pool(replica.endpoint.pool)
        nodes = Node.objects.select_for_update(of=("self",), no_key=True)
        node = nodes.select_related("pool").get(id=node_id)
        device_ids = claiming.free(node, need, now)
        if device_ids is None:
            return None
        claiming.because(rejected)
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
            DeviceClaim(device_id=device_id, replica_id=replica_id, milli=need.milli)
            for device_id in device_ids
        )
        claiming.note(replica_id, rejected, now)
        return Placement(node_id, device_ids, chosen.rejected)


def _remember(replica: Replica, refusal: Refusal) -> None:
    reason = Reason.NO_CAPACITY
    if refusal.walls_missing:
        reason = Reason.WALLS_MISSING
    elif refusal.containers_missing:
        reason = Reason.CONTAINERS_MISSING
    detail = str(refusal)[:500]
    waiting = Replica.objects.filter(id=replica.id, state=State.REQUESTED)
    with transaction.atomic():
        if waiting.exclude(reason=reason, detail=detail).update(reason=reason, detail=detail):
            notify.changed(replica.endpoint_id)
