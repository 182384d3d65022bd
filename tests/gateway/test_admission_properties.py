"""Under any interleaving of the workers of a host, and deaths of some: never above capacity,
nobody forgotten, nobody starved, all undone."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway import table
from gateway.admission import Admission, Ticket
from gateway.config import Config
from gateway.directory import Directory, Endpoint, Key, Replica
from gateway.errors import ApiError
from gateway.limits import Limits
from gateway.loads import SAFE, Place
from gateway.order import FRESH_S
from gateway.pools import Pools
from gateway.table import Table
from gateway.usage import Usage
from tests.gateway.rig import HandKeeper, WatchedActivity

EP = "ep_shared"
PROJECTS = ("prj_a", "prj_b", "prj_c")
# Without aging: it may put somebody first who fits, and then the next end of a request tells.
LIMITS = Limits(held_per_endpoint=8, held_bytes=10_000, aging_s=1e9)


# What a replica says of itself: tokens that it holds, sequences that it runs.
KV = st.sampled_from((None, 1000, 4000))
SEQUENCES = st.sampled_from((1, 4, None))


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes when it is told to."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Whatever is due, and what follows from it."""
        self.run_until_complete(_turns())


async def _turns() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


class Shared(Directory):
    """Its endpoint is everybody's, as a published one is."""

    def endpoint(self, project_id: str, name_or_id: str) -> Endpoint | None:
        return self._by_id.get(name_or_id)


def key(project: str, priority: int) -> Key:
    return Key("key", project, "org", frozenset(), frozenset(), None, priority=priority)


def endpoint(replicas: Sequence[Replica], *, stopped: bool = False) -> Endpoint:
    return Endpoint(
        EP, "prj_a", "org", "eu", "shared", "o/m", frozenset(), stopped, 1, tuple(replicas), None,
    )  # fmt: skip


class Worker:
    """One process of the gateway, as far as this goes."""

    def __init__(self, crowd: "Crowds", name: str) -> None:
        self.name = name
        self.activity = WatchedActivity()
        self._table = Table(crowd.memory, name)

        async def make() -> Admission:
            return Admission(crowd.keeper, self.activity, Pools(), LIMITS, self._table)

        self.admission = crowd.loop.run_until_complete(make())

    def die(self) -> None:
        """What it holds stays until it is buried."""
        for line in self.admission._lines.values():
            for ticket in line.queue:
                ticket.line = None
                if ticket.timer is not None:
                    ticket.timer.cancel()
            if line.handle is not None:
                line.handle.cancel()
        for timer in (self.admission._watch, self.admission._round):
            if timer is not None:
                timer.cancel()
        self._table.close()


class Asker:
    """A request: waits, runs, ends; its life is checked to be one of these at a time."""

    def __init__(self, worker: Worker, place: Place) -> None:
        self.worker = worker
        self.place = place
        self.state = "new"
        self.replica: Replica | None = None
        self.ticket: Ticket | None = None

    def take_place(self, endpoint: Endpoint, replicas: Sequence[Replica]) -> bool:
        assert self.state in ("new", "waiting")
        taken = self.worker.admission.loads.take(replicas[-1], self.place)
        if taken:
            self.replica = replicas[-1]
        return taken

    def admitted(self, endpoint: Endpoint) -> None:
        assert self.state in ("new", "waiting")
        assert self.replica
        self.state = "running"

    def still_waiting(self) -> None:
        assert self.state == "waiting"

    def turned_away(self, error: ApiError) -> None:
        assert self.state == "waiting"
        assert error.retry_after_s is None or error.retry_after_s > 0
        self.state = "refused"

    def broken(self) -> None:
        raise AssertionError("admitted() failed")


class Crowds(RuleBasedStateMachine):
    @initialize(kv=KV, sequences=SEQUENCES)
    def begin(self, kv: int | None, sequences: int | None) -> None:
        self.loop = Clock()
        asyncio.set_event_loop(self.loop)
        config = Config(
            database_url="postgresql://nowhere", pepper=b"p", folder=Path("/nonexistent"),
            gateway_id="gw", region="eu",
        )  # fmt: skip
        self.keeper, self.memory = HandKeeper(config), table.create(256)
        self.askers: list[Asker] = []
        self.generation = 0
        self.replicas = [Replica("rep_0", EP, "unix:/x", kv, sequences)]
        self.lives = 0
        self.unburied: list[Worker] = []
        self.workers: list[Worker] = []
        self.hire()
        self.hire()
        self.publish()

    def hire(self) -> None:
        self.lives += 1
        self.workers.append(Worker(self, f"life {self.lives}"))

    def settle(self) -> None:
        """Until nothing more comes of it; who has died is not waited for any more."""
        quiet_until = 0.0
        while not quiet_until or self.loop.now < quiet_until:
            before = [asker.state for asker in self.askers]
            self.loop.now += 0.02
            self.loop.settle()
            if not quiet_until or before != [asker.state for asker in self.askers]:
                quiet_until = self.loop.now + 2 * FRESH_S

    def publish(self, *, stopped: bool = False) -> None:
        self.generation += 1
        self.endpoint = endpoint(self.replicas, stopped=stopped)
        self.keeper.put(Shared(b"p", {}, [self.endpoint], generation=self.generation, read_at=1.0))
        self.loop.settle()

    def those(self, state: str) -> list[Asker]:
        return [asker for asker in self.askers if asker.state == state]

    # --- what may happen ------------------------------------------------------------------
    @rule(
        project=st.sampled_from(PROJECTS),
        priority=st.integers(0, 2),
        prompt=st.integers(0, 900),
        output=st.integers(1, 900),
        sequences=st.integers(1, 3),
        patience=st.sampled_from((0.0, 5.0, 1000.0)),
        stream=st.booleans(),
        settled=st.booleans(),
        at=st.integers(0, 1),
    )
    def ask(
        self, project: str, priority: int, prompt: int, output: int, sequences: int,
        patience: float, stream: bool, settled: bool, at: int,
    ) -> None:  # fmt: skip
        worker = self.workers[at % len(self.workers)]
        asker = Asker(worker, Place(prompt, output, sequences))
        self.askers.append(asker)

        async def begin() -> None:
            found = worker.admission.open(self.endpoint, asker.place)
            if found and asker.take_place(self.endpoint, found):
                assert not self.those("waiting")  # nobody is overtaken
                asker.admitted(self.endpoint)
                return
            asker.ticket = Ticket(
                asker, key(project, priority), asker.place, "shared", held_bytes=700, avoid=(),
                patience_s=patience, quiet_s=2.0 if stream else None,
            )  # fmt: skip
            asker.state = "waiting"
            try:
                worker.admission.join(asker.ticket, self.endpoint)
            except ApiError:
                asker.state = "refused"

        self.loop.run_until_complete(begin())
        if settled:
            self.settle()

    @precondition(lambda self: self.those("running"))
    @rule(which=st.integers(0, 99), settled=st.booleans())
    def end(self, which: int, settled: bool) -> None:
        running = self.those("running")
        asker = running[which % len(running)]
        asker.state = "ended"
        admission, place = asker.worker.admission, asker.place

        async def ends() -> None:
            admission.give(EP, place)
            admission.give(EP, place)  # once is enough
            admission.served(EP, "prj_a", place, Usage(place.prompt, 0, place.output))

        self.loop.run_until_complete(ends())
        if settled:
            self.settle()

    @precondition(lambda self: self.those("running"))
    @rule(which=st.integers(0, 99), share=st.floats(0, 1))
    def report(self, which: int, share: float) -> None:
        """The prompt was shorter than guessed; so much of the answer is there."""
        running = self.those("running")
        asker = running[which % len(running)]
        place, admission = asker.place, asker.worker.admission
        if place.taken < place.tokens:
            return  # it has the replica for itself
        used = Usage(int(place.prompt * share), 0, int(place.output * place.sequences * share))

        async def reports() -> None:
            admission.correct(EP, place, used)

        self.loop.run_until_complete(reports())

    @precondition(lambda self: self.those("waiting"))
    @rule(which=st.integers(0, 99), settled=st.booleans())
    def leave(self, which: int, settled: bool) -> None:
        waiting = self.those("waiting")
        asker = waiting[which % len(waiting)]
        assert asker.ticket is not None
        ticket, asker.state = asker.ticket, "left"

        async def leaves() -> None:
            ticket.leave()
            ticket.leave()

        self.loop.run_until_complete(leaves())
        if settled:
            self.settle()

    @precondition(lambda self: len(self.unburied) < 3)
    @rule(which=st.integers(0, 1))
    def kill(self, which: int) -> None:
        worker = self.workers.pop(which)
        worker.die()
        self.unburied.append(worker)
        for asker in self.askers:
            if asker.worker is worker and asker.state in ("running", "waiting"):
                asker.state = "dead" if asker.state == "running" else "left"
        self.hire()

    @precondition(lambda self: self.unburied)
    @rule()
    def bury(self) -> None:
        worker = self.unburied.pop()
        table.release(self.memory, worker.name)
        for asker in self.askers:
            if asker.worker is worker and asker.state == "dead":
                asker.state = "gone"

    @rule(what=st.sampled_from(("start", "start", "stop", "stop all")), kv=KV, sequences=SEQUENCES)
    def fleet_changes(self, what: str, kv: int | None, sequences: int | None) -> None:
        if what == "start" and len(self.replicas) < 3:
            name = f"rep_{self.generation}"
            self.replicas = [*self.replicas, Replica(name, EP, "unix:/x", kv, sequences)]
        elif what == "stop":  # it drains: what runs there goes on
            self.replicas = self.replicas[1:]
        elif what == "stop all":
            self.publish(stopped=True)
            assert not self.those("waiting")
        self.publish()

    @rule(seconds=st.sampled_from((0.5, 4.0, 40.0)))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.settle()

    # --- what always holds --------------------------------------------------------------------
    @invariant()
    def never_above_capacity(self) -> None:
        if not hasattr(self, "workers"):
            return
        there = self.those("running") + self.those("dead")
        for replica in self.replicas:
            here = [asker for asker in there if asker.replica and asker.replica.id == replica.id]
            held = sum(asker.place.taken for asker in here)
            for worker in self.workers:
                assert worker.admission.loads.tokens(replica.id) == held
            if replica.kv_tokens is not None:
                assert held <= int(replica.kv_tokens * SAFE)
            count = sum(asker.place.sequences for asker in here)
            if replica.max_num_seqs is not None and len(here) > 1:
                assert count <= replica.max_num_seqs

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "workers"):
            return
        for worker in self.workers:
            waiting = sum(asker.worker is worker for asker in self.those("waiting"))
            assert worker.admission.waiting == waiting <= LIMITS.held_per_endpoint
            assert worker.admission._held_bytes == 700 * waiting
            dead = sum(len(one.admission._lines) for one in self.unburied)
            length = worker.admission._order(EP).length
            assert dead or length == len(self.those("waiting"))

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Once everything has settled, whoever is first does not fit anywhere."""
        if not hasattr(self, "workers"):
            return
        self.settle()
        if not self.replicas:
            for worker in self.workers:
                waiting = sum(asker.worker is worker for asker in self.those("waiting"))
                knock = worker.activity.balance("waiting") - waiting
                assert knock in (0, 1)
            return
        firsts = []
        for worker in self.workers:
            line = worker.admission._lines.get(EP)
            first = line.queue.first(self.loop.time()) if line else None
            if first is not None:
                firsts.append((first, worker))
        stuck = [
            not [one for one in self.replicas if worker.admission.loads.room(one, first.place)]
            for first, worker in firsts
        ]
        assert any(stuck) or not stuck

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        while self.unburied:
            self.bury()
        if not self.replicas:
            self.fleet_changes("start", 4000, 4)
        # Everybody who still waits is served when those before have ended.
        self.settle()
        soon = self.loop.now + 100
        patient = [one for one in self.those("waiting") if one.ticket and one.ticket.until > soon]
        for _ in range(len(self.askers) + 1):
            while self.those("running"):
                self.end(0, True)
        assert all(asker.state == "ended" for asker in patient)
        self.loop.now += 10
        self.loop.settle()
        for worker in self.workers:
            assert worker.admission.waiting == 0
            assert worker.activity.balance("waiting") == 0
            worker.die()
        asyncio.set_event_loop(None)
        self.loop.close()


Crowds.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCrowds = Crowds.TestCase


@pytest.mark.trap("wake-herd")
def test_five_thousand_at_zero_do_not_crush_the_first_replica() -> None:
    crowd = Crowds()
    crowd.begin(None, None)
    for worker in crowd.workers:
        worker.admission._limits = Limits(held_per_endpoint=4990)
    crowd.replicas = []
    crowd.publish()
    for number in range(5000):
        crowd.ask(PROJECTS[number % 3], 0, 10, 10, 1, 1000.0, False, False, number)
    assert len(crowd.those("waiting")) == 4990
    assert len(crowd.those("refused")) == 10
    waiting = crowd.those("waiting")
    crowd.replicas = [Replica("rep_first", EP, "unix:/x", 10_000, 256)]
    crowd.publish()
    while running := crowd.those("running"):
        crowd.settle()
        crowd.never_above_capacity()
        assert len(crowd.those("running")) <= 256
        for _ in running[:64]:
            crowd.end(0, False)
    assert all(asker.state == "ended" for asker in waiting)
    assert all(worker.activity.balance("waiting") == 0 for worker in crowd.workers)
    asyncio.set_event_loop(None)
    crowd.loop.close()


def test_turns_go_round_the_workers_and_nobody_who_comes_anew_is_before_them() -> None:
    crowd = Crowds()
    crowd.begin(None, 1)
    for worker in crowd.workers:
        worker.admission._limits = Limits()
    crowd.ask("prj_a", 0, 10, 10, 1, 1000.0, False, True, 0)
    for project, at in (("prj_a", 0), ("prj_b", 1)):
        for _ in range(10):
            crowd.ask(project, 0, 10, 10, 1, 1000.0, False, False, at)
    order = []
    while running := crowd.those("running"):
        assert len(running) == 1  # and room is never left empty
        order.append(crowd.workers.index(running[0].worker))
        crowd.end(0, True)
        if len(order) == 6:  # at the worker where everything ends, while the others wait
            crowd.ask("prj_a", 0, 10, 10, 1, 1000.0, False, True, order[-1])
    assert len(order) == 22
    assert abs(order[1:20].count(0) - order[1:20].count(1)) <= 1
    assert all(order[at : at + 3] not in ([0] * 3, [1] * 3) for at in range(1, 18))
    crowd.teardown()
