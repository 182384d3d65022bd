"""Which replica a prompt goes to: the index of prefixes, the estimate, outliers and retries."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import prefixes, table
from gateway.directory import Directory, Endpoint, Replica
from gateway.outages import Outages
from gateway.outliers import LOST, REFUSED
from gateway.pools import Pool, Pools
from gateway.prefixes import BLOCK
from gateway.router import Lane, Ticket
from gateway.suspects import Suspects
from gateway.table import Slots, Table

RATE = 10_000.0


def named(*ids: str) -> list[Replica]:
    return [Replica(id, "ep", f"unix:/{id}") for id in ids]


def pool_of(count: int) -> Pool:
    pool = Pool()
    pool.adopt(named(*(f"r{number}" for number in range(count))))
    for lane in pool.lanes:
        lane.mute = True  # nobody probes here: requests do
    return pool


def taught(pool: Pool, now: float = 0.0) -> float:
    """Let every replica show that it prefills RATE bytes a second; the time afterwards."""
    for lane in pool.lanes:
        for number in range(60):
            size = RATE * (1 + number % 3)
            ticket = lane.dispatched(size, size, now)
            now += size / RATE
            lane.first_byte(ticket, now)
            lane.end(ticket, now)
    return now


def sent(pool: Pool, size: int, now: float, keys: list[int] | None = None) -> Ticket:
    ticket = pool.dispatch(size, keys or [], now)
    assert ticket is not None
    return ticket


# --- prefixes of many replicas ---------------------------------------------------------
def test_many_replicas_share_what_memory_there_is() -> None:
    pools, everybody = Pools(), []
    for number in range(500):
        one = endpoint("a", "b", id=f"ep_{number}")
        everybody.append(one)
        for lane in pools.of(one).lanes:
            lane.prefixes.add(range(1300))
            lane.prefixes.add(range(1300, 1400))
    pools.keep(directory(*everybody))
    lane = pools.of(everybody[0]).lanes[0]
    for start in range(0, 9000, 30):
        lane.prefixes.add(range(start, start + 30))
        assert lane.prefixes.match(range(start, start + 30)) == 30
    assert len(lane.prefixes) <= 2 * (500 * 2 // 3 + 30)
    assert len(pools.of(everybody[1]).lanes[0].prefixes) <= 1400


def test_what_is_remembered_of_a_replica_is_what_its_cache_holds() -> None:
    pool = Pool()
    pool.adopt([Replica("small", "ep", "unix:/s", 30 * 512), Replica("other", "ep", "unix:/o")])
    for start in range(0, 9000, 10):
        for lane in pool.lanes:
            lane.prefixes.add(range(start, start + 10))
    small, other = (len(lane.prefixes) for lane in pool.lanes)
    assert 20 <= small <= 60 < 1300 <= other


# --- the estimate -----------------------------------------------------------------------
def test_a_prompt_goes_where_its_prefix_is() -> None:
    pool = pool_of(4)
    now = taught(pool)
    keys = prefixes.keys(b"x" * 30_000, "salt")
    homes = set()
    for turn in range(5):
        ticket = sent(pool, 30_000, now + turn * 10, keys)
        homes.add(ticket.lane.id)
        ticket.lane.first_byte(ticket, now + turn * 10 + 1)
        ticket.lane.end(ticket, now + turn * 10 + 2)
    assert len(homes) == 1


def test_but_not_behind_a_queue_that_is_longer_than_reading_it_again() -> None:
    pool = pool_of(2)
    now = taught(pool)
    keys = prefixes.keys(b"x" * 30_000, "salt")
    first = sent(pool, 30_000, now, keys)
    first.lane.first_byte(first, now + 3)
    first.lane.end(first, now + 4)
    now += 10
    first.lane.dispatched(RATE * 30, RATE * 30, now)  # thirty seconds of somebody else's
    assert sent(pool, 30_000, now, keys).lane is not first.lane


def test_the_queue_is_what_was_sent_and_not_answered() -> None:
    lane = Lane(named("r")[0], 10, 1 / RATE)
    one, two = (lane.dispatched(RATE * 2, RATE * 2, 100.0) for _ in range(2))
    assert lane.wait(100.0) == pytest.approx(4.0, abs=0.1)
    assert lane.wait(101.0) == pytest.approx(3.0, abs=0.1)
    lane.first_byte(one, 101.0)  # a second early: the other one is, too
    assert lane.wait(101.0) == pytest.approx(2.0, abs=0.1)
    # Nothing came when the second was due: it will take at least as long as it is late.
    assert lane.wait(113.0) > 9.0
    lane.first_byte(two, 113.0)
    assert lane.wait(113.0) < 0.1


def test_what_leaves_unanswered_is_waited_for_no_more() -> None:
    lane = Lane(named("r")[0], 10, 1 / RATE)
    lane.dispatched(RATE * 2, RATE * 2, 100.0)
    gone = lane.dispatched(RATE * 5, RATE * 5, 100.0)
    last = lane.dispatched(RATE * 3, RATE * 3, 100.0)
    lane.end(gone, 101.0, served=False)
    assert lane.wait(101.0) == pytest.approx(4.0, abs=0.1)
    assert last.due == pytest.approx(105.0)


def test_a_shared_beginning_does_not_crowd_one_cache() -> None:
    pool, now, begin = pool_of(2), 1000.0, list(range(2))
    for number in range(100, 1000):
        keys = [*begin, *range(number * 100, number * 100 + 20)]
        ticket = sent(pool, len(keys) * BLOCK, now, keys)
        ticket.lane.first_byte(ticket, now + 0.5)
        ticket.lane.end(ticket, now + 1)
        now += 2
    assert min(len(lane.prefixes) for lane in pool.lanes) > 1000


def test_a_rate_is_learned_from_first_bytes() -> None:
    pool = pool_of(3)
    taught(pool)
    assert [lane.pace for lane in pool.lanes] == pytest.approx([1 / RATE] * 3, rel=0.01)
    # A replica that comes later is believed to be like them.
    pool.adopt(named("r0", "r1", "r2", "late"))
    assert pool.lanes[-1].pace == pytest.approx(1 / RATE, rel=0.01)


def test_whole_answers_spread_by_what_is_in_flight() -> None:
    pool = pool_of(4)
    for _ in range(40):
        ticket = pool.dispatch(100, [], 5.0, visible=False)
        assert ticket is not None
    assert [lane.in_flight for lane in pool.lanes] == [10] * 4


def endpoint(*ids: str, id: str = "ep") -> Endpoint:
    return Endpoint(
        id=id, project_id="prj", organization_id="org", region="eu", name="tiny", model="m",
        adapters=frozenset(), stopped=False, created=1, replicas=tuple(named(*ids)),
        max_model_len=None,
    )  # fmt: skip


def directory(*endpoints: Endpoint) -> Directory:
    return Directory(b"", {}, endpoints, generation=1, read_at=1.0)


def test_a_replica_that_stays_is_known_after_a_change_of_the_directory() -> None:
    pools = Pools()
    first, then = endpoint("a", "b"), endpoint("b", "a")
    pools.of(first).lanes[0].in_flight = 3
    assert {lane.id: lane.in_flight for lane in pools.of(then).lanes} == {"a": 3, "b": 0}
    pools.keep(directory(then))
    assert pools.in_flight == 3
    pools.keep(directory())
    assert pools.of(then).lanes[0].in_flight == 0


@pytest.mark.trap("leaked-routes")
def test_the_same_name_at_another_address_is_another_process() -> None:
    pool = pool_of(1)
    pool.lanes[0].prefixes.add([1])
    pool.adopt([Replica("r0", "ep", "relay:elsewhere:1")])
    assert pool.lanes[0].prefixes.match([1]) == 0


# --- outliers ---------------------------------------------------------------------------
def fail(pool: Pool, lane: Lane, now: float, times: int = LOST) -> None:
    for _ in range(times):
        pool.failed(lane.dispatched(1, 1, now), now)


def test_a_replica_that_fails_is_out_for_a_growing_time_and_tried_by_one_request() -> None:
    pool = pool_of(2)
    bad, good = pool.lanes
    fail(pool, bad, 10.0, LOST - 1)
    assert not bad.standing.out
    fail(pool, bad, 10.0, 1)
    times_out, now = [], 10.0
    for _ in range(7):
        since = now
        assert {sent(pool, 1, now).lane for _ in range(20)} == {good}
        while (probe := sent(pool, 1, now)).lane is good:
            now += 0.1
        times_out.append(now - since)
        assert {sent(pool, 1, now).lane for _ in range(20)} == {good}  # one at a time
        pool.failed(probe, now)
    assert times_out == pytest.approx([1, 2, 4, 8, 16, 30, 30], abs=0.2)
    probe = sent(pool, 1, now + 31)
    assert probe.lane is bad
    bad.first_byte(probe, now + 31.05)
    assert {sent(pool, 1, now + 32).lane for _ in range(8)} == {bad}  # the other has a queue


def test_a_probe_that_its_caller_gives_up_frees_the_way_for_the_next() -> None:
    pool = pool_of(2)
    bad = pool.lanes[0]
    fail(pool, bad, 10.0)
    probe = sent(pool, 1, 12.0)
    assert probe.lane is bad
    bad.end(probe, 12.5, served=False)
    assert sent(pool, 1, 12.5).lane is bad


def test_when_all_are_out_it_says_when_to_come_again() -> None:
    pool = pool_of(2)
    for lane in pool.lanes:
        fail(pool, lane, 10.0)
    assert pool.dispatch(1, [], 10.1) is None
    assert pool.retry_after_s(10.1) == 1
    assert sent(pool, 1, 11.1).probe


def test_probes_go_to_who_is_out_and_to_who_owes_answers_in_silence() -> None:
    pool = pool_of(3)
    out, owing, idle = pool.lanes
    for lane in pool.lanes:
        lane.mute = False
    fail(pool, out, 10.0)
    owing.dispatched(100, 100, 10.0, visible=False)
    assert pool.doubtful(10.5) == []
    assert pool.doubtful(11.5) == [out]
    request = sent(pool, 1, 11.5)
    assert request.lane is idle  # no request has to try the one that is out
    idle.end(request, 11.6)
    probe = pool.probing(out, 11.5)
    assert pool.doubtful(12.0) == []
    owing.heard = True  # another answer came
    pool.patrol(14.0)
    assert pool.doubtful(16.0) == []
    assert pool.doubtful(19.5) == [owing]
    out.end(probe, 19.5)
    assert not out.standing.out
    other = pool.probing(owing, 19.5)
    assert other in pool.patrol(19.5 + 70)  # a guess of a pace: more patience
    assert owing.standing.out and not idle.standing.out


def test_an_error_that_a_caller_may_have_earned_does_not_shut_the_last_one() -> None:
    pool = pool_of(2)
    for lane in pool.lanes:
        for _ in range(2 * REFUSED):
            pool.failed(lane.dispatched(1, 1, 10.0), 10.0, REFUSED)
    assert [lane.standing.out for lane in pool.lanes] == [True, False]


def test_a_success_between_forgives() -> None:
    pool = pool_of(1)
    lane = pool.lanes[0]
    for _ in range(10):
        fail(pool, lane, 10.0, LOST - 1)
        ticket = sent(pool, 1, 10.0)
        lane.first_byte(ticket, 10.1)
        lane.end(ticket, 10.2)
    assert not lane.standing.out


def test_silence_puts_out_and_hands_back_what_waits() -> None:
    pool = pool_of(2)
    now = taught(pool)
    ticket = sent(pool, 100, now)
    other = next(lane for lane in pool.lanes if lane is not ticket.lane)
    assert pool.patrol(now + 4.9) == []
    assert pool.patrol(now + 5.5) == [ticket]
    assert {sent(pool, 100, now + 5.6).lane for _ in range(9)} == {other}


def test_a_silent_replica_hands_back_whole_answers_too() -> None:
    pool = pool_of(2)
    now = taught(pool)
    bad = pool.lanes[0]
    whole = bad.dispatched(100, 100, now, visible=False)
    bad.wait(now + 3)  # by now it should have been read
    stream = bad.dispatched(100, 100, now + 3)
    assert pool.patrol(now + 10) == [whole, stream]
    for ticket in (whole, stream):
        bad.end(ticket, now + 10, served=False)
    assert bad.awaited() == []


def test_a_replica_that_still_speaks_is_slow_and_not_silent() -> None:
    pool = pool_of(2)
    now = taught(pool)
    ticket = sent(pool, 100, now)
    for second in range(60):
        ticket.lane.heard = True  # another stream's chunk
        assert pool.patrol(now + second) == []


def test_patience_grows_with_the_prompt_and_with_nobody_else_there() -> None:
    pool = pool_of(2)
    now = taught(pool)
    ticket = sent(pool, int(RATE * 10), now)
    assert pool.patrol(now + 44) == []
    assert pool.patrol(now + 46) == [ticket]
    last = sent(pool, 100, now + 46)
    assert pool.patrol(now + 46 + 50) == []
    assert pool.patrol(now + 46 + 70) == []  # out, and the request stays: there is nowhere to go
    assert last.lane.standing.out


# --- retries and suspects ---------------------------------------------------------------
def test_retries_are_a_share_of_requests_beyond_a_floor() -> None:
    pool = pool_of(2)
    assert sum(pool.may_retry(50.0) for _ in range(1000)) == 100
    for _ in range(500):
        pool.dispatch(1, [], 50.0)
    assert sum(pool.may_retry(50.0) for _ in range(1000)) == pytest.approx(50, abs=1)
    assert sum(pool.may_retry(51.0) for _ in range(1000)) == pytest.approx(10, abs=1)


def test_a_request_that_felled_two_engines_is_refused_for_a_while() -> None:
    memory = table.create(1 << 10)
    suspects, elsewhere = (Suspects(Slots(memory)) for _ in range(2))
    suspects.died(b"poison", "rep_1", 10.0)
    suspects.died(b"poison", "rep_1", 10.0)  # two of them were in flight there
    elsewhere.died(b"poison", "rep_1", 10.1)  # and a third, of another worker
    assert suspects.refused_for(b"poison", 11.0) == 0
    elsewhere.died(b"poison", "rep_2", 20.0)
    assert elsewhere.refused_for(b"poison", 21.0) == pytest.approx(299.0)
    assert suspects.refused_for(b"poison", 21.0) == pytest.approx(299.0)
    assert suspects.refused_for(b"another", 21.0) == 0
    assert suspects.refused_for(b"poison", 321.0) == 0
    suspects.died(b"poison", "rep_3", 330.0)
    suspects.died(b"poison", "rep_4", 330.0 + 301.0)  # too long ago to count together
    assert suspects.refused_for(b"poison", 640.0) == 0


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.binary(min_size=1, max_size=3), max_size=50))
def test_suspects_are_bounded_and_never_the_innocent(bodies: list[bytes]) -> None:
    suspects = Suspects(Slots(table.create(1 << 10)))
    for number in range(1100):
        suspects.died(b"%d-fills-it" % number, "rep_0", 1.0)
    for number, body in enumerate(bodies):
        suspects.died(body, f"rep_{number}", 2.0)
    for body in set(bodies):
        assert (suspects.refused_for(body, 3.0) > 0) == (bodies.count(body) > 1)


def test_what_one_worker_puts_out_the_others_do_too() -> None:
    memory = table.create(64)
    here, there = pool_of(3), pool_of(3)
    ours, theirs = Outages(Table(memory, "ours")), Outages(Table(memory, "theirs"))
    lane = here.lanes[1]
    lane.standing.eject(100.0)
    for now in (100.4, 100.6):
        ours.round([here], now)
        theirs.round([there], now)
    assert [one.standing.out for one in there.lanes] == [False, True, False]
    # Each finds out for itself when it is well again, and is not told again of what is over.
    lane.standing.succeeded(101.0)
    theirs_then = there.lanes[1].standing.until
    for now in (101.1, 101.6):
        ours.round([here], now)
        theirs.round([there], now)
    assert not lane.standing.out
    assert there.lanes[1].standing.until == theirs_then
    there.lanes[1].standing.succeeded(102.0)
    there.lanes[1].standing.eject(103.0)
    theirs.round([there], 103.1)
    ours.round([here], 103.2)
    assert lane.standing.out


def test_the_last_replica_is_not_put_out_by_hearsay() -> None:
    memory = table.create(64)
    here, there = pool_of(1), pool_of(1)
    here.lanes[0].standing.eject(100.0)
    Outages(Table(memory, "ours")).round([here], 100.1)
    Outages(Table(memory, "theirs")).round([there], 100.2)
    assert not there.lanes[0].standing.out


# --- invariants under any order of events -------------------------------------------------
class Anything(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.names = 3
        self.pool = pool_of(self.names)
        self.open: list[Ticket] = []
        self.retried = 0
        self.requests = 0

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(size=st.integers(1, 200_000), keys=st.integers(0, 20), visible=st.booleans())
    def send(self, size: int, keys: int, visible: bool) -> None:
        before = {lane.id: lane.standing.out for lane in self.pool.lanes}
        ticket = self.pool.dispatch(size, range(keys), self.now, visible=visible)
        self.requests += 1
        if ticket is None:
            assert all(before.values())
            assert self.pool.retry_after_s(self.now) >= 1
            return
        assert ticket.probe == before[ticket.lane.id]
        self.open.append(ticket)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["byte", "served", "left", "lost", "refused"]))
    def something_comes_back(self, data: st.DataObject, how: str) -> None:
        ticket = data.draw(st.sampled_from(self.open))
        if how == "byte":
            ticket.lane.first_byte(ticket, self.now)
            return
        self.open.remove(ticket)
        if how in ("served", "left"):
            ticket.lane.end(ticket, self.now, served=how == "served")
        else:
            self.pool.failed(ticket, self.now, LOST if how == "lost" else REFUSED)

    @rule()
    def the_clock_looks(self) -> None:
        for ticket in self.pool.patrol(self.now):
            assert ticket in self.open
            assert not ticket.answered

    @rule(count=st.integers(0, 4))
    def the_directory_changes(self, count: int) -> None:
        self.pool.adopt(named(*(f"r{number}" for number in range(count))))

    @rule()
    def a_probe_goes_out(self) -> None:
        for lane in self.pool.doubtful(self.now):
            assert not lane.mute
            self.open.append(self.pool.probing(lane, self.now))

    @rule(mute=st.booleans())
    def engines_of_another_kind(self, mute: bool) -> None:
        for lane in self.pool.lanes:
            lane.mute = mute

    @rule()
    def retry(self) -> None:
        self.retried += self.pool.may_retry(1000.0)

    @invariant()
    def nothing_leaks(self) -> None:
        for lane in self.pool.lanes:
            mine = [ticket for ticket in self.open if ticket.lane is lane]
            assert lane.in_flight == len(mine)
            assert set(lane.awaited()) == {one for one in mine if not one.answered}
            assert 0 <= lane.wait(self.now) < 1e9
            assert lane.pace > 0 and lane.start_s >= 0
            probes = [ticket for ticket in mine if ticket.probe]
            assert len(probes) <= 1
            assert lane.standing.probing == bool(probes)
        assert self.retried <= 100 + self.requests * 0.1 + 1


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
