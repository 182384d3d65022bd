"""The same game as tests/endpoints/test_convergence, with the real rooms on a real database.

There the decisions are shown to converge under many more interleavings; here that the code around
them (versions, claims, intervals, assignments) keeps its part.
"""

from itertools import pairwise

import pytest
from django.db import transaction
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from controlplane.endpoints import assignments, services
from controlplane.endpoints.models import DeviceClaim, Endpoint, Replica, ServingInterval
from controlplane.endpoints.states import LIVE, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.agents import Agent
from tests.endpoints.world import ACTOR, World
from workers import provisioning

NODES = (0, 1)
Wishes = dict[str, int | None]


class House(RuleBasedStateMachine):
    """One endpoint, two nodes of two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.undo = transaction.atomic()
        self.undo.__enter__()
        self.world = World.build()
        self.nodes: list[Node] = [self.world.node(f"n{n}") for n in NODES]
        self.agents = [Agent() for _ in NODES]
        self.down: list[tuple[int, int, Wishes]] = []
        self.up: list[tuple[int, int, list[wire.ReplicaReport]]] = []

    @initialize(wanted=st.integers(1, 2), calm=st.integers(0, 6))
    def start(self, wanted: int, calm: int) -> None:
        self.endpoint: Endpoint = self.world.endpoint(min_replicas=wanted, max_replicas=2)
        self.a_calm_while(calm)

    def wishes(self, n: int) -> tuple[int, Wishes]:
        desired = assignments.desired(self.nodes[n], self.world.now)
        listed = desired.replicas or []
        return desired.version, {
            one.replica_id: one.spec.device_indexes[0] if one.spec else None for one in listed
        }

    def said(self, n: int) -> list[wire.ReplicaReport]:
        return list(self.agents[n].report().values())

    def hear(self, n: int, version: int, said: list[wire.ReplicaReport]) -> None:
        self.world.report(self.nodes[n], *said, version=version)

    @rule(rounds=st.integers(1, 4))
    def a_calm_while(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.later(1)
            provisioning.sweep(now=self.world.now)
            for n, agent in enumerate(self.agents):
                agent.apply(*self.wishes(n))
                agent.work()
                self.hear(n, agent.version, self.said(n))

    @rule()
    def a_sweep(self) -> None:
        provisioning.sweep(now=self.world.now)

    @rule(n=st.sampled_from(NODES), arrives=st.booleans())
    def a_list_is_sent(self, n: int, arrives: bool) -> None:
        self.down.append((n, *self.wishes(n)))
        if arrives:
            self.agents[n].apply(*self.down[-1][1:])

    @rule(n=st.sampled_from(NODES), arrives=st.booleans())
    def a_report_is_sent(self, n: int, arrives: bool) -> None:
        self.up.append((n, self.agents[n].version, self.said(n)))
        if arrives:
            self.hear(*self.up[-1])

    @rule(data=st.data())
    def an_old_list_arrives(self, data: st.DataObject) -> None:
        if self.down:
            n, version, wishes = data.draw(st.sampled_from(self.down))
            self.agents[n].apply(version, wishes)

    @rule(data=st.data())
    def an_old_report_arrives(self, data: st.DataObject) -> None:
        if self.up:
            self.hear(*data.draw(st.sampled_from(self.up)))

    @rule(n=st.sampled_from(NODES))
    def engines_make_progress(self, n: int) -> None:
        self.agents[n].work()

    @rule(n=st.sampled_from(NODES))
    def a_node_reboots(self, n: int) -> None:
        self.down = [one for one in self.down if one[0] != n]
        self.agents[n].version = 0
        for engine in self.agents[n].engines.values():
            engine.alive = False

    @rule(seconds=st.sampled_from([1, 25, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.later(seconds)
        provisioning.sweep(now=self.world.now)

    @rule(verb=st.sampled_from([services.stop, services.start]))
    def somebody_wishes(self, verb: object) -> None:
        assert callable(verb)
        verb(actor=ACTOR, endpoint=self.endpoint, now=self.world.now)
        provisioning.reconcile(self.endpoint.id, now=self.world.now)

    @invariant()
    def no_engine_on_a_device_that_is_not_claimed_for_it(self) -> None:
        claims = {
            (claim.replica_id, claim.device.index)
            for claim in DeviceClaim.objects.select_related("device")
        }
        for agent in self.agents:
            running = {(id, e.device) for id, e in agent.engines.items() if e.alive}
            assert running <= claims

    @invariant()
    def only_ready_replicas_are_billed(self) -> None:
        serving = set(
            ServingInterval.objects.filter(ended_at=None).values_list("replica_id", flat=True)
        )
        ready = set(Replica.objects.filter(state=State.READY).values_list("id", flat=True))
        assert serving == ready

    def teardown(self) -> None:
        try:
            if hasattr(self, "endpoint"):
                self.it_ends_as_wished()
        finally:
            transaction.set_rollback(True)
            self.undo.__exit__(None, None, None)

    def it_ends_as_wished(self) -> None:
        self.down, self.up = [], []
        for _ in range(8):
            self.world.later(90)
            for node in self.nodes:
                self.world.heartbeat(node)
            self.a_calm_while(1)
        self.a_calm_while(4)
        self.endpoint.refresh_from_db()
        wanted = 0 if self.endpoint.stopped_at else self.endpoint.min_replicas
        live = Replica.objects.filter(state__in=LIVE)
        assert sorted(live.values_list("state", flat=True)) == ["ready"] * wanted
        engines = [id for a in self.agents for id, e in a.engines.items() if e.alive]
        assert sorted(engines) == sorted(live.values_list("id", flat=True))
        assert DeviceClaim.objects.count() == wanted
        assert not Replica.objects.exclude(state__in=LIVE).filter(released_at=None).exists()
        for replica in Replica.objects.all():
            arcs = list(replica.transitions.order_by("id"))
            assert all(a.to_state == b.from_state for a, b in pairwise(arcs))


@pytest.mark.django_db
def test_the_real_rooms_converge_too() -> None:
    budget = settings(
        max_examples=8, stateful_step_count=12, deadline=None, derandomize=True, database=None
    )
    run_state_machine_as_test(House, settings=budget)
