"""Load, think, act: the reconciler's hands.

`reconcile` serves one endpoint on a hint; `sweep` serves all of them every few seconds and is what
correctness rests on. Both may run anywhere, at once, and be killed at any line: each action is a
transaction of its own that changes nothing when it comes too late.
"""

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from compliance import ids, locks
from controlplane.endpoints import (
    deciding,
    funding,
    lifecycle,
    notify,
    observe,
    placing,
    preempting,
    pulse,
    rollouts,
    sleeping,
)
from controlplane.endpoints import reconcile as thinking
from controlplane.endpoints.board import Board
from controlplane.endpoints.models import Endpoint, Replica, Transition
from controlplane.endpoints.observe import Picture, Pictures
from controlplane.endpoints.reconcile import (
    Action,
    Create,
    Fail,
    MarkUnreachable,
    Place,
    Release,
    Sleep,
    Stop,
    Wake,
)
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import silence
from controlplane.fleet.models import Node
from controlplane.placement.choose import Placement
from controlplane.placement.gang import GangPlacement

log = logging.getLogger(__name__)

# One after the other an endpoint takes only a few steps before it has to wait for a node.
_STEPS = 5
_NODES = 100  # of a pool, to choose from for one endpoint
SWEEP = "sweep"  # the name of the lock that one sweep holds


def reconcile(endpoint_id: str, *, now: datetime) -> int:
    """Take the endpoint as far towards its wish as can be; returns the actions that took effect."""
    done = 0
    for _ in range(_STEPS):
        rollouts.tend(now=now, listening_since=_listening(now), endpoint_id=endpoint_id)
        pictures = observe.pictures(now=now, ids=[endpoint_id])
        deciding.keep(pictures.looked)
        board = Board(now, most=_NODES)
        took = [one for picture in pictures.each for one in _act(pictures, picture, board)]
        done += len(took)
        if all(isinstance(one, Place) for one in took):
            break  # the next word is the node's
    return done


def sweep(*, now: datetime | None = None) -> int:
    """Every endpoint that may need something; the actions that took effect.

    One sweep at a time: a second one would only repeat what the first is doing.
    """
    with locks.try_hold(SWEEP) as alone:
        return _sweep(now or timezone.now()) if alone else 0


def _sweep(now: datetime) -> int:
    pulse.beat(pulse.SWEEP, now=now, gap_s=observe.pulse_gap_s())
    rollouts.tend(now=now, listening_since=_listening(now))
    pictures = observe.pictures(now=now, unfunded=funding.renew(now=now))
    listening_since = pictures.limits.listening_since
    preempting.forget(now)
    board = Board(now)
    done = 0
    for _ in range(1 + _STEPS):
        deciding.keep(pictures.looked)
        took = _act_each(pictures, board)
        if not took:
            break
        done += sum(took.values())
        pictures = observe.pictures(now=now, ids=took)
    silence.note(now=now, listening_since=listening_since)
    return done


def _listening(now: datetime) -> datetime | None:
    return pulse.listening_since(now=now, gap_s=observe.pulse_gap_s())


def _act_each(pictures: Pictures, board: Board) -> dict[str, int]:
    """Of each endpoint for which something took effect, how much did."""
    found = {}
    for picture in pictures.each:
        try:
            if took := _act(pictures, picture, board):
                found[picture.endpoint.id] = len(took)
        except Exception:  # one endpoint must not stop the others
            log.exception("endpoint %s could not be reconciled", picture.endpoint.id)
    return found


def _act(pictures: Pictures, picture: Picture, board: Board) -> list[Action]:
    """Those that took effect."""
    actions = thinking.plan(picture.endpoint, picture.replicas, pictures.at, pictures.limits)
    creates = [action for action in actions if isinstance(action, Create)]
    others = (action for action in actions if not isinstance(action, Create))
    done = [action for action in others if _apply(action, pictures.at, board)]
    made = _create(picture.endpoint.id, pictures.at) if creates else []
    return [*done, *made]


def _apply(action: Action, now: datetime, board: Board) -> bool:
    """One action, guarded by the state that it was decided for; whether it changed anything."""
    match action:
        case Place(replica_id):
            placed = placing.place(replica_id, now=now, board=board)
            return isinstance(placed, Placement | GangPlacement)
        case Stop(replica_id, expected, reason):
            to = State.STOPPED if expected is State.REQUESTED else State.DRAINING
            return lifecycle.advance(replica_id, to, reason=reason, now=now, expected=expected)
        case Sleep(replica_id):
            return sleeping.sleep(replica_id, now=now)
        case Wake(replica_id):
            return sleeping.wake(replica_id, now=now)
        case Fail(replica_id, expected, reason, detail):
            return lifecycle.advance(
                replica_id, State.FAILED, reason=reason, now=now, detail=detail, expected=expected
            )
        case MarkUnreachable(replica_id):
            return _mark_unreachable(replica_id, now)
        case Release(replica_id):
            return lifecycle.release(replica_id, now=now)
    return False


def _mark_unreachable(replica_id: str, now: datetime) -> bool:
    """Unless its node spoke in the meantime."""
    with transaction.atomic():
        nodes = Node.objects.filter(Q(replicas=replica_id) | Q(members__replica=replica_id))
        if all(node.reachable(now) for node in nodes):
            return False
        return lifecycle.advance(
            replica_id,
            State.UNREACHABLE,
            reason=Reason.NODE_UNREACHABLE,
            now=now,
            expected=State.READY,
        )


def _create(endpoint_id: str, now: datetime) -> list[Create]:
    """Make the replicas that are missing, decided anew under the endpoint's lock.

    Two reconcilers that saw the same gap come here one after the other; the second sees it filled.
    """
    made: list[Create] = []
    with transaction.atomic():
        locked = Endpoint.objects.select_for_update(no_key=True).filter(id=endpoint_id)
        if not locked.exists():
            return made
        pictures = observe.pictures(now=now, ids=[endpoint_id])
        for picture in pictures.each:
            actions = thinking.plan(
                picture.endpoint, picture.replicas, pictures.at, pictures.limits
            )
            for action in actions:
                if isinstance(action, Create):
                    if not _request(endpoint_id, action, now):
                        break
                    made.append(action)
        if made:
            notify.changed(endpoint_id)
    return made


def _request(endpoint_id: str, create: Create, now: datetime) -> bool:
    """False where no budget pays for it."""
    replica_id = ids.new("rep")
    try:
        funded_until = funding.fund(replica_id, endpoint_id, create.generation, now=now)
    except funding.Unfunded:
        return False
    replica = Replica.objects.create(
        id=replica_id,
        endpoint_id=endpoint_id,
        generation=create.generation,
        state=State.REQUESTED,
        reason=create.reason,
        state_at=now,
        created_at=now,
        funded_until=funded_until,
    )
    Transition.objects.create(
        replica=replica, to_state=State.REQUESTED, reason=create.reason, at=now
    )
    return True
