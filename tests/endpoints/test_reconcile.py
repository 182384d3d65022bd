"""What to do next, case by case. The interleavings are in test_convergence."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.endpoints import backoff
from controlplane.endpoints.reconcile import (
    Action,
    Create,
    Decided,
    EndpointView,
    Fail,
    Limits,
    MarkUnreachable,
    NodeView,
    Place,
    Release,
    ReplicaView,
    Sleep,
    Stop,
    Wake,
    plan,
)
from controlplane.endpoints.states import Reason, State
from controlplane.scaling.decide import HOT, Why
from controlplane.scaling.policy import ASLEEP

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
LIMITS = Limits(
    lease_s=20, lost_after_s=300, start_timeout_s=640, listening_since=NOW - timedelta(days=1)
)
NODE = NodeView("node_1")


def wish(
    replicas: int = 1, why: Why = Why.MIN_REPLICAS, tier: str = HOT, **facts: Any
) -> EndpointView:
    given: dict[str, Any] = {"id": "ep", "generation": 1, "on": True}
    return EndpointView(decided=Decided(replicas, tier, why), **(given | facts))


def one(
    id: str, state: State, *, ago: float = 0, node: NodeView | None = NODE, **facts: Any
) -> ReplicaView:
    since = NOW - timedelta(seconds=ago)
    node = None if state is State.REQUESTED else node
    return ReplicaView(id=id, state=state, state_at=since, node=node, **{"generation": 1, **facts})


def planned(
    endpoint: EndpointView, *replicas: ReplicaView, limits: Limits = LIMITS
) -> list[Action]:
    return plan(endpoint, replicas, NOW, limits)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def test_what_is_missing_is_made() -> None:
    assert planned(wish(2)) == [Create(1, Reason.SCALE_UP)] * 2
    assert planned(wish(2), one("a", State.READY)) == [Create(1, Reason.SCALE_UP)]
    assert planned(wish(), one("a", State.READY)) == []


def test_what_was_made_is_placed() -> None:
    assert planned(wish(), one("a", State.REQUESTED)) == [Place("a")]


def test_a_draining_or_ended_replica_is_replaced() -> None:
    for state in (State.DRAINING, State.FAILED, State.STOPPED):
        assert planned(wish(), one("a", state)) == [Create(1, Reason.SCALE_UP)]


@pytest.mark.parametrize("state", sorted({*State} - {State.STOPPED, State.FAILED, State.DRAINING}))
def test_stopped_means_none(state: State) -> None:
    replica = one("a", state)
    assert planned(wish(on=False), replica) == [Stop("a", state, Reason.STOP_REQUESTED)]


def test_the_least_useful_goes_first() -> None:
    replicas = [one("a", State.READY), one("b", State.STARTING), one("c", State.READY)]
    assert planned(wish(), *replicas) == [
        Stop("b", State.STARTING, Reason.SCALE_DOWN),
        Stop("c", State.READY, Reason.SCALE_DOWN),
    ]


def test_no_try_during_the_back_off() -> None:
    assert planned(wish(retry_at=NOW + timedelta(seconds=1))) == []
    assert planned(wish(retry_at=NOW)) == [Create(1, Reason.SCALE_UP)]


def test_the_back_off_doubles_up_to_its_bound() -> None:
    delays = [backoff.delay_s(n, 10, 600) for n in (1, 2, 3, 6, 7, 5000)]
    assert delays == [10, 20, 40, 320, 600, 600]


# --- To zero and back ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "sleeps", "reason"),
    [
        (Why.LOAD, True, Reason.WAKE),
        (Why.LOAD, False, Reason.SCALE_UP),
        (Why.CLOCK, True, Reason.SCHEDULED),
        (Why.MIN_REPLICAS, False, Reason.SCALE_UP),
    ],
)
def test_why_one_is_made(why: Why, sleeps: bool, reason: Reason) -> None:
    assert planned(wish(1, why, sleeps=sleeps)) == [Create(1, reason)]


def test_one_more_of_what_serves_is_no_wake() -> None:
    more = planned(wish(2, Why.LOAD, sleeps=True), one("a", State.READY))
    assert more == [Create(1, Reason.SCALE_UP)]


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        (Why.IDLE, Reason.IDLE),
        (Why.CAPPED, Reason.CAPPED),
        (Why.LOAD, Reason.SCALE_DOWN),
        (Why.KEEP_ALIVE, Reason.SCALE_DOWN),
    ],
)
def test_why_one_goes(why: Why, reason: Reason) -> None:
    assert planned(wish(0, why), one("a", State.READY)) == [Stop("a", State.READY, reason)]
    assert planned(wish(0, why)) == []


# --- Nodes that are silent, leave, or are gone --------------------------------------------


def silent(seconds: float) -> NodeView:
    return NodeView("node_1", quiet_s=seconds)


def test_a_silent_node_is_unreachable_at_once_and_lost_later() -> None:
    ready = one("a", State.READY, node=silent(0.1))
    assert planned(wish(), ready) == [MarkUnreachable("a")]
    # Not rescheduled at once: the engine may be running.
    assert planned(wish(), one("a", State.UNREACHABLE, node=silent(299))) == []
    (lost,) = planned(wish(), one("a", State.UNREACHABLE, node=silent(300)))
    assert isinstance(lost, Fail)
    assert lost.reason is Reason.NODE_LOST


def test_a_start_on_a_silent_node_is_given_up_sooner() -> None:
    assert planned(wish(), one("a", State.STARTING, node=silent(19))) == []
    (failed,) = planned(wish(), one("a", State.STARTING, node=silent(20)))
    assert isinstance(failed, Fail)
    assert failed.reason is Reason.NODE_UNREACHABLE


def test_a_start_without_progress_times_out() -> None:
    assert planned(wish(), one("a", State.STARTING, ago=639)) == []
    (failed,) = planned(wish(), one("a", State.STARTING, ago=640))
    assert isinstance(failed, Fail)
    assert failed.reason is Reason.START_TIMEOUT


def test_a_start_that_gets_on_does_not() -> None:
    """However long it takes: it is given up so long after it last moved."""
    loading = one("a", State.STARTING, ago=90_000, progress_at=ago(639))
    assert planned(wish(), loading) == []
    (failed,) = planned(wish(), one("a", State.FETCHING, ago=90_000, progress_at=ago(640)))
    assert isinstance(failed, Fail) and failed.reason is Reason.START_TIMEOUT


def test_what_is_kept_sleeps_and_wakes_as_is_wished() -> None:
    ready, stiff = one("a", State.READY, can_sleep=True), one("b", State.READY)
    pair = wish(2)
    assert planned(pair, ready, stiff) == []
    assert planned(wish(2, tier=ASLEEP), ready, stiff) == [Sleep("a")]
    resting = one("a", State.ASLEEP, can_sleep=True)
    assert planned(wish(2, tier=ASLEEP), resting, stiff) == []
    assert planned(pair, resting, stiff) == [Wake("a")]
    assert planned(wish(on=False), resting) == [Stop("a", State.ASLEEP, Reason.STOP_REQUESTED)]
    old = one("a", State.ASLEEP, generation=0)
    assert planned(wish(), old) == [
        Stop("a", State.ASLEEP, Reason.SPEC_CHANGED), Create(1, Reason.SPEC_CHANGED),
    ]  # fmt: skip


def test_one_that_sleeps_is_lost_with_its_node() -> None:
    resting = one("a", State.ASLEEP, node=silent(20))
    assert planned(wish(tier=ASLEEP), resting) == []
    (failed, *_) = planned(wish(tier=ASLEEP), one("a", State.ASLEEP, node=silent(300)))
    assert isinstance(failed, Fail) and failed.reason is Reason.NODE_LOST


@pytest.mark.parametrize("listening_since", [None, NOW - timedelta(seconds=30)])
def test_our_own_outage_is_held_against_nobody(listening_since: datetime | None) -> None:
    limits = Limits(20, 300, 640, listening_since)
    assert planned(wish(), one("a", State.STARTING, ago=9000), limits=limits) == []


def test_a_removed_node_frees_its_devices() -> None:
    removed = NodeView("node_1", removed=True)
    assert planned(wish(on=False), one("a", State.FAILED, node=removed)) == [Release("a")]
    (failed,) = planned(wish(), one("a", State.READY, node=removed))
    assert isinstance(failed, Fail)
    # A silent node's devices are not free: an engine may be running on them.
    assert planned(wish(on=False), one("a", State.FAILED, node=silent(9999))) == []


def test_a_drained_nodes_replica_leaves_when_its_successor_serves() -> None:
    leaving = NodeView("node_1", leaving=True)
    old = one("a", State.READY, node=leaving)
    assert planned(wish(), old) == [Create(1, Reason.NODE_DRAIN)]
    assert planned(wish(), old, one("b", State.STARTING)) == []
    assert planned(wish(), old, one("b", State.READY)) == [
        Stop("a", State.READY, Reason.NODE_DRAIN)
    ]


def test_a_drained_node_is_emptied_also_where_no_other_has_room() -> None:
    old = one("a", State.READY, node=NodeView("node_1", leaving=True))
    waits = [one(id, State.REQUESTED, reason=Reason.NO_CAPACITY) for id in ("b", "c")]
    gone = Stop("a", State.READY, Reason.NODE_DRAIN)
    assert planned(wish(), old, waits[0]) == [gone, Place("b")]
    # Even the last that serves of more: the node must be empty, and nobody gets its devices.
    assert planned(wish(2), old, *waits) == [gone, Place("b"), Place("c")]


# --- A changed wish -----------------------------------------------------------------------


def test_a_changed_wish_replaces_one_after_the_other() -> None:
    changed = wish(2, generation=2)
    old = [one("a", State.READY), one("b", State.READY)]
    assert planned(changed, *old) == [Create(2, Reason.SPEC_CHANGED)] * 2
    new = [one("c", State.READY, generation=2), one("d", State.PROBING, generation=2)]
    assert planned(changed, *old, *new) == [Stop("b", State.READY, Reason.SPEC_CHANGED)]


def test_what_does_not_serve_yet_has_nothing_to_hand_over() -> None:
    actions = planned(wish(generation=2), one("a", State.STARTING))
    assert actions[0] == Stop("a", State.STARTING, Reason.SPEC_CHANGED)


def test_without_room_for_both_the_old_one_makes_room() -> None:
    waits = one("b", State.REQUESTED, generation=2, reason=Reason.NO_CAPACITY)
    changed = wish(generation=2)
    assert planned(changed, one("a", State.READY), waits) == [
        Stop("a", State.READY, Reason.SPEC_CHANGED),
        Place("b"),
    ]
    # One at a time: while one drains, no other is taken away.
    draining = one("z", State.DRAINING)
    assert planned(changed, one("a", State.READY), waits, draining) == [Place("b")]


def test_after_a_failure_the_next_plan_decides() -> None:
    """It knows the back-off that the failure brought."""
    actions = planned(wish(), one("a", State.STARTING, ago=900))
    assert [type(action) for action in actions] == [Fail]
