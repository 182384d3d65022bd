"""Any interleaving of lost, late and repeated messages and of restarts ends as wished.

The control plane is played with the very functions that decide (`reconcile.plan`,
`reports.judge`, the arcs) over a dictionary; nodes keep engines and their records. Between them
lies a network that loses, delays and repeats. Whatever happens:

- a replica never has two engines, and a device never two;
- once the network is whole again, what runs is exactly what is wished.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controlplane.endpoints import backoff, reconcile, reports
from controlplane.endpoints.states import ARCS, COMING, LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.scaling.decide import HOT
from controlplane.scaling.policy import ASLEEP
from tests.endpoints.agents import Agent

LIMITS = {"lease_s": 20.0, "lost_after_s": 100.0, "start_timeout_s": 200.0}
NODES = ("n1", "n2")
CHANGES = {State.PLACED, State.ASLEEP, State.DRAINING, State.STOPPED, State.FAILED}
DEVICES = 2  # per node


@dataclass
class Row:
    id: str
    generation: int
    state: State
    state_at: datetime
    reason: Reason
    node: str | None = None
    device: int | None = None
    wish_version: int = 0
    released: bool = False
    can_sleep: bool = False


class Interleaving(RuleBasedStateMachine):
    @initialize(wanted=st.integers(0, 2), calm=st.integers(0, 7))
    def start(self, wanted: int, calm: int) -> None:
        self.now = datetime(2026, 3, 4, tzinfo=UTC)
        self.up_since = self.now - timedelta(days=1)
        self.rows: dict[str, Row] = {}
        self.wanted, self.on, self.generation = wanted, True, 1
        self.asleep = False
        self.needed_at: datetime | None = None
        self.retry_at: datetime | None = None
        self.failures = 0
        self.versions = dict.fromkeys(NODES, 1)
        self.heard = dict.fromkeys(NODES, self.now)
        self.agents = {name: Agent() for name in NODES}
        # Messages under way: to a node (its boot, a list), from a node (a report).
        self.boots = dict.fromkeys(NODES, 0)
        self.down: list[tuple[str, int, int, dict[str, int | None], frozenset[str]]] = []
        self.up: list[tuple[str, int, dict[str, wire.ReplicaReport]]] = []
        self.a_calm_while(calm)

    # --- the control plane ------------------------------------------------------------

    def view(self) -> tuple[reconcile.EndpointView, list[reconcile.ReplicaView]]:
        needed = self.needed_at and self.now - self.needed_at < timedelta(seconds=50)
        tier = ASLEEP if self.asleep else HOT
        decided = reconcile.Decided(self.wanted or (1 if needed else 0), tier)
        endpoint = reconcile.EndpointView(
            "ep", self.generation, self.on, decided, self.wanted == 0, self.retry_at
        )
        replicas = [
            reconcile.ReplicaView(
                row.id,
                row.generation,
                row.state,
                row.state_at,
                row.reason,
                self.node(row.node),
                can_sleep=row.can_sleep,
            )
            for row in self.rows.values()
            if not row.released
        ]
        return endpoint, replicas

    def node(self, name: str | None) -> reconcile.NodeView | None:
        if name is None:
            return None
        lease = timedelta(seconds=LIMITS["lease_s"])
        until = max(self.heard[name], self.up_since) + lease
        return reconcile.NodeView(name, max(0.0, (self.now - until).total_seconds()))

    def advance(
        self, id: str, to: State, reason: Reason, expected: State, *, released: bool = False
    ) -> bool:
        row = self.rows[id]
        if row.state is not expected or row.state not in LIVE:
            return False
        assert to in ARCS[row.state], f"{row.state} → {to}"
        row.state, row.state_at, row.reason = to, self.now, reason
        if row.node and (expected is State.ASLEEP or to in CHANGES):
            self.versions[row.node] += 1
            row.wish_version = self.versions[row.node]
        row.released = to not in LIVE and (released or row.node is None)
        if to is State.READY:
            self.failures, self.retry_at = 0, None
        elif to is State.FAILED and backoff.counts(reason):
            self.failures += 1
            wait = backoff.delay_s(self.failures, 10, 60)
            self.retry_at = self.now + timedelta(seconds=wait)
        return True

    def act(self, action: reconcile.Action) -> None:
        match action:
            case reconcile.Create(generation, reason):
                id = f"rep_{len(self.rows):04}"
                self.rows[id] = Row(id, generation, State.REQUESTED, self.now, reason)
            case reconcile.Place(id):
                self.place(self.rows[id])
            case reconcile.Stop(id, expected, reason):
                to = State.STOPPED if expected is State.REQUESTED else State.DRAINING
                self.advance(id, to, reason, expected)
            case reconcile.Sleep(id):
                self.advance(id, State.ASLEEP, Reason.IDLE, State.READY)
            case reconcile.Wake(id):
                self.advance(id, State.STARTING, Reason.WAKE, State.ASLEEP)
            case reconcile.Fail(id, expected, reason, _):
                self.advance(id, State.FAILED, reason, expected)
            case reconcile.MarkUnreachable(id):
                self.advance(id, State.UNREACHABLE, Reason.NODE_UNREACHABLE, State.READY)
            case reconcile.Release(id):
                self.rows[id].released = True

    def place(self, row: Row) -> None:
        held = {(r.node, r.device) for r in self.rows.values() if r.node and not r.released}
        reachable = [n for n in NODES if (view := self.node(n)) and not view.quiet_s]
        free = [(n, d) for n in reachable for d in range(DEVICES) if (n, d) not in held]
        if not free or row.state is not State.REQUESTED:
            row.reason = Reason.NO_CAPACITY
            return
        row.node, row.device = free[0]
        self.advance(row.id, State.PLACED, Reason.PLACED, State.REQUESTED)

    def sweep(self) -> None:
        endpoint, replicas = self.view()
        limits = reconcile.Limits(**LIMITS, listening_since=self.up_since)
        for action in reconcile.plan(endpoint, replicas, self.now, limits):
            self.act(action)

    def hear(self, name: str, version: int, said: dict[str, wire.ReplicaReport]) -> None:
        self.heard[name] = self.now
        for row in self.rows.values():
            if row.node != name or row.released:
                continue
            held = reports.Held(row.id, row.state, row.wish_version)
            one = said.get(row.id)
            verdict = reports.judge(held, one, version)
            if verdict.to is not None:
                if verdict.to is State.READY and one is not None:
                    row.can_sleep = one.can_sleep
                self.advance(
                    row.id, verdict.to, verdict.reason, row.state, released=verdict.released
                )
            elif verdict.released:
                row.released = True

    # --- messages ---------------------------------------------------------------------

    def wishes(self, name: str) -> dict[str, int | None]:
        return {
            row.id: row.device if row.state in LIVE - {State.DRAINING} else None
            for row in self.rows.values()
            if row.node == name and not row.released
        }

    def sleepers(self) -> frozenset[str]:
        return frozenset(id for id, row in self.rows.items() if row.state is State.ASLEEP)

    # --- what may happen --------------------------------------------------------------

    @rule(rounds=st.integers(1, 4))
    def a_calm_while(self, rounds: int) -> None:
        """Messages arrive in order, and everybody works."""
        for _ in range(rounds):
            self.now += timedelta(seconds=1)
            self.sweep()
            for name, agent in self.agents.items():
                agent.apply(self.versions[name], self.wishes(name), self.sleepers())
                agent.work()
                self.hear(name, agent.version, agent.report())

    @rule()
    def somebody_reconciles(self) -> None:
        self.sweep()

    @rule(name=st.sampled_from(NODES), arrives=st.booleans())
    def a_list_is_sent(self, name: str, arrives: bool) -> None:
        lists = (self.versions[name], self.wishes(name), self.sleepers())
        self.down.append((name, self.boots[name], *lists))
        if arrives:
            self.agents[name].apply(*lists)

    @rule(name=st.sampled_from(NODES), arrives=st.booleans())
    def a_report_is_sent(self, name: str, arrives: bool) -> None:
        message = (name, self.agents[name].version, self.agents[name].report())
        self.up.append(message)
        if arrives:
            self.hear(*message)

    @rule(data=st.data())
    def an_old_list_arrives(self, data: st.DataObject) -> None:
        """For the first time, or once more."""
        if self.down:
            name, boot, version, wishes, asleep = data.draw(st.sampled_from(self.down))
            if boot == self.boots[name]:  # an answer to a process that died reaches nobody
                self.agents[name].apply(version, wishes, asleep)

    @rule(data=st.data())
    def an_old_report_arrives(self, data: st.DataObject) -> None:
        if self.up:
            self.hear(*data.draw(st.sampled_from(self.up)))

    @rule()
    def the_network_loses_everything(self) -> None:
        self.down, self.up = [], []

    @rule(name=st.sampled_from(NODES))
    def engines_make_progress(self, name: str) -> None:
        self.agents[name].work()

    @rule(name=st.sampled_from(NODES), data=st.data())
    def an_engine_crashes(self, name: str, data: st.DataObject) -> None:
        alive = sorted(id for id, e in self.agents[name].engines.items() if e.alive)
        if alive:
            self.agents[name].engines[data.draw(st.sampled_from(alive))].alive = False

    @rule(name=st.sampled_from(NODES), rebooted=st.booleans(), wiped=st.booleans())
    def an_agent_restarts(self, name: str, rebooted: bool, wiped: bool) -> None:
        agent = self.agents[name]
        self.boots[name] += 1
        agent.version = 0
        if rebooted:
            for engine in agent.engines.values():
                engine.alive = False
            if wiped:
                agent.engines = {}

    @rule(seconds=st.sampled_from([1, 15, 60, 400]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_control_plane_was_away(self) -> None:
        self.now += timedelta(seconds=1000)
        self.up_since = self.now

    @rule(wanted=st.integers(0, 2), on=st.booleans(), changed=st.booleans())
    def somebody_wishes(self, wanted: int, on: bool, changed: bool) -> None:
        self.wanted, self.on = wanted, on
        self.generation += changed
        self.sweep()

    @rule()
    def a_request_wakes_it(self) -> None:
        self.needed_at = self.now
        self.sweep()

    @rule(asleep=st.booleans())
    def it_may_sleep(self, asleep: bool) -> None:
        self.asleep = asleep
        self.sweep()

    # --- what must hold ---------------------------------------------------------------

    @invariant()
    def no_device_has_two_engines(self) -> None:
        for name, agent in self.agents.items():
            used = [e.device for e in agent.engines.values() if e.alive]
            assert len(used) == len(set(used)), f"{name}: {agent.engines}"

    @invariant()
    def no_replica_has_two_engines(self) -> None:
        running = self.running()
        assert len(running) == len(set(running))

    @invariant()
    def a_free_device_has_no_engine(self) -> None:
        assert not [id for id in self.running() if self.rows[id].released]

    def running(self) -> list[str]:
        return [id for a in self.agents.values() for id, e in a.engines.items() if e.alive]

    def teardown(self) -> None:
        """The network is whole again: messages in order, nobody crashes."""
        if not hasattr(self, "rows"):
            return
        self.down, self.up = [], []
        for _ in range(60):
            self.now += timedelta(seconds=4)
            self.a_calm_while(1)
        live = {row.id: row for row in self.rows.values() if row.state in LIVE}
        assert sorted(self.running()) == sorted(live), (self.agents, live)
        wanted = self.wanted if self.on else 0
        assert len(live) == wanted, (wanted, live)
        resting = {id for id, row in live.items() if self.asleep and row.can_sleep}
        assert all(
            row.state is (State.ASLEEP if id in resting else State.READY)
            for id, row in live.items()
        ), live
        phases = {id: str(e.phase) for a in self.agents.values() for id, e in a.engines.items()}
        assert all(phases[id] == str(row.state) for id, row in live.items()), (phases, live)
        assert all(row.generation == self.generation for row in live.values()), live
        assert all(row.released for row in self.rows.values() if row.state not in LIVE)
        assert not COMING & {row.state for row in live.values()}


Interleaving.TestCase.settings = settings(
    max_examples=180, stateful_step_count=30, deadline=None, derandomize=True
)
TestInterleaving = Interleaving.TestCase
