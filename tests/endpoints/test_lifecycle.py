"""The one door for a replica's state."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection

from compliance.models import AuditEvent
from controlplane.endpoints import lifecycle
from controlplane.endpoints.errors import IllegalArc
from controlplane.endpoints.models import DeviceClaim, Replica, Transition
from controlplane.endpoints.states import ARCS, LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.world import World, said


def move(replica: Replica, to: State, world: World, **facts: object) -> bool:
    facts = {"reason": Reason.NODE_REPORT, "now": world.now} | facts
    return lifecycle.advance(replica.id, to, **facts)  # type: ignore[arg-type]


def test_every_state_can_come_to_an_end() -> None:
    """Nothing is stuck for want of an arc, and what is over stays over."""
    for state in State:
        assert bool(ARCS[state]) == (state in LIVE)
        if state in LIVE:
            assert State.FAILED in ARCS[state]
            assert State.STOPPED in ARCS[state]


def test_each_arc_is_timed(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node)
    world.later(3)
    assert move(replica, State.STARTING, world, detail="loading")
    row = Transition.objects.filter(replica=replica).latest("at")
    assert (row.from_state, row.to_state, row.seconds) == ("placed", "starting", 3.0)
    assert (row.reason, row.detail) == ("node_report", "loading")


def test_starts_are_measured_and_the_newest_are_kept(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    for number in range(12):
        replica = world.replica(endpoint, node, State.PROBING)
        created = Replica.objects.get(id=replica.id).created_at
        now = created + timedelta(seconds=number)
        assert move(replica, State.READY, world, now=now)
        assert move(replica, State.UNREACHABLE, world, now=now)
        assert move(replica, State.READY, world, now=now)  # that is no start
        assert move(replica, State.FAILED, world, now=now, released=True)
    endpoint.refresh_from_db()
    assert endpoint.start_seconds == [float(number) for number in range(3, 12)]


def test_late_and_repeated_movers_change_nothing(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node)
    assert move(replica, State.STARTING, world)
    assert not move(replica, State.STARTING, world)
    assert not move(replica, State.FAILED, world, expected=State.PLACED)
    assert move(replica, State.FAILED, world)
    assert not move(replica, State.READY, world)
    assert Transition.objects.filter(replica=replica).count() == 3  # placed, starting, failed
    assert not lifecycle.advance(
        "rep_unknown", State.READY, reason=Reason.NODE_REPORT, now=world.now
    )


def test_an_arc_that_does_not_exist_raises(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.STARTING)
    with pytest.raises(IllegalArc, match="starting → unreachable"):
        move(replica, State.UNREACHABLE, world)
    with pytest.raises(TypeError, match="created_at"):
        move(replica, State.READY, world, created_at=world.now)


def test_ready_opens_an_interval_and_the_stop_closes_it(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    (interval,) = world.intervals(replica)
    assert (interval.started_at, interval.ended_at) == (world.now, None)
    world.later(7)
    assert move(replica, State.DRAINING, world)
    (interval,) = world.intervals(replica)
    assert interval.ended_at == world.now
    replica.refresh_from_db()
    assert replica.stop_requested_at == world.now


def test_a_silent_node_serves_until_it_was_last_heard(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    heard = world.now
    world.later(60)
    assert move(replica, State.UNREACHABLE, world, reason=Reason.NODE_UNREACHABLE)
    (interval,) = world.intervals(replica)
    assert interval.ended_at == heard


def test_a_second_interval_never_overlaps_the_first(world: World, node: Node) -> None:
    """Even when the host that opens it has a clock that lags."""
    replica = world.replica(world.endpoint(), node, State.READY)
    world.later(10)
    world.heartbeat(node)
    assert move(replica, State.UNREACHABLE, world, reason=Reason.NODE_UNREACHABLE)
    world.now -= timedelta(seconds=5)
    assert move(replica, State.READY, world, reason=Reason.ADOPTED, ready_s=12.0)
    first, second = world.intervals(replica)
    assert second.started_at == first.ended_at
    assert second.node_offset_s == 12.0


def test_wishes_raise_the_nodes_version(world: World, node: Node) -> None:
    def version() -> int:
        return Node.objects.values_list("desired_version", flat=True).get(id=node.id)

    before = version()
    replica = world.replica(world.endpoint(), node)
    assert version() == before + 1
    assert move(replica, State.STARTING, world)  # the node's own news
    assert version() == before + 1
    assert move(replica, State.DRAINING, world)
    assert version() == before + 2
    replica.refresh_from_db()
    assert replica.wish_version == before + 2


def test_devices_are_free_only_when_the_node_says_so(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.STARTING)
    assert move(replica, State.FAILED, world, reason=Reason.START_TIMEOUT)
    assert DeviceClaim.objects.filter(replica=replica).exists()
    assert lifecycle.release(replica.id, now=world.now)
    assert not lifecycle.release(replica.id, now=world.now)
    assert not DeviceClaim.objects.filter(replica=replica).exists()


def test_a_live_replica_is_not_released(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    assert not lifecycle.release(replica.id, now=world.now)
    assert DeviceClaim.objects.filter(replica=replica).exists()


def test_failures_defer_the_next_try_ever_longer(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    waits = []
    for _ in range(3):
        replica = world.replica(endpoint, node)
        assert move(replica, State.FAILED, world, reason=Reason.ENGINE_EXITED, released=True)
        endpoint.refresh_from_db()
        assert endpoint.retry_at is not None
        waits.append((endpoint.retry_at - world.now).total_seconds() / settings.RETRY_BASE_S)
    assert waits == [1, 2, 4]
    world.replica(endpoint, node, State.READY)
    endpoint.refresh_from_db()
    assert (endpoint.failures, endpoint.retry_at) == (0, None)


def test_a_lost_node_defers_nothing(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node)
    assert move(replica, State.FAILED, world, reason=Reason.NODE_LOST)
    endpoint.refresh_from_db()
    assert (endpoint.failures, endpoint.retry_at) == (0, None)


def test_where_it_ran_and_how_it_ended_is_in_the_tenants_log(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    world.report(node, said(replica.id, wire.Phase.FAILED, reason="engine_exited"))
    events = AuditEvent.objects.filter(target_id=replica.id, region="eu-de-1")
    assert {e.action for e in events} == {"replica.place", "replica.ready", "replica.fail"}
    assert {e.log_id for e in events} == {world.project.organization_id}


@pytest.mark.django_db(transaction=True)
def test_news_is_heard_with_the_commit() -> None:
    world = World.build()
    node = world.node()
    with connection.cursor() as cursor:
        cursor.execute("LISTEN stoa_changed")
    endpoint = world.endpoint()
    world.replica(endpoint, node)
    assert connection.connection is not None
    heard = {one.payload for one in connection.connection.notifies(timeout=5, stop_after=3)}
    with connection.cursor() as cursor:
        cursor.execute("UNLISTEN *")
    assert heard == {endpoint.id, node.id}
