"""The sweep's statement never leaves out an endpoint for which `plan` has something to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.endpoints import due, observe, pulse
from controlplane.endpoints.models import Activity, Endpoint, Pulse, Replica, Scaling
from controlplane.endpoints.reconcile import plan
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.world import World, said
from workers import provisioning

LEASE_S = django_settings.NODE_LEASE_S
NODES = 3
AGES = st.sampled_from(
    [0.0, 1.0, LEASE_S, 2 * LEASE_S + 1, django_settings.NODE_LOST_AFTER_S + LEASE_S, 86_400.0]
)
MOMENTS = st.none() | AGES  # so long ago
LATER = st.none() | st.sampled_from([-30.0, -1.0, 0.0, 1.0, 3600.0])  # in so long


def rarely(draw: st.DrawFn) -> bool:
    return draw(st.integers(0, 5)) == 5


@dataclass(frozen=True)
class Drawn:
    nodes: list[dict[str, float | None]]
    endpoints: list[dict[str, Any]]
    scalings: list[dict[str, Any] | None]
    replicas: list[dict[str, Any]]
    pressed: list[tuple[int, float]]  # an endpoint, and how long ago
    listening: float | None  # since so long ago; None: nobody listens
    unfunded: int  # so many of the replicas, from the first on


def a_node(draw: st.DrawFn) -> dict[str, float | None]:
    return {
        "lease_until": draw(MOMENTS | LATER) if rarely(draw) else -10.0,
        "removed_at": 5.0 if rarely(draw) else None,
        "drain_requested_at": 5.0 if rarely(draw) else None,
    }


def an_endpoint(draw: st.DrawFn) -> dict[str, Any]:
    least = draw(st.integers(0, 2))
    return {
        "min_replicas": least,
        "max_replicas": draw(st.integers(max(1, least), 3)),
        "scale_to_zero_timeout_s": draw(st.sampled_from([10, 3600])),
        "generation": draw(st.integers(1, 2)),
        "stopped_at": 5.0 if rarely(draw) else None,
        "deleted_at": 5.0 if rarely(draw) else None,
        "wake_requested_at": draw(MOMENTS) if rarely(draw) else None,
        "retry_at": draw(MOMENTS) if rarely(draw) else None,
        "unfunded_at": draw(MOMENTS) if rarely(draw) else None,
    }


def a_scaling(draw: st.DrawFn, least: int) -> dict[str, Any] | None:
    if rarely(draw):
        return None
    return {
        "replicas": draw(st.integers(0, 3)) if rarely(draw) else least,
        "tier": draw(st.sampled_from(["hot", "asleep", "off"])) if rarely(draw) else "hot",
        "look_at": draw(st.none() | AGES) if rarely(draw) else -3600.0,
    }


def a_replica(draw: st.DrawFn, of: int, generation: int) -> dict[str, Any]:
    state = draw(st.sampled_from(sorted(State))) if rarely(draw) else State.READY
    placed = state is not State.REQUESTED
    return {
        "endpoint": of,
        "state": state,
        "node": draw(st.integers(0, NODES - 1)) if placed else None,
        "generation": draw(st.integers(1, 2)) if rarely(draw) else generation,
        "state_at": draw(AGES),
        "released_at": draw(st.sampled_from([None, 1.0])) if state not in LIVE else None,
        "can_sleep": rarely(draw),
        "reason": Reason.NO_CAPACITY if rarely(draw) else Reason.SCALE_UP,
    }


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Mostly settled, so that what is not stands out."""
    endpoints = [an_endpoint(draw) for _ in range(draw(st.integers(1, 4)))]
    counts = [draw(st.integers(0, 3)) if rarely(draw) else one["min_replicas"] for one in endpoints]
    return Drawn(
        nodes=[a_node(draw) for _ in range(NODES)],
        endpoints=endpoints,
        scalings=[a_scaling(draw, one["min_replicas"]) for one in endpoints],
        replicas=[
            a_replica(draw, of, endpoints[of]["generation"])
            for of, count in enumerate(counts)
            for _ in range(count)
        ],
        pressed=draw(st.lists(st.tuples(st.integers(0, 3), AGES), max_size=2)),
        listening=draw(AGES) if rarely(draw) else 86_400.0,
        unfunded=draw(st.integers(1, 2)) if rarely(draw) else 0,
    )


def write(world: World, picture: Drawn) -> list[str]:
    """The rows of it; returns the replicas that nobody pays for."""

    def facts(of: dict[str, Any]) -> dict[str, Any]:
        """Seconds ago become moments."""
        times = {name for name in of if name.endswith("_at") or name == "lease_until"}
        ago = {name: of[name] for name in times if of[name] is not None}
        return of | {name: world.now - timedelta(seconds=age) for name, age in ago.items()}

    nodes = [world.node(f"n{n}", devices=1) for n in range(NODES)]
    for node, changes in zip(nodes, picture.nodes, strict=True):
        Node.objects.filter(id=node.id).update(**facts(changes))
    endpoints = [
        world.endpoint(
            name=f"e{n}", **{name: one[name] for name in ("min_replicas", "max_replicas")}
        )
        for n, one in enumerate(picture.endpoints)
    ]
    for endpoint, changes in zip(endpoints, picture.endpoints, strict=True):
        Endpoint.objects.filter(id=endpoint.id).update(**facts(changes))
    Scaling.objects.all().delete()
    for endpoint, known in zip(endpoints, picture.scalings, strict=True):
        if known is not None:
            Scaling.objects.create(endpoint=endpoint, **facts(known))
    made = [
        Replica.objects.create(
            **facts(one)
            | {
                "endpoint": endpoints[one["endpoint"]],
                "node": None if one["node"] is None else nodes[one["node"]],
                "created_at": world.now,
            }
        )
        for one in picture.replicas
    ]
    for of, age in picture.pressed:
        row = Activity.objects.create(
            endpoint_id=endpoints[of % len(endpoints)].id, gateway_id="g", in_flight=0, waiting=1
        )
        Activity.objects.filter(id=row.id).update(at=world.now - timedelta(seconds=age))
    if picture.listening is None:
        Pulse.objects.all().delete()
    else:
        since = world.now - timedelta(seconds=picture.listening)
        Pulse.objects.update_or_create(name=pulse.SWEEP, defaults={"since": since, "at": world.now})
    return [one.id for one in made[: picture.unfunded]]


def wants(world: World, unfunded: list[str]) -> set[str]:
    """The endpoints for which `plan` has an action, of all that there are."""
    every = list(Endpoint.objects.values_list("id", flat=True))
    with mock.patch.object(due, "endpoints", lambda **_: every):
        pictures = observe.pictures(now=world.now, unfunded=unfunded)
    return {
        one.endpoint.id
        for one in pictures.each
        if plan(one.endpoint, one.replicas, pictures.at, pictures.limits)
    }


def chosen(world: World, unfunded: list[str]) -> set[str]:
    pictures = observe.pictures(now=world.now, unfunded=unfunded)
    return {one.endpoint.id for one in pictures.each}


@pytest.mark.django_db
@given(picture=drawn())
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nobody_who_needs_something_is_left_out(picture: Drawn) -> None:
    with transaction.atomic():
        world = World.build()
        unfunded = write(world, picture)
        assert wants(world, unfunded) <= chosen(world, unfunded)
        transaction.set_rollback(True)


@pytest.fixture
def settled(world: World) -> Iterator[World]:
    """Four endpoints: two that serve, one that sleeps, one that is stopped."""
    nodes = [world.node("n1", devices=2), world.node("n2", devices=2)]
    for name, least in (("a", 1), ("b", 2), ("c", 0), ("d", 1)):
        world.endpoint(name=name, min_replicas=least, max_replicas=2)
    Endpoint.objects.filter(name="d").update(stopped_at=world.now)
    provisioning.sweep(now=world.now)
    for node in nodes:
        mine = Replica.objects.filter(node=node)
        world.report(node, *(said(one.id, wire.Phase.READY) for one in mine))
    assert Replica.objects.filter(state=State.READY).count() == 3
    provisioning.sweep(now=world.now)  # looks at those again that have become ready
    yield world


def test_what_is_settled_is_not_loaded(settled: World) -> None:
    assert chosen(settled, []) == set()
    Endpoint.objects.filter(name="a").update(generation=2)
    assert chosen(settled, []) == {Endpoint.objects.get(name="a").id}


def test_a_look_that_is_due_and_a_hint_that_was_lost_are_found(settled: World) -> None:
    first, sleeper = (Endpoint.objects.get(name=name) for name in ("a", "c"))
    Scaling.objects.filter(endpoint=first).update(look_at=settled.now)
    assert chosen(settled, []) == {first.id}
    row = Activity.objects.create(endpoint_id=sleeper.id, gateway_id="g", in_flight=0, waiting=1)
    Activity.objects.filter(id=row.id).update(at=settled.now)
    assert chosen(settled, []) == {first.id, sleeper.id}


def test_a_node_that_falls_silent_brings_those_on_it(settled: World) -> None:
    node = Node.objects.get(name="n1")
    Node.objects.filter(id=node.id).update(lease_until=settled.now - timedelta(seconds=1))
    concerned = Replica.objects.filter(node=node).values_list("endpoint_id", flat=True)
    assert chosen(settled, []) == set(concerned)
    limits = observe._limits(settled.now)
    assert due.endpoints(now=settled.now, limits=limits) == sorted(set(concerned))
