"""What a node says, and what it is taken for."""

import itertools

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.endpoints import reports
from controlplane.endpoints.conditions import ADVICE
from controlplane.endpoints.models import DeviceClaim, Replica, ServingInterval
from controlplane.endpoints.states import ARCS, LIVE, START_ORDER, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Device, Node
from tests.endpoints.world import World, said

Phase = wire.Phase


def test_whatever_is_said_leads_along_an_arc_and_never_back() -> None:
    placed = [state for state in State if state is not State.REQUESTED]
    for state, phase in itertools.product(placed, [None, *Phase]):
        one = None if phase is None else said("rep", phase)
        verdict = reports.judge(reports.Held("rep", state, 3), one, 3)
        if verdict.to is not None:
            assert verdict.to in ARCS[state]
            if state in START_ORDER and verdict.to in START_ORDER:
                assert START_ORDER.index(verdict.to) > START_ORDER.index(state)
        if state not in LIVE:
            assert verdict.to is None


def test_a_start_step_by_step_and_with_steps_left_out(world: World, node: Node) -> None:
    endpoint = world.endpoint(max_replicas=2)
    slow, quick = world.replica(endpoint, node), world.replica(endpoint, node)
    for phase in (Phase.FETCHING, Phase.STARTING, Phase.PROBING, Phase.READY):
        world.report(node, said(slow.id, phase), said(quick.id, Phase.READY))
        slow.refresh_from_db()
        assert slow.state == phase.value
    assert list(slow.transitions.values_list("to_state", flat=True)) == [
        "placed",
        "fetching",
        "starting",
        "probing",
        "ready",
    ]
    assert list(quick.transitions.values_list("to_state", flat=True)) == ["placed", "ready"]


def test_what_the_node_knows_is_kept(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node)
    report = said(
        replica.id,
        Phase.READY,
        address="relay:10.0.0.7:7443",
        start_tier=wire.StartTier.STANDBY,
        phase_seconds={"starting": 1.23456, "nonsense": 1.0},
        engine=wire.EngineReport(version="0.32.0\0", kv_cache_tokens=4096, max_model_len=2**40),
    )
    world.report(node, report)
    replica.refresh_from_db()
    assert replica.address == "relay:10.0.0.7:7443"
    assert replica.start_tier == "standby"
    assert replica.phase_seconds == {"starting": 1.235}
    # No number that the gateway's view could not read.
    assert replica.engine_report == {"version": "0.32.0�", "kv_cache_tokens": 4096}


@pytest.mark.parametrize(
    "address", ["", "http://10.0.0.1", "unix:relative", "relay:host", "unix:/a b", "unix:/a\0b"]
)
def test_what_nobody_can_reach_is_not_ready(world: World, node: Node, address: str) -> None:
    replica = world.replica(world.endpoint(), node)
    world.report(node, said(replica.id, Phase.READY, address=address))
    replica.refresh_from_db()
    assert replica.state == State.PROBING


def test_an_adopted_engine_may_move(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    world.report(node, said(replica.id, Phase.READY, address="unix:/run/other.sock"))
    replica.refresh_from_db()
    assert replica.address == "unix:/run/other.sock"
    world.report(node, said(replica.id, Phase.READY, address="nonsense"))
    replica.refresh_from_db()
    assert replica.address == "unix:/run/other.sock"


def test_a_failure_keeps_its_last_words_and_frees_the_devices(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.STARTING)
    lines = [f"line {n}" for n in range(300)] + ["bad \0 byte"]
    failed = said(replica.id, Phase.FAILED, reason="probe_failed", detail="no\0", log_tail=lines)
    world.report(node, failed)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("failed", "probe_failed")
    assert replica.log_tail.splitlines()[-2:] == ["line 299", "bad � byte"]
    assert replica.released_at == world.now
    assert not DeviceClaim.objects.exists()


def test_a_dirty_device_defers_nothing_and_the_next_try_is_on_another(
    world: World, node: Node
) -> None:
    endpoint = world.endpoint()
    first = world.replica(endpoint, node, State.STARTING)
    dirty = DeviceClaim.objects.get(replica=first).device
    Device.objects.filter(pk=dirty.pk).update(healthy=False)  # as the same report's inventory says
    failed = said(first.id, Phase.FAILED, reason="device_dirty", detail="device 0 is not clean: …")
    world.report(node, failed)
    first.refresh_from_db()
    endpoint.refresh_from_db()
    assert (first.state, first.reason) == ("failed", "device_dirty")
    assert "on another device" in ADVICE[Reason.DEVICE_DIRTY]
    assert (endpoint.failures, endpoint.retry_at) == (0, None)
    world.reconcile(endpoint)
    (claim,) = DeviceClaim.objects.all()
    assert claim.device.index != dirty.index


@pytest.mark.parametrize("reason", ["", "because", "stop_requested"])
def test_only_some_reasons_are_a_nodes_to_give(world: World, node: Node, reason: str) -> None:
    replica = world.replica(world.endpoint(), node)
    world.report(node, said(replica.id, Phase.FAILED, reason=reason))
    replica.refresh_from_db()
    assert replica.reason == "engine_exited"


def test_a_missing_engine_has_failed_once_the_node_knows_of_it(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node)
    replica.refresh_from_db()
    world.report(node, version=replica.wish_version - 1)
    replica.refresh_from_db()
    assert replica.state == State.PLACED
    world.report(node, version=replica.wish_version)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("failed", "engine_missing")
    assert replica.released_at is not None


def test_a_drained_engine_is_stopped_by_its_absence(world: World, node: Node) -> None:
    endpoint = world.endpoint(min_replicas=0)
    replica = world.replica(endpoint, node, State.READY)
    world.later(4000)
    world.report(node, said(replica.id, Phase.READY))
    world.reconcile(endpoint)
    world.report(node, said(replica.id, Phase.READY), version=1)  # it has not heard yet
    replica.refresh_from_db()
    assert replica.state == State.DRAINING
    world.report(node)
    replica.refresh_from_db()
    assert replica.state == State.STOPPED
    assert replica.released_at is not None


def test_what_is_over_is_stopped_and_then_free(world: World, node: Node) -> None:
    """A start that timed out: the node is told to end it, and only its word frees the devices."""
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node, State.STARTING)
    world.later(3600)
    world.report(node, said(replica.id, Phase.STARTING, stalled_s=3600.0))
    world.reconcile(endpoint)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("failed", "start_timeout")
    wish = world.desired(node)[replica.id]
    assert (wish.run, wish.spec, wish.drain_s) == (False, None, 0.0)
    world.report(node, said(replica.id, Phase.DRAINING))
    replica.refresh_from_db()
    assert (replica.state, replica.released_at) == ("failed", None)
    world.report(node, said(replica.id, Phase.STOPPED))
    replica.refresh_from_db()
    assert (replica.state, replica.released_at) == ("failed", world.now)
    assert world.desired(node) == {}


def test_other_nodes_and_unknown_replicas_are_none_of_its_business(world: World) -> None:
    one, two = world.node("n1"), world.node("n2")
    replica = world.replica(world.endpoint(), one)
    world.report(two, said(replica.id, Phase.FAILED), said("rep_unknown", Phase.READY))
    replica.refresh_from_db()
    assert replica.state == State.PLACED


def test_an_older_report_of_the_same_boot_is_dropped(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node)
    Node.objects.filter(id=node.id).update(boot_id="boot", report_seq=100)
    world.report(node, said(replica.id, Phase.READY))
    replica.refresh_from_db()
    assert replica.state == State.PLACED


def test_nothing_new_costs_two_statements(
    world: World, node: Node, django_assert_num_queries: object
) -> None:
    endpoint = world.endpoint(max_replicas=2)
    ready = [world.replica(endpoint, node, State.READY) for _ in range(2)]
    node.refresh_from_db()
    report = wire.Report(
        boot_id="boot",
        seq=9,
        agent_version="1",
        desired_version=node.desired_version,
        replicas=[said(one.id, Phase.READY, ready_s=1.0) for one in ready],
    )
    with django_assert_num_queries(2):  # type: ignore[operator]
        reports.apply(node, report, world.now)


def test_the_same_again_costs_one(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    loaded = wire.AdapterReport(id="lor_1", state=wire.AdapterState.LOADED)
    same = said(replica.id, Phase.READY, ready_s=1.0, adapters=[loaded])
    world.report(node, same)
    with CaptureQueriesContext(connection) as asked:
        world.report(node, same)
    statements = [one["sql"] for one in asked if "endpoints_replica" in one["sql"]]
    assert len(statements) == 1, statements


@pytest.mark.django_db(transaction=True)
def test_only_what_is_said_again_waits_for_no_disk() -> None:
    world = World.build()
    node = world.node()
    replica = world.replica(world.endpoint(), node, State.READY)
    same = said(replica.id, Phase.READY, ready_s=1.0)
    with transaction.atomic():
        world.report(node, same)
        assert _flushes() == "off"
    world.report(node, same)
    assert _flushes() == "on"  # for what the report brings about


def _flushes() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return str(cursor.fetchone()[0])


# --- Seconds served -----------------------------------------------------------------------


def served(replica: Replica) -> list[float]:
    rows = ServingInterval.objects.filter(replica=replica).order_by("started_at")
    return [round(one.served_s, 3) for one in rows]


def serve(world: World, node: Node, replica: Replica, seconds: float, count: float) -> None:
    world.later(seconds)
    world.report(node, said(replica.id, Phase.READY, ready_s=count))


def test_the_node_counts_and_our_clock_bounds_it(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node)
    world.report(node, said(replica.id, Phase.READY, ready_s=0.5))
    serve(world, node, replica, 10, 10.4)
    assert served(replica) == [9.9]
    serve(world, node, replica, 10, 9999.0)
    assert served(replica) == [20.0]
    serve(world, node, replica, 5, 1.0)  # it began to count anew
    serve(world, node, replica, 5, 6.0)
    assert served(replica) == [25.0]


def test_the_last_word_after_the_stop_counts(world: World, node: Node) -> None:
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=10)
    replica = world.replica(endpoint, node, State.READY)
    serve(world, node, replica, 8, 8.0)
    world.later(4)
    world.reconcile(endpoint)  # idle: drained at 12 s
    world.later(3)
    world.report(node, said(replica.id, Phase.STOPPED, ready_s=12.8))
    assert served(replica) == [12.0]


def test_a_silent_while_is_not_billed(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node, State.READY)
    serve(world, node, replica, 5, 5.0)
    world.later(100)
    world.reconcile(endpoint)
    replica.refresh_from_db()
    assert replica.state == State.UNREACHABLE
    serve(world, node, replica, 1, 106.0)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("ready", "adopted")
    serve(world, node, replica, 10, 116.0)
    assert served(replica) == [5.0, 10.0]


def test_a_fetch_is_followed_by_its_bytes(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.FETCHING)
    began = world.later(1)
    world.report(node, said(replica.id, Phase.FETCHING, bytes_done=10, bytes_total=100))
    world.later(1)
    same = {"bytes_done": 10, "bytes_total": 100}
    world.report(node, said(replica.id, Phase.FETCHING, stalled_s=1.0, **same))
    replica.refresh_from_db()
    assert (replica.bytes_done, replica.bytes_total, replica.progress_at) == (10, 100, began)
    moved = world.later(1)
    world.report(node, said(replica.id, Phase.FETCHING, bytes_done=2**70, bytes_total=-1))
    replica.refresh_from_db()
    assert (replica.bytes_done, replica.bytes_total, replica.progress_at) == (2**62, 0, moved)
    # A fetch that began anew is no progress.
    world.later(1)
    world.report(node, said(replica.id, Phase.FETCHING, bytes_done=5, stalled_s=1.0))
    replica.refresh_from_db()
    assert (replica.bytes_done, replica.progress_at) == (5, moved)
