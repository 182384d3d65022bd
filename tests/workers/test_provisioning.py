"""The reconciler's hands, on a real database."""

import threading
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import close_old_connections, connections

from compliance import locks
from compliance.models import AuditEvent
from controlplane.endpoints import observe, pulse, services
from controlplane.endpoints.board import Board
from controlplane.endpoints.models import Activity, DeviceClaim, Pulse, Replica
from controlplane.endpoints.reconcile import Action
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.world import ACTOR, World, said
from workers import provisioning, upkeep

Phase = wire.Phase


def test_from_a_wish_to_ready_and_back(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    assert world.reconcile(endpoint) == 2  # made and placed
    assert world.reconcile(endpoint) == 0
    (replica,) = Replica.objects.all()
    world.report(node, said(replica.id, Phase.READY))
    assert world.states(endpoint) == ["ready"]
    services.stop(actor=ACTOR, endpoint=endpoint, now=world.later(60))
    world.report(node, said(replica.id, Phase.READY))
    world.reconcile(endpoint)
    assert world.states(endpoint) == ["draining"]
    world.report(node, said(replica.id, Phase.STOPPED))
    assert world.states(endpoint) == ["stopped"]
    assert not DeviceClaim.objects.exists()
    assert world.reconcile(endpoint) == 0


def test_the_sweep_does_it_without_a_hint(world: World, node: Node) -> None:
    first, second = world.endpoint(name="a"), world.endpoint(name="b")
    assert provisioning.sweep(now=world.now) == 4
    assert world.states(first) == world.states(second) == ["placed"]
    assert provisioning.sweep(now=world.now) == 0


def test_the_sweep_tells_of_nodes_that_go_quiet_and_return(world: World, node: Node) -> None:
    def told() -> list[str]:
        about = AuditEvent.objects.filter(target_id=node.id).order_by("id")
        return list(about.values_list("action", flat=True))

    provisioning.sweep(now=world.later(settings.NODE_LEASE_S + 1))
    assert told() == ["node.unreachable"]
    world.heartbeat(node)
    provisioning.sweep(now=world.now)
    assert told() == ["node.unreachable", "node.return"]


def test_one_broken_endpoint_does_not_stop_the_others(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = world.endpoint(name="a"), world.endpoint(name="b")
    act = provisioning._act

    def failing(pictures: observe.Pictures, picture: observe.Picture, board: Board) -> list[Action]:
        if picture.endpoint.id == broken.id:
            raise RuntimeError("broken")
        return act(pictures, picture, board)

    monkeypatch.setattr(provisioning, "_act", failing)
    provisioning.sweep(now=world.now)
    assert (world.states(broken), world.states(sound)) == ([], ["placed"])
    assert broken.id in caplog.text


def test_waits_for_devices_and_takes_them_when_they_are_free(world: World, node: Node) -> None:
    large = world.endpoint(name="large", device_count=2)
    world.reconcile(large)
    small = world.endpoint(name="small")
    world.reconcile(small)
    assert world.states(small) == ["requested"]
    services.delete(actor=ACTOR, endpoint=large, now=world.now)
    world.reconcile(large)
    (replica,) = Replica.objects.filter(endpoint=large)
    world.report(node, said(replica.id, Phase.STOPPED))
    provisioning.sweep(now=world.now)
    assert world.states(small) == ["placed"]


def test_an_engine_that_crashes_waits_before_the_next_try(world: World, node: Node) -> None:
    """`failed`, its devices free, and no other before the back-off is over."""
    endpoint = world.endpoint()
    world.reconcile(endpoint)
    (replica,) = Replica.objects.all()
    failed = said(replica.id, Phase.FAILED, reason="engine_exited", log_tail=["Traceback", "boom"])
    world.report(node, failed)
    assert not DeviceClaim.objects.exists()
    assert world.reconcile(endpoint) == 0
    world.later(settings.RETRY_BASE_S)
    world.heartbeat(node)
    assert world.reconcile(endpoint) == 2
    assert world.states(endpoint) == ["failed", "placed"]
    replica.refresh_from_db()
    assert replica.log_tail == "Traceback\nboom"


# --- To zero and back ---------------------------------------------------------------------


def test_idle_goes_to_zero_and_a_request_brings_it_back(world: World, node: Node) -> None:
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=30)
    assert provisioning.sweep(now=world.now) == 0
    assert services.request_wake(endpoint.id, world.now)
    world.reconcile(endpoint)
    (replica,) = Replica.objects.all()
    assert replica.transitions.earliest("at").reason == Reason.WAKE
    world.report(node, said(replica.id, Phase.READY))
    world.later(29)
    busy = {"endpoint_id": endpoint.id, "gateway_id": "g", "in_flight": 1, "waiting": 0}
    Activity.objects.create(**busy, idle_s=0, at=world.now)
    world.later(29)
    world.heartbeat(node)
    assert world.reconcile(endpoint) == 0
    world.later(1)
    world.reconcile(endpoint)
    assert world.states(endpoint) == ["draining"]
    # Somebody waits at the door: no wake was heard, the sweep sees it.
    Activity.objects.create(endpoint_id=endpoint.id, gateway_id="g", in_flight=0, waiting=1)
    Activity.objects.filter(waiting=1).update(at=world.now)
    provisioning.sweep(now=world.now)
    assert world.states(endpoint) == ["draining", "placed"]


def test_what_the_idle_timer_needs_is_kept(world: World) -> None:
    def row(minutes: int, in_flight: int, endpoint: str = "ep_a") -> None:
        one = Activity.objects.create(
            endpoint_id=endpoint, gateway_id="g", in_flight=in_flight, waiting=0
        )
        Activity.objects.filter(id=one.id).update(at=world.now - timedelta(minutes=minutes))

    for minutes, in_flight in ((90, 1), (80, 2), (70, 0), (1, 0)):
        row(minutes, in_flight)
    row(600, 1, "ep_b")
    assert upkeep.prune_activity(world.now) == 2
    kept = Activity.objects.order_by("at").values_list("endpoint_id", "in_flight")
    assert list(kept) == [("ep_b", 1), ("ep_a", 2), ("ep_a", 0)]


# --- Nodes that fall silent ---------------------------------------------------------------


def test_a_silent_node_is_unreachable_then_lost_then_back(world: World) -> None:
    nodes = [world.node("n1", devices=1), world.node("n2", devices=1)]
    endpoint = world.endpoint()
    world.reconcile(endpoint)
    (replica,) = Replica.objects.all()
    quiet, other = sorted(nodes, key=lambda one: one.id != replica.node_id)  # drawn by lot
    world.report(quiet, said(replica.id, Phase.READY))

    world.later(settings.NODE_LEASE_S + 1)
    world.heartbeat(other)
    provisioning.sweep(now=world.now)
    assert world.states(endpoint) == ["unreachable"]  # and nothing made elsewhere

    world.later(settings.NODE_LOST_AFTER_S)
    world.heartbeat(other)
    provisioning.sweep(now=world.now)
    assert world.states(endpoint) == ["failed", "placed"]
    replica.refresh_from_db()
    assert replica.reason == Reason.NODE_LOST
    assert DeviceClaim.objects.filter(replica=replica).exists()  # it may still run there

    # It returns with the engine still running: told to stop it, it obeys, and is free.
    assert world.desired(quiet)[replica.id].run is False
    world.report(quiet, said(replica.id, Phase.READY))
    assert DeviceClaim.objects.filter(replica=replica).exists()
    world.report(quiet, said(replica.id, Phase.STOPPED))
    assert not DeviceClaim.objects.filter(replica=replica).exists()
    assert world.states(endpoint) == ["failed", "placed"]


def test_after_our_own_outage_nobody_is_lost(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    world.reconcile(endpoint)
    (replica,) = Replica.objects.all()
    world.report(node, said(replica.id, Phase.READY))
    Pulse.objects.all().delete()
    pulse.beat(pulse.SWEEP, now=world.now, gap_s=observe.pulse_gap_s())
    # Nobody swept for an hour. The node's lease is over, and we cannot know.
    world.now += timedelta(hours=1)
    for _ in range(int(settings.NODE_LEASE_S)):
        provisioning.sweep(now=world.now)
        world.now += timedelta(seconds=1)
    assert world.states(endpoint) == ["ready"]
    # A whole lease later it has had its chance.
    world.now += timedelta(seconds=1)
    provisioning.sweep(now=world.now)
    assert world.states(endpoint) == ["unreachable"]


def test_a_node_that_spoke_in_the_meantime_is_not_marked(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    world.reconcile(endpoint)
    (replica,) = Replica.objects.all()
    world.report(node, said(replica.id, Phase.READY))
    assert not provisioning._mark_unreachable(replica.id, world.now)
    assert world.states(endpoint) == ["ready"]


def test_a_removed_nodes_devices_are_free(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    world.reconcile(endpoint)
    Node.objects.filter(id=node.id).update(removed_at=world.now)
    provisioning.sweep(now=world.now)
    assert world.states(endpoint) == ["failed", "requested"]
    provisioning.sweep(now=world.now)
    assert not DeviceClaim.objects.exists()


# --- Many hands ---------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_many_reconcilers_at_once_make_no_more_than_one() -> None:
    world = World.build()
    world.node(devices=8)
    endpoint = world.endpoint(min_replicas=3, max_replicas=3)
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            if number % 2:
                provisioning.sweep(now=world.now)
            else:
                provisioning.reconcile(endpoint.id, now=world.now)
        except BaseException as error:
            failures.append(error)
        finally:
            close_old_connections()
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    provisioning.sweep(now=world.now)
    assert world.states(endpoint) == ["placed"] * 3
    assert DeviceClaim.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_one_sweep_at_a_time() -> None:
    world = World.build()
    world.node()
    world.endpoint()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.try_hold(provisioning.SWEEP) as alone:
            assert alone
            held.set()
            release.wait()
        connections.close_all()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert provisioning.sweep(now=world.now) == 0
    release.set()
    other.join()
    assert not Replica.objects.exists()


def test_states_are_walked_by_their_names() -> None:
    """A node's phases are states: what it reports needs no translation."""
    assert {phase.value for phase in Phase} <= {state.value for state in State}
