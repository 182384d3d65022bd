"""The game of test_interleavings with gangs: two nodes, each gang on both, whatever happens."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from controlplane.endpoints import assignments
from controlplane.endpoints.models import DeviceClaim, Member, Replica
from controlplane.endpoints.states import LIVE
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.agents import Agent
from tests.workers.test_interleavings import NODES, House, Wishes

JOINS = {"walls": ["uid", "network", "socket", "gang"], "relay": "10.1.0.1:7443"}


class GangAgent(Agent):
    """It starts no engine of a gang before it is told to go."""

    def __init__(self) -> None:
        super().__init__()
        self.go: set[str] = set()
        self.processes: set[str] = set()  # whose engine was started

    def work(self) -> None:
        fetched = {id: e for id, e in self.engines.items() if e.phase is wire.Phase.STARTING}
        waiting = {id: e for id, e in fetched.items() if id not in self.go and e.alive}
        for id in waiting:
            del self.engines[id]
        super().work()
        self.engines |= waiting
        beyond = (wire.Phase.PROBING, wire.Phase.READY)
        self.processes |= {id for id, e in self.engines.items() if e.phase in beyond}
        self.processes &= {id for id, e in self.engines.items() if e.alive}


class GangHouse(House):
    """One endpoint of gangs of two, one device on each of two nodes."""

    def __init__(self) -> None:
        super().__init__()
        Node.objects.update(inventory=JOINS)
        self.gang_agents = [GangAgent() for _ in NODES]
        self.agents = list(self.gang_agents)

    @initialize(wanted=st.integers(1, 2), calm=st.integers(0, 6))
    def start(self, wanted: int, calm: int) -> None:
        self.endpoint = self.world.endpoint(min_replicas=wanted, max_replicas=2, node_count=2)
        self.a_calm_while(calm)

    def wishes(self, n: int) -> tuple[int, Wishes]:
        desired = assignments.desired(self.nodes[n], self.world.now)
        self.gang_agents[n].go = {one.replica_id for one in desired.replicas or () if one.go}
        return super().wishes(n)

    @rule(n=st.sampled_from(NODES), data=st.data())
    def a_member_dies(self, n: int, data: st.DataObject) -> None:
        alive = sorted(id for id, engine in self.agents[n].engines.items() if engine.alive)
        if alive:
            self.agents[n].engines[data.draw(st.sampled_from(alive))].alive = False

    @rule(n=st.sampled_from(NODES))
    def a_node_is_gone(self, n: int) -> None:
        """Cut off for longer than the grace, while the other one goes on talking."""
        for _ in range(4):
            self.world.later(400)
            other = 1 - n
            self.agents[other].apply(*self.wishes(other))
            self.hear(other, self.agents[other].version, self.said(other))

    @invariant()
    def all_members_or_none(self) -> None:
        for replica in Replica.objects.filter(state__in=LIVE).exclude(state="requested"):
            assert sorted(replica.members.values_list("node_id", flat=True)) == sorted(
                node.id for node in self.nodes
            )
            claimed = replica.claims.values_list("device__node_id", flat=True)
            assert sorted(claimed) == sorted(node.id for node in self.nodes)

    @invariant()
    def each_device_is_held_on_the_node_that_uses_it(self) -> None:
        claims = set(DeviceClaim.objects.values_list("device__node_id", "replica_id"))
        for node, agent in zip(self.nodes, self.agents, strict=True):
            running = {(node.id, id) for id, engine in agent.engines.items() if engine.alive}
            assert running <= claims

    @invariant()
    def nobody_starts_alone(self) -> None:
        """An engine was started only where each member had fetched what it needs."""
        for agent in self.gang_agents:
            for id in agent.processes:
                phases = Member.objects.filter(replica_id=id).values_list("phase", flat=True)
                assert "" not in phases

    def it_ends_as_wished(self) -> None:
        self.down, self.up = [], []
        for _ in range(10):
            self.world.later(90)
            for node in self.nodes:
                self.world.heartbeat(node)
            self.a_calm_while(1)
        self.a_calm_while(8)
        self.endpoint.refresh_from_db()
        wanted = 0 if self.endpoint.stopped_at else self.endpoint.min_replicas
        live = Replica.objects.filter(state__in=LIVE)
        assert sorted(live.values_list("state", flat=True)) == ["ready"] * wanted
        for agent in self.agents:
            engines = sorted(id for id, engine in agent.engines.items() if engine.alive)
            assert engines == sorted(live.values_list("id", flat=True))
        assert DeviceClaim.objects.count() == 2 * wanted
        assert not Replica.objects.exclude(state__in=LIVE).filter(released_at=None).exists()


@pytest.mark.django_db
def test_gangs_converge_whatever_happens() -> None:
    budget = settings(
        max_examples=5, stateful_step_count=12, deadline=None, derandomize=True, database=None
    )
    run_state_machine_as_test(GangHouse, settings=budget)
