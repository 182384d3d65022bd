"""Each condition of the sweep's statement by itself: one thing of a settled endpoint is changed,
and it must be loaded, because `plan` then has something to do; or it must not, for nothing is."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from controlplane.endpoints import due, observe, pulse
from controlplane.endpoints.models import Activity, Endpoint, Member, Pulse, Replica, Scaling
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.test_due import chosen, wants
from tests.endpoints.world import World, said
from workers import provisioning

LEASE_S = settings.NODE_LEASE_S
LONG_S = 10 * 86_400.0
Case = Callable[["One"], None]


class One:
    """An endpoint with a replica that serves on a node of its own, and has all it wants."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.unfunded: list[str] = []
        self.node = world.node("n1", devices=1)
        self.endpoint = world.endpoint(name="a", min_replicas=1, max_replicas=2)
        provisioning.sweep(now=world.now)
        self.replica = Replica.objects.get()
        world.report(self.node, said(self.replica.id, wire.Phase.READY))
        provisioning.sweep(now=world.now)

    def ago(self, seconds: float) -> Any:
        return self.world.now - timedelta(seconds=seconds)

    def of_endpoint(self, **facts: Any) -> None:
        Endpoint.objects.filter(id=self.endpoint.id).update(**facts)

    def of_replica(self, **facts: Any) -> None:
        Replica.objects.filter(id=self.replica.id).update(**facts)

    def of_node(self, **facts: Any) -> None:
        Node.objects.filter(id=self.node.id).update(**facts)

    def decided(self, **facts: Any) -> None:
        Scaling.objects.filter(endpoint=self.endpoint).update(**facts)

    def listening(self, seconds: float) -> None:
        Pulse.objects.filter(name=pulse.SWEEP).update(since=self.ago(seconds))

    def silent(self, seconds: float = 2 * LEASE_S, **facts: Any) -> None:
        self.of_node(lease_until=self.ago(seconds), created_at=self.ago(LONG_S), **facts)

    def another(self, state: State, **facts: Any) -> Replica:
        """One more of its replicas."""
        node = facts.pop("node", self.node)
        return Replica.objects.create(
            endpoint=self.endpoint,
            state=state,
            reason=Reason.ENGINE_EXITED,
            node=node,
            generation=1,
            state_at=self.world.now,
            created_at=self.world.now,
            **facts,
        )

    def gang(self, state: State) -> Node:
        """The replica stands on two nodes; returns the second."""
        other = self.world.node("n2")
        self.of_replica(node=None, node_count=2, state=state)
        for rank, node in enumerate((self.node, other)):
            Member.objects.create(replica=self.replica, rank=rank, node=node)
        return other

    def seen(self, ago_s: float = 0.0, **facts: Any) -> None:
        given = {"in_flight": 1, "waiting": 0} | facts
        row = Activity.objects.create(endpoint_id=self.endpoint.id, gateway_id="g", **given)
        Activity.objects.filter(id=row.id).update(at=self.ago(ago_s))

    def off(self, **facts: Any) -> None:
        """It wants none, and has none."""
        self.of_endpoint(**facts)
        self.of_replica(state=State.STOPPED, released_at=self.world.now)
        self.decided(look_at=self.world.now)
        self.seen(waiting=1)


def removed_gang_is_over(one: One) -> None:
    one.gang(State.FAILED)
    one.of_node(removed_at=one.world.now)
    one.decided(replicas=0)
    one.of_endpoint(min_replicas=0)


def draining_gang(one: One) -> None:
    one.listening(1.0)
    other = one.gang(State.READY)
    Node.objects.filter(id=other.id).update(drain_requested_at=one.world.now)


def never_heard(one: One) -> None:
    one.of_node(lease_until=None, created_at=one.ago(LONG_S))


def nobody_left(one: One) -> None:
    one.of_replica(state=State.STOPPED, released_at=one.world.now)


def should_sleep(one: One) -> None:
    one.of_replica(can_sleep=True)
    one.decided(tier="asleep")


def sleeps(one: One) -> None:
    one.of_replica(state=State.ASLEEP, can_sleep=True)
    one.decided(tier="asleep")


def heard_of_late(one: One) -> None:
    one.silent()
    one.listening(1.0)


def nobody_listens(one: One) -> None:
    one.silent()
    Pulse.objects.all().delete()


def over_elsewhere(one: One, **facts: Any) -> None:
    node = one.world.node("n2", **facts)
    one.another(State.FAILED, node=node)


def released_elsewhere(one: One) -> None:
    over_elsewhere(one, removed_at=one.world.now)
    Replica.objects.filter(state=State.FAILED).update(released_at=one.world.now)


def one_too_few(one: One) -> None:
    """What is over counts for nothing."""
    over_elsewhere(one)
    one.decided(replicas=2)
    one.of_endpoint(min_replicas=2)


def due_now(one: One) -> None:
    one.of_endpoint(min_replicas=2)
    one.decided(look_at=one.world.now)


def never_looked(one: One) -> None:
    one.of_endpoint(min_replicas=2)
    one.decided(look_at=None)


def unknown(one: One) -> None:
    one.of_endpoint(min_replicas=2)
    Scaling.objects.all().delete()


WANTED: dict[str, Case] = {
    "a draining replica has no successor": lambda one: one.of_replica(state=State.DRAINING),
    "a start is stuck": lambda one: one.of_replica(
        state=State.STARTING, state_at=one.ago(LONG_S / 20)
    ),
    "a replica waits to be placed": lambda one: one.of_replica(state=State.REQUESTED, node=None),
    "it should sleep": should_sleep,
    "it should wake": lambda one: one.of_replica(state=State.ASLEEP, can_sleep=True),
    "its node is drained": lambda one: one.of_node(drain_requested_at=one.world.now),
    "its node was removed": lambda one: one.of_node(removed_at=one.world.now),
    "a node of its gang is drained": draining_gang,
    "nobody pays": lambda one: one.unfunded.append(one.replica.id),
    "it is of an older version": lambda one: one.of_endpoint(generation=2),
    "its node is silent": One.silent,
    "its node was never heard": never_heard,
    "what is over lies on a node that was removed": lambda one: over_elsewhere(
        one, removed_at=one.world.now
    ),
    "a gang that is over lost a node": removed_gang_is_over,
    "it was stopped": lambda one: one.of_endpoint(stopped_at=one.world.now),
    "it was deleted": lambda one: one.of_endpoint(deleted_at=one.world.now),
    "it is unknown": unknown,
    "it was never looked at": never_looked,
    "a look is due": due_now,
    "more are wanted": lambda one: one.decided(replicas=2),
    "fewer are wanted": lambda one: one.decided(replicas=0),
    "none is left": nobody_left,
    "one is over and one is missing": one_too_few,
    "somebody waits": lambda one: one.seen(3.0, waiting=400),
    "gateways have more than is ready": lambda one: one.seen(3.0, pressed=True, running=400),
}
SETTLED: dict[str, Case] = {
    "as it is": lambda one: None,
    "it could sleep": lambda one: one.of_replica(can_sleep=True),
    "it cannot sleep": lambda one: one.decided(tier="asleep"),
    "it sleeps": sleeps,
    "its lease ends now": lambda one: one.silent(0.0),
    "we listen only again": heard_of_late,
    "nobody listens": nobody_listens,
    "its node came just now": lambda one: one.of_node(lease_until=None, created_at=one.world.now),
    "its node is old and heard": lambda one: one.silent(-1.0),
    "what is over is held": over_elsewhere,
    "what was released lies on a node that was removed": released_elsewhere,
    "it is stopped": lambda one: one.off(stopped_at=one.world.now),
    "it is deleted": lambda one: one.off(deleted_at=one.world.now),
    "somebody waited": lambda one: one.seen(6.0, waiting=400, pressed=True),
    "gateways are at ease": lambda one: one.seen(in_flight=400, running=400),
}


@pytest.fixture
def one(world: World) -> One:
    return One(world)


def after(one: One, change: Case) -> tuple[bool, bool]:
    """Whether `plan` has something to do then, and whether it is asked."""
    with transaction.atomic():
        change(one)
        found = (wants(one.world, one.unfunded), chosen(one.world, one.unfunded))
        transaction.set_rollback(True)
    one.unfunded.clear()
    wanted, loaded = (ids == {one.endpoint.id} for ids in found)
    return wanted, loaded


def test_what_unsettles_an_endpoint_has_it_loaded(one: One) -> None:
    found = {name: after(one, change) for name, change in WANTED.items()}
    assert found == dict.fromkeys(WANTED, (True, True))


def test_what_leaves_it_settled_does_not(one: One) -> None:
    found = {name: after(one, change) for name, change in SETTLED.items()}
    assert found == dict.fromkeys(SETTLED, (False, False))


def test_every_state_but_two_is_looked_at(one: One) -> None:
    for state in LIVE - {State.READY, State.ASLEEP}:
        one.of_replica(state=state)
        assert chosen(one.world, []) == {one.endpoint.id}, state


def test_the_oldest_comes_first(one: One) -> None:
    second = one.world.endpoint(name="b")
    limits = observe._limits(one.world.now)
    one.of_endpoint(generation=2)
    assert due.endpoints(now=one.world.now, limits=limits) == [one.endpoint.id, second.id]
