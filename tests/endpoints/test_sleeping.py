"""A replica that sleeps: what its node is told, what is billed, who gets its devices."""

import pytest

from controlplane.endpoints import conditions, funding, services, sleeping
from controlplane.endpoints.models import DeviceClaim, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Node
from controlplane.fleet.wire import Phase, StartTier
from tests.endpoints.world import World, said


def asleep(world: World, node: Node, **spec: object) -> Replica:
    replica = world.replica(world.endpoint(min_replicas=0, **spec), node, State.READY)
    assert sleeping.sleep(replica.id, now=world.now)
    replica.refresh_from_db()
    return replica


def test_it_is_told_to_sleep_and_is_not_billed(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(min_replicas=0), node, State.READY)
    assert world.desired(node)[replica.id].sleep is False
    began = world.now
    world.later(10)
    world.report(node, said(replica.id, Phase.READY, ready_s=10.0, can_sleep=True))
    assert sleeping.sleep(replica.id, now=world.now)
    wish = world.desired(node)[replica.id]
    assert wish.run and wish.sleep and wish.spec is not None and wish.spec.may_sleep
    assert not sleeping.sleep(replica.id, now=world.now)
    world.later(50)
    world.report(node, said(replica.id, Phase.ASLEEP, ready_s=10.0, can_sleep=True))
    (interval,) = world.intervals(replica)
    assert (interval.started_at, interval.served_s) == (began, 10.0)
    assert interval.ended_at is not None and (interval.ended_at - began).total_seconds() == 10
    assert funding.renew(now=world.now) == set()
    assert DeviceClaim.objects.filter(replica=replica).exists()
    assert conditions.summarize(replica.endpoint, [refreshed(replica)]).status == "asleep"


def test_it_wakes_as_a_wake_and_is_billed_again(world: World, node: Node) -> None:
    replica = asleep(world, node)
    before = world.desired(node)
    world.later(60)
    assert sleeping.wake(replica.id, now=world.now)
    assert world.desired(node)[replica.id].sleep is False and before[replica.id].sleep
    stale = Node.objects.get(id=node.id).desired_version - 1
    # It has not heard of its waking yet: whatever it was before says nothing.
    for phase in (Phase.READY, Phase.PROBING, Phase.ASLEEP):
        world.report(node, said(replica.id, phase, can_sleep=True), version=stale)
        assert refreshed(replica).state == "starting"
    world.report(node, said(replica.id, Phase.ASLEEP, can_sleep=True))
    assert refreshed(replica).state == "starting"
    world.later(2)
    up = said(replica.id, Phase.READY, can_sleep=True, start_tier=StartTier.WAKE, ready_s=3.0)
    world.report(node, up)
    assert (refreshed(replica).state, refreshed(replica).start_tier) == ("ready", "wake")
    world.later(5)
    world.report(node, said(replica.id, Phase.READY, can_sleep=True, ready_s=8.0))
    assert [one.served_s for one in world.intervals(replica)] == [0.0, 5.0]


def test_one_that_refuses_is_routed_again(world: World, node: Node) -> None:
    replica = asleep(world, node)
    # Not before its node has heard of it, nor while it says that it can.
    stale = Node.objects.get(id=node.id).desired_version - 1
    world.report(node, said(replica.id, Phase.READY), version=stale)
    world.report(node, said(replica.id, Phase.READY, can_sleep=True))
    assert refreshed(replica).state == "asleep"
    world.report(node, said(replica.id, Phase.READY, can_sleep=False))
    found = refreshed(replica)
    assert (found.state, found.reason, found.can_sleep) == ("ready", "cannot_sleep", False)


def test_a_request_wakes_it(world: World, node: Node) -> None:
    """A wake is asked for where nothing serves, and an engine that sleeps serves nobody."""
    replica = asleep(world, node)
    assert services.request_wake(replica.endpoint_id, world.later(1))
    world.reconcile(replica.endpoint)
    assert refreshed(replica).state == "starting"
    assert refreshed(replica).reason == "wake"


@pytest.mark.parametrize("awake", [False, True])
def test_it_yields_its_device_to_who_needs_one(world: World, awake: bool) -> None:
    node = world.node(devices=1)
    replica = asleep(world, node)
    if awake:
        assert sleeping.wake(replica.id, now=world.now)
    other = world.endpoint(name="other")
    for _ in range(3):  # one yields, however often it is asked for
        world.later(2)
        world.reconcile(other)
    assert world.states(other) == ["requested"]
    if awake:
        assert refreshed(replica).state == "starting"
        return
    found = refreshed(replica)
    assert (found.state, found.reason) == ("draining", Reason.YIELDED)
    world.report(node, said(replica.id, Phase.STOPPED))
    world.reconcile(other)
    assert world.states(other) == ["placed"]


def test_only_as_many_yield_as_are_needed(world: World) -> None:
    node = world.node(devices=3)
    sleepers = [world.replica(world.endpoint(name=name), node) for name in ("a", "b", "c")]
    world.report(node, *(said(one.id, Phase.READY) for one in sleepers))
    for one in sleepers:
        world.later(1)
        assert sleeping.sleep(one.id, now=world.now)
    big = world.endpoint(name="big", device_count=2)
    for _ in range(2):
        world.reconcile(big)
    assert [refreshed(one).state for one in sleepers] == ["draining", "draining", "asleep"]


def refreshed(replica: Replica) -> Replica:
    return Replica.objects.select_related("endpoint").get(id=replica.id)
