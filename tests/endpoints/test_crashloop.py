"""An engine that crashes again and again never holds a device hostage."""

from django.conf import settings

from controlplane.endpoints.models import DeviceClaim, Endpoint, Replica
from controlplane.fleet.models import Node
from controlplane.fleet.wire import Phase
from tests.endpoints.world import World, said


def test_between_its_tries_another_gets_the_device(world: World) -> None:
    node = world.node(devices=1)
    broken, patient = world.endpoint(name="broken"), world.endpoint(name="patient")
    world.reconcile(broken)
    world.reconcile(patient)
    assert world.states(patient) == ["requested"]
    assert waits(crash(world, node, broken)) == settings.RETRY_BASE_S
    assert not DeviceClaim.objects.exists()
    # It waits its time out, and the device is another's at once.
    world.reconcile(broken)
    world.reconcile(patient)
    assert (world.states(broken), world.states(patient)) == (["failed"], ["placed"])
    world.report(node, said(Replica.objects.get(endpoint=patient).id, Phase.READY))
    world.later(settings.RETRY_BASE_S + 1)
    world.reconcile(broken)
    assert world.states(broken) == ["failed", "requested"]
    assert world.states(patient) == ["ready"]


def test_alone_it_is_tried_ever_more_rarely_and_holds_nothing_in_between(world: World) -> None:
    node = world.node(devices=1)
    broken = world.endpoint(name="broken")
    held_s = 0.0
    waited = []
    for _ in range(12):
        world.heartbeat(node)
        world.reconcile(broken)
        began = world.now
        world.later(3)
        waited.append(waits(crash(world, node, broken)))
        held_s += (world.now - began).total_seconds()
        assert not DeviceClaim.objects.exists()
        world.reconcile(broken)
        assert "placed" not in world.states(broken)
        world.later(waited[-1])
    assert waited == sorted(waited) and waited[-1] == settings.RETRY_MAX_S
    assert held_s == 12 * 3.0


def crash(world: World, node: Node, endpoint: Endpoint) -> Endpoint:
    """Its newest replica's engine ends at its start, and its node says so when nothing is left."""
    replica = Replica.objects.filter(endpoint=endpoint).latest("id")
    assert replica.state == "placed"
    world.report(node, said(replica.id, Phase.STARTING))
    assert DeviceClaim.objects.filter(replica=replica).exists()
    world.report(node, said(replica.id, Phase.FAILED, reason="engine_exited"))
    endpoint.refresh_from_db()
    return endpoint


def waits(endpoint: Endpoint) -> float:
    """Seconds until the next try, counted from the failure."""
    assert endpoint.retry_at is not None
    failed = Replica.objects.filter(endpoint=endpoint).latest("id")
    return (endpoint.retry_at - failed.state_at).total_seconds()
