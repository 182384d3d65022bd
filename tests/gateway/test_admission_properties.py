"""Under any interleaving: never above capacity, nobody forgotten, nobody starved, all undone."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.admission import Admission, Ticket
from gateway.config import Config
from gateway.directory import Directory, Endpoint, Key, Replica
from gateway.errors import ApiError
from gateway.fairness import FairQueue
from gateway.limits import Limits
from gateway.loads import SAFE, Place
from gateway.pools import Pools
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

        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.run_until_complete(turns())


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


def make_admission(loop: Clock, keeper: HandKeeper, activity: WatchedActivity) -> Admission:
    async def make() -> Admission:
        return Admission(keeper, activity, Pools(), LIMITS)

    return loop.run_until_complete(make())


class Asker:
    """A request: waits, runs, ends; its life is checked to be one of these at a time."""

    def __init__(self, crowd: "Crowds", place: Place) -> None:
        self.crowd = crowd
        self.place = place
        self.state = "new"
        self.replica: Replica | None = None
        self.ticket: Ticket | None = None

    def admitted(self, endpoint: Endpoint, replicas: Sequence[Replica]) -> None:
        assert self.state in ("new", "waiting")
        assert replicas
        self.state, self.replica = "running", replicas[-1]
        self.crowd.admission.take(self.replica, self.place)

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
        self.keeper, self.activity = HandKeeper(config), WatchedActivity()
        self.askers: list[Asker] = []
        self.generation = 0
        self.replicas = [Replica("rep_0", EP, "unix:/x", kv, sequences)]
        self.admission = make_admission(self.loop, self.keeper, self.activity)
        self.publish()

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
    )
    def ask(
        self, project: str, priority: int, prompt: int, output: int, sequences: int,
        patience: float, stream: bool, settled: bool,
    ) -> None:  # fmt: skip
        asker = Asker(self, Place(prompt, output, sequences))
        self.askers.append(asker)

        async def begin() -> None:
            found = self.admission.open(self.endpoint, asker.place)
            if found:
                assert not self.those("waiting")  # nobody is overtaken
                asker.admitted(self.endpoint, found)
                return
            asker.ticket = Ticket(
                asker, key(project, priority), asker.place, "shared", held_bytes=700, avoid=(),
                patience_s=patience, quiet_s=2.0 if stream else None,
            )  # fmt: skip
            asker.state = "waiting"
            try:
                self.admission.join(asker.ticket, self.endpoint)
            except ApiError:
                asker.state = "refused"

        self.loop.run_until_complete(begin())
        if settled:
            self.loop.settle()

    @precondition(lambda self: self.those("running"))
    @rule(which=st.integers(0, 99), settled=st.booleans())
    def end(self, which: int, settled: bool) -> None:
        running = self.those("running")
        asker = running[which % len(running)]
        assert asker.replica is not None
        asker.state = "ended"
        replica_id, place = asker.replica.id, asker.place

        async def ends() -> None:
            self.admission.give(EP, replica_id, place)
            self.admission.served(EP, "prj_a", place, Usage(place.prompt, 0, place.output))

        self.loop.run_until_complete(ends())
        if settled:
            self.loop.settle()

    @precondition(lambda self: self.those("running"))
    @rule(which=st.integers(0, 99), share=st.floats(0, 1))
    def report(self, which: int, share: float) -> None:
        """The prompt was shorter than guessed; so much of the answer is there."""
        running = self.those("running")
        asker = running[which % len(running)]
        assert asker.replica is not None
        place, replica_id = asker.place, asker.replica.id
        if place.taken < place.tokens:
            return  # it has the replica for itself
        used = Usage(int(place.prompt * share), 0, int(place.output * place.sequences * share))

        async def reports() -> None:
            self.admission.correct(EP, replica_id, place, used)

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
            self.loop.settle()

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
        if not hasattr(self, "admission"):
            return
        for replica in self.replicas:
            there = [a for a in self.those("running") if a.replica and a.replica.id == replica.id]
            held = sum(asker.place.taken for asker in there)
            assert self.admission.loads.tokens(replica.id) == held
            if replica.kv_tokens is not None:
                assert held <= int(replica.kv_tokens * SAFE)
            count = sum(asker.place.sequences for asker in there)
            if replica.max_num_seqs is not None and len(there) > 1:
                assert count <= replica.max_num_seqs

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "admission"):
            return
        waiting = len(self.those("waiting"))
        assert self.admission.waiting == waiting <= LIMITS.held_per_endpoint
        assert self.admission._held_bytes == 700 * waiting

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Once everything has settled, whoever is first does not fit anywhere."""
        if not hasattr(self, "admission"):
            return
        self.loop.settle()
        if not self.replicas:
            assert self.activity.balance("waiting") in (
                len(self.those("waiting")),
                len(self.those("waiting")) + 1,  # a knock
            )
            return
        line = self.admission._lines.get(EP)
        first = line.queue.first(self.loop.time()) if line else None
        if first is not None:
            room = self.admission.loads.room
            assert not [one for one in self.replicas if room(one, first.place)]

    def teardown(self) -> None:
        if not hasattr(self, "admission"):
            return
        if not self.replicas:
            self.fleet_changes("start", 4000, 4)
        # Everybody who still waits is served when those before have ended.
        patient = self.those("waiting")
        for _ in range(len(self.askers) + 1):
            while self.those("running"):
                self.end(0, True)
        assert all(asker.state == "ended" for asker in patient)
        assert self.admission.waiting == 0
        self.loop.now += 10
        self.loop.settle()
        assert self.activity.balance("waiting") == 0
        asyncio.set_event_loop(None)
        self.loop.close()


Crowds.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCrowds = Crowds.TestCase


@pytest.mark.trap("wake-herd")
def test_five_thousand_at_zero_do_not_crush_the_first_replica() -> None:
    crowd = Crowds()
    crowd.begin(None, None)
    crowd.admission._limits = Limits(held_per_endpoint=4990)
    crowd.replicas = []
    crowd.publish()
    for number in range(5000):
        crowd.ask(PROJECTS[number % 3], 0, 10, 10, 1, 1000.0, False, False)
    assert len(crowd.those("waiting")) == 4990
    assert len(crowd.those("refused")) == 10
    waiting = crowd.those("waiting")
    crowd.replicas = [Replica("rep_first", EP, "unix:/x", 10_000, 256)]
    crowd.publish()
    while running := crowd.those("running"):
        crowd.loop.settle()
        crowd.never_above_capacity()
        assert len(crowd.those("running")) <= 256
        for _ in running[:64]:
            crowd.end(0, False)
    assert all(asker.state == "ended" for asker in waiting)
    assert crowd.activity.balance("waiting") == 0
    asyncio.set_event_loop(None)
    crowd.loop.close()


class Stub:
    def __init__(self, project: str, priority: int, since: float) -> None:
        self.project, self.priority, self.since = project, priority, since


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PROJECTS), st.integers(1, 100)), max_size=300))
def test_who_waits_is_served_alike_however_much_others_ask(costs: list[tuple[str, int]]) -> None:
    """While two both wait, what they were served differs by no more than two requests."""
    queue: FairQueue[Stub] = FairQueue(30.0)
    for project in PROJECTS:
        for number in range(300):
            queue.push(Stub(project, 0, float(number)))
    served = dict.fromkeys(PROJECTS, 0)
    for _, cost in costs:
        first = queue.first(0.0)
        assert first is not None
        queue.remove(first)
        queue.charge(first.project, cost)
        served[first.project] += cost
        assert max(served.values()) - min(served.values()) <= 200


def test_a_newcomer_has_saved_nothing_up() -> None:
    queue: FairQueue[Stub] = FairQueue(30.0)
    for number in range(10):
        queue.push(Stub("a", 0, float(number)))
        queue.charge("a", 100)
    for number in range(10):
        queue.push(Stub("b", 0, 10.0 + number))
    order = []
    while (first := queue.first(20.0)) is not None:
        queue.remove(first)
        queue.charge(first.project, 100)
        order.append(first.project)
    assert order[:10].count("b") <= 6


def test_a_priority_goes_first_and_the_others_in_the_end() -> None:
    queue: FairQueue[Stub] = FairQueue(30.0)
    low = Stub("a", 0, 0.0)
    queue.push(low)
    queue.push(Stub("b", 2, 0.0))
    first = queue.first(1.0)
    assert first is not None
    assert first.priority == 2
    # Others of that priority keep coming; a minute of waiting makes up for it.
    for number in range(100):
        now = float(number)
        first = queue.first(now)
        assert first is not None
        queue.remove(first)
        queue.charge(first.project, 10)
        if first is low:
            assert 55 <= now <= 95
            break
        queue.push(Stub("b", 2, now))
    else:
        raise AssertionError("starved")


def test_within_a_project_the_order_is_that_of_arrival() -> None:
    queue: FairQueue[Stub] = FairQueue(30.0)
    items = [Stub("a", 0, float(number)) for number in range(20)]
    for item in items:
        queue.push(item)
    queue.remove(items.pop(7))
    found = []
    while (first := queue.first(100.0)) is not None:
        queue.remove(first)
        found.append(first)
    assert found == items
    with contextlib.suppress(KeyError):
        queue.remove(items[0])
    assert len(queue) == 0
