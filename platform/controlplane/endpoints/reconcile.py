"""What has to be done so that an endpoint becomes what somebody wants. Pure: decides, does nothing.

`plan` reads one picture (the wish, the replicas, the clock) and returns actions. A picture may be
old when its actions are applied: each is guarded by the state it was decided for, and the next
run decides again. Running it twice, or in two places, is as good as once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.endpoints import rolling
from controlplane.endpoints.rolling import RolloutView
from controlplane.endpoints.states import COMING, LIVE, Reason, State
from controlplane.scaling.decide import HOT, Why
from controlplane.scaling.policy import ASLEEP


@dataclass(frozen=True)
class Limits:
    """How long the parts of a life may take, in seconds.

    `listening_since`: since when the control plane has been up without a gap. No deadline began
    before, and while it is None none runs: what we did not hear may have happened all the same.
    """

    lease_s: float
    lost_after_s: float
    start_timeout_s: float  # without progress
    listening_since: datetime | None


@dataclass(frozen=True)
class Decided:
    """By `scaling.decide`: so many replicas, and why. Where the tier is asleep, those that are
    kept sleep if they can."""

    replicas: int
    tier: str = HOT
    why: Why = Why.MIN_REPLICAS


@dataclass(frozen=True)
class EndpointView:
    """The wish, and how many replicas it comes to now. `sleeps`: it may have none at all."""

    id: str
    generation: int
    on: bool  # neither stopped nor deleted
    decided: Decided
    sleeps: bool = False
    retry_at: datetime | None = None
    unfunded_until: datetime | None = None  # nobody pays for another replica before
    rollout: RolloutView | None = None  # to `generation`, under way


@dataclass(frozen=True)
class NodeView:
    """The node of a replica. `quiet_s`: silent for so long beyond its lease; 0 while it is heard.

    It counts only time in which the control plane listened (Limits.listening_since).
    """

    id: str
    quiet_s: float = 0.0
    leaving: bool = False  # being drained, or a device that the replica holds is
    removed: bool = False  # by the operator, who vouches that nothing runs on it


@dataclass(frozen=True)
class ReplicaView:
    """One that lives, or that is over but still holds its devices."""

    id: str
    generation: int
    state: State
    state_at: datetime
    reason: Reason = Reason.SCALE_UP
    node: NodeView | None = None
    funded: bool = True  # a budget pays for it, or none bounds it
    can_sleep: bool = False
    progress_at: datetime | None = None  # when its start last got on


@dataclass(frozen=True)
class Create:
    generation: int
    reason: Reason


@dataclass(frozen=True)
class Place:
    replica_id: str


@dataclass(frozen=True)
class Stop:
    """Towards draining; a replica that was never placed is stopped at once."""

    replica_id: str
    expected: State
    reason: Reason


@dataclass(frozen=True)
class Sleep:
    """It serves no more and keeps its devices, until it is woken, stopped, or yields them."""

    replica_id: str


@dataclass(frozen=True)
class Wake:
    replica_id: str


@dataclass(frozen=True)
class Fail:
    replica_id: str
    expected: State
    reason: Reason
    detail: str


@dataclass(frozen=True)
class MarkUnreachable:
    """The way back is the node's: its next report takes the replica to ready again."""

    replica_id: str


@dataclass(frozen=True)
class Release:
    """Free the devices of one that is over on a node that is no more."""

    replica_id: str


Action = Create | Place | Stop | Sleep | Wake | Fail | MarkUnreachable | Release


def plan(
    endpoint: EndpointView, replicas: Sequence[ReplicaView], now: datetime, limits: Limits
) -> list[Action]:
    """The next steps; empty when nothing is to be done, or nothing can be done but wait.

    A replica that fails in this plan has no successor before the next one, which knows about the
    back-off that the failure brought.
    """
    lost = [action for replica in replicas if (action := _lost(replica, now, limits))]
    failed = {action.replica_id for action in lost if isinstance(action, Fail)}
    live = [r for r in replicas if r.state in LIVE and r.id not in failed]
    broke = [r for r in live if r.state is not State.DRAINING and not r.funded]
    serving = [r for r in live if r.state is not State.DRAINING and r.funded]
    wanted, too_many = _wanted(endpoint)
    settled = [r for r in serving if not _leaving(r)]
    groups = rolling.groups(
        endpoint.generation, endpoint.rollout, endpoint.retry_at, wanted, settled, now
    )
    kept: list[ReplicaView] = []
    surplus: list[ReplicaView] = []
    for group in groups:
        stay = _least_useful_first(r for r in settled if r.generation == group.number)
        over = max(0, len(stay) - group.keep)
        surplus += stay[:over]
        kept += stay[over:]
    there = {r.id for r in kept} | {r.id for r in surplus}
    leave = _least_useful_first(r for r in serving if r.id not in there)
    draining = len(live) > len(serving) + len(broke)
    going = _handed_over(leave, kept, sum(group.keep for group in groups), draining=draining)
    return [
        *lost,
        *(Stop(r.id, r.state, Reason.BUDGET_EXHAUSTED) for r in broke if endpoint.on),
        *(Stop(r.id, r.state, Reason.STOP_REQUESTED) for r in broke if not endpoint.on),
        *(Stop(r.id, r.state, _surplus(r, endpoint, too_many)) for r in surplus),
        *(Stop(r.id, r.state, _why(r, endpoint) if wanted else too_many) for r in going),
        *_rested(kept, asleep=endpoint.decided.tier == ASLEEP),
        *(Place(r.id) for r in sorted(kept, key=lambda r: r.id) if r.state is State.REQUESTED),
        *([] if failed or broke else _create(endpoint, groups, serving, leave, now)),
    ]


def _rested(kept: Sequence[ReplicaView], *, asleep: bool) -> list[Action]:
    if asleep:
        return [Sleep(r.id) for r in kept if r.state is State.READY and r.can_sleep]
    return [Wake(r.id) for r in kept if r.state is State.ASLEEP]


def _lost(
    replica: ReplicaView, now: datetime, limits: Limits
) -> Fail | MarkUnreachable | Release | None:
    """What a node cannot report any more, or reports no more."""
    node, state = replica.node, replica.state
    if state not in LIVE:
        return Release(replica.id) if node is None or node.removed else None
    if node is None:
        return None
    if node.removed:
        return Fail(replica.id, state, Reason.NODE_LOST, "the node was removed")
    if node.quiet_s >= limits.lost_after_s:
        detail = f"the node has been silent for {node.quiet_s:.0f} s"
        return Fail(replica.id, state, Reason.NODE_LOST, detail)
    if state is State.READY and node.quiet_s > 0:
        return MarkUnreachable(replica.id)
    if state in COMING:
        # Nothing serves there yet, so nothing is given up by trying elsewhere soon.
        if node.quiet_s >= limits.lease_s:
            return Fail(replica.id, state, Reason.NODE_UNREACHABLE, "the node fell silent")
        if _stuck_s(replica, now, limits) >= limits.start_timeout_s:
            detail = f"no progress beyond {state} in {limits.start_timeout_s:.0f} s"
            return Fail(replica.id, state, Reason.START_TIMEOUT, detail)
    return None


def _stuck_s(replica: ReplicaView, now: datetime, limits: Limits) -> float:
    """How long its start has not got on while we listened."""
    if limits.listening_since is None:
        return 0.0
    moments = (replica.state_at, replica.progress_at or replica.state_at, limits.listening_since)
    return (now - max(moments)).total_seconds()


_TOO_MANY = {Why.IDLE: Reason.IDLE, Why.CAPPED: Reason.CAPPED}


def _wanted(endpoint: EndpointView) -> tuple[int, Reason]:
    """How many replicas there should be, and the reason for those that are then too many."""
    if not endpoint.on:
        return 0, Reason.STOP_REQUESTED
    decided = endpoint.decided
    return decided.replicas, _TOO_MANY.get(decided.why, Reason.SCALE_DOWN)


def _leaving(replica: ReplicaView) -> bool:
    return replica.node is not None and replica.node.leaving


_USEFULNESS = (
    State.REQUESTED,
    State.PLACED,
    State.FETCHING,
    State.UNREACHABLE,
    State.ASLEEP,
    State.STARTING,
    State.PROBING,
    State.READY,
)


def _least_useful_first(replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
    """Of equals the newest comes first."""
    newest_first = sorted(replicas, key=lambda r: r.id, reverse=True)
    return sorted(newest_first, key=lambda r: _USEFULNESS.index(r.state))


def _handed_over(
    leave: Sequence[ReplicaView], kept: Sequence[ReplicaView], wanted: int, *, draining: bool
) -> list[ReplicaView]:
    """Those to be replaced that may go now.

    One that serves goes when a successor serves; or, one after the other, when a successor
    waits for devices that nobody else has. One that does not serve has nothing to hand over.
    """
    idle = [r for r in leave if r.state is not State.READY]
    serving = [r for r in leave if r.state is State.READY]
    ready = sum(r.state is State.READY for r in kept)
    spare = max(0, len(serving) + ready - wanted)
    waits = any(r.state is State.REQUESTED and r.reason is Reason.NO_CAPACITY for r in kept)
    if waits and serving and not (idle or draining):
        # What a node that is being drained gives up, nobody can have: it must be empty anyway.
        enough = len(serving) + ready >= wanted or _leaving(serving[0])
        spare = max(spare, int(enough))
    return idle + serving[:spare]


def _why(replica: ReplicaView, endpoint: EndpointView) -> Reason:
    if replica.generation == endpoint.generation:
        return Reason.NODE_DRAIN
    back = endpoint.rollout is None and replica.generation > endpoint.generation
    return Reason.ROLLED_BACK if back else Reason.SPEC_CHANGED


def _surplus(replica: ReplicaView, endpoint: EndpointView, too_many: Reason) -> Reason:
    old = endpoint.on and replica.generation != endpoint.generation
    return Reason.SPEC_CHANGED if old else too_many


def _create(
    endpoint: EndpointView,
    groups: Sequence[rolling.Group],
    serving: Sequence[ReplicaView],
    leave: Sequence[ReplicaView],
    now: datetime,
) -> list[Create]:
    reason = _why(leave[0], endpoint) if leave else _more(endpoint, serving)
    made: list[Create] = []
    for group in groups:
        deferred = (group.retry_at, endpoint.unfunded_until)
        if not any(at is not None and now < at for at in deferred):
            new = endpoint.rollout is not None and group.number == endpoint.rollout.to
            made += [Create(group.number, Reason.SPEC_CHANGED if new else reason)] * group.make
    return made


def _more(endpoint: EndpointView, serving: Sequence[ReplicaView]) -> Reason:
    if endpoint.decided.why is Why.CLOCK:
        return Reason.SCHEDULED
    return Reason.WAKE if endpoint.sleeps and not serving else Reason.SCALE_UP
