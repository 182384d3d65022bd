"""Windows, prices, rate limits and the shared table, each by itself."""

import os
import random
import signal
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating import PriceVersion
from billing.windows import window
from gateway import rates, table
from gateway.books import Books, Line, Reservation, Short, Worst
from gateway.budgets import Budget
from gateway.directory import RateLimits
from gateway.gate import duration, euro
from gateway.prices import PriceList, TokenPrices
from gateway.rates import Bound, Limited, Rates, Taken, bound
from gateway.table import Table, TableFull
from gateway.usage import Usage

SECOND_NS = 1_000_000_000
NOW_NS = 1_772_600_000 * SECOND_NS
NOW_US = NOW_NS // 1000


def us(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1e6)


# --- Windows ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "zone", "at", "id", "hours"),
    [
        ("day", "UTC", "2026-03-04T23:59", "2026-03-04", 24),
        # The day on which summer begins is an hour shorter, the one on which it ends is longer.
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29", 23),
        ("day", "Europe/Berlin", "2026-10-25T02:30", "2026-10-25", 25),
        ("month", "Europe/Paris", "2026-12-31T23:59", "2026-12", 744),
        ("month", "UTC", "2028-02-29T00:00", "2028-02", 696),
    ],
)
def test_a_window_is_the_calendars(kind: str, zone: str, at: str, id: str, hours: int) -> None:
    found = window(kind, zone, us(at, zone))
    first = id if kind == "day" else f"{id}-01"
    assert (found.id, found.starts_us) == (id, us(first, zone))
    assert found.ends_us - found.starts_us == hours * 3_600_000_000


def test_a_total_has_one_window() -> None:
    assert window("total", "UTC", 0) == window("total", "Europe/Berlin", NOW_US)


@given(
    st.sampled_from(("day", "month")),
    st.sampled_from(("UTC", "Europe/Berlin", "Atlantic/Azores", "Europe/Athens")),
    st.integers(us("2024-01-01"), us("2030-01-01")),
)
def test_windows_follow_each_other_without_a_gap(kind: str, zone: str, at: int) -> None:
    found = window(kind, zone, at)
    assert found.starts_us <= at < found.ends_us
    after = window(kind, zone, found.ends_us)
    assert after.starts_us == found.ends_us
    assert after.id > found.id


# --- Prices -------------------------------------------------------------------------------
def version(meter: str, amount: str, since: str = "2026-01-01", kind: str = "") -> PriceVersion:
    valid_from = datetime.fromisoformat(since).replace(tzinfo=UTC)
    return PriceVersion(f"prc_{meter}{since}", meter, Decimal(amount), valid_from, kind)


@given(
    st.decimals(0, 999_999, places=12),
    st.decimals(0, 999_999, places=12),
    st.decimals(0, 999_999, places=12),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.floats(0, 1),
)
def test_a_cost_is_exact_and_rounded_up_once(
    input: Decimal, cached: Decimal, output: Decimal, prompt: int, answer: int, share: float
) -> None:
    prices = PriceList(
        [
            version("input_tokens", f"{input:f}"),
            version("cached_tokens", f"{cached:f}"),
            version("output_tokens", f"{output:f}"),
        ]
    ).at("cpu", NOW_NS / 1e9)
    hit = int(prompt * share)
    cost = prices.cost(Usage(prompt, hit, answer))
    exact = Fraction(input) * (prompt - hit) + Fraction(cached) * hit + Fraction(output) * answer
    exact *= Fraction(10**9, 10**6)  # nanoeuro, at a price per million
    assert cost - 1 < exact <= cost
    assert cost <= prices.most(prompt, answer)


def test_the_price_in_force_is_the_devices_own_and_changes_on_time() -> None:
    prices = PriceList(
        [
            version("output_tokens", "1"),
            version("output_tokens", "2", "2026-03-05"),
            version("output_tokens", "7", kind="H100"),
        ]
    )
    before, after = us("2026-03-04T23:59:59") / 1e6, us("2026-03-05") / 1e6
    assert [prices.at("cpu", at).output // 10**12 for at in (before, after, before)] == [1, 2, 1]
    assert prices.at("H100", after).output // 10**12 == 7
    assert prices.at("cpu", us("2025-12-31") / 1e6) == TokenPrices()


# --- Rate limits --------------------------------------------------------------------------
def taking(limits: RateLimits, hosts: int = 1) -> tuple[Rates, list[Bound]]:
    shared = Table(table.create(64), "me")
    return Rates(shared), [bound("key", "key_1", limits, hosts)]


def test_a_minute_holds_what_the_limit_says_and_fills_again() -> None:
    rates_, subjects = taking(RateLimits(requests_per_minute=30))
    for _ in range(30):
        assert isinstance(rates_.take(subjects, 0, 0, NOW_NS), Taken)
    refused = rates_.take(subjects, 0, 0, NOW_NS)
    assert isinstance(refused, Limited)
    assert (refused.what, refused.limit, refused.wait_ns) == ("requests", 30, 2 * SECOND_NS)
    assert isinstance(rates_.take(subjects, 0, 0, NOW_NS + refused.wait_ns - 1), Limited)
    assert isinstance(rates_.take(subjects, 0, 0, NOW_NS + refused.wait_ns), Taken)


def test_what_was_not_used_is_put_back() -> None:
    rates_, subjects = taking(RateLimits(output_tokens_per_minute=1000))
    taken = rates_.take(subjects, 0, 1000, NOW_NS)
    assert isinstance(taken, Taken)
    assert isinstance(rates_.take(subjects, 0, 1, NOW_NS), Limited)
    rates_.put_back(taken, 0, 100)
    assert taken.left == [None, None, (1000, 0, 60 * SECOND_NS)]
    assert isinstance(rates_.take(subjects, 0, 900, NOW_NS), Taken)
    assert isinstance(rates_.take(subjects, 0, 1, NOW_NS), Limited)


def test_a_request_larger_than_a_minute_passes_when_the_bucket_is_full() -> None:
    rates_, subjects = taking(RateLimits(input_tokens_per_minute=1000))
    assert isinstance(rates_.take(subjects, 1, 0, NOW_NS), Taken)
    refused = rates_.take(subjects, 5000, 0, NOW_NS)
    assert isinstance(refused, Limited)
    assert isinstance(rates_.take(subjects, 5000, 0, NOW_NS + refused.wait_ns), Taken)


def test_requests_at_once_are_counted_until_they_end() -> None:
    rates_, subjects = taking(RateLimits(concurrency=2))
    first = rates_.take(subjects, 0, 0, NOW_NS)
    assert isinstance(first, Taken)
    assert isinstance(rates_.take(subjects, 0, 0, NOW_NS), Taken)
    refused = rates_.take(subjects, 0, 0, NOW_NS)
    assert isinstance(refused, Limited) and refused.what == rates.CONCURRENCY
    rates_.put_back(first, 0, 0)
    assert isinstance(rates_.take(subjects, 0, 0, NOW_NS), Taken)


def test_hosts_share_a_limit() -> None:
    rates_, subjects = taking(RateLimits(requests_per_minute=30, concurrency=30), hosts=3)
    found = [rates_.take(subjects, 0, 0, NOW_NS) for _ in range(11)]
    assert [isinstance(one, Taken) for one in found] == [True] * 10 + [False]


def test_all_limits_or_none() -> None:
    shared = Table(table.create(64), "me")
    rates_ = Rates(shared)
    wide, narrow = RateLimits(requests_per_minute=10), RateLimits(requests_per_minute=1)
    both = [bound("project", "prj", wide), bound("key", "key", narrow)]
    assert isinstance(rates_.take(both, 0, 0, NOW_NS), Taken)
    for _ in range(20):
        refused = rates_.take(both, 0, 0, NOW_NS)
        assert isinstance(refused, Limited) and refused.whose == "key"
    for _ in range(9):
        assert isinstance(rates_.take([both[0]], 0, 0, NOW_NS), Taken)
    assert isinstance(rates_.take([both[0]], 0, 0, NOW_NS), Limited)


@given(
    st.integers(1, 600),
    st.lists(st.tuples(st.integers(0, 5 * SECOND_NS), st.integers(1, 50)), max_size=60),
)
def test_no_minute_sees_more_than_twice_the_limit(limit: int, asks: list[tuple[int, int]]) -> None:
    """A full bucket and what flows in: the limit holds on average, and twice it at most."""
    rates_, subjects = taking(RateLimits(output_tokens_per_minute=limit))
    now_ns, passed = NOW_NS, []
    for wait_ns, tokens in asks:
        now_ns += wait_ns
        if isinstance(rates_.take(subjects, 0, tokens, now_ns), Taken):
            passed.append((now_ns, min(tokens, limit)))
    for start, _ in passed:
        inside = [n for at, n in passed if start <= at < start + 60 * SECOND_NS]
        assert sum(inside) <= 2 * limit + len(inside)  # each may gain by rounding


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, b"0ms"), (1, b"1ms"), (1_500_000_000, b"1.5s"), (360_000_000_000, b"6m0s")],
)
def test_durations_read_as_openais(nanoseconds: int, text: bytes) -> None:
    assert duration(nanoseconds) == text


def test_euro_are_written_exactly() -> None:
    assert euro(1_234_567_890_123) == b"1234.567890123"


# --- The table ----------------------------------------------------------------------------
def budget(amount: int = 100, **fields: object) -> Budget:
    given = {"subject": "key", "subject_id": "key_1", "unit": "tokens", "window": "total"}
    return Budget(id="bud_1", amount=amount, time_zone="UTC", hard=True, **{**given, **fields})  # type: ignore[arg-type]


def line(amount: int = 100) -> Line:
    return Line(budget(amount), "total", NOW_US + 10**9)


def lend(shared: Table, one: Line, amount: int) -> int:
    with shared.locked():
        slot = shared.find(one.name, one.ends_us, NOW_US)
        shared.words[slot + table.GRANTED] = amount
    return slot


def worst(tokens: int) -> Worst:
    return Worst(tokens, 0, 1, TokenPrices())


def test_processes_share_a_lease_and_a_death_frees_what_it_held() -> None:
    memory = table.create(64)
    ours, theirs = Table(memory, "ours"), Table(memory, "theirs")
    one = line()
    slot = lend(ours, one, 100)
    with theirs.locked():
        assert isinstance(Books(theirs).reserve([one], worst(60), NOW_US), Reservation)
    with ours.locked():
        refused = Books(ours).reserve([one], worst(60), NOW_US)
    assert isinstance(refused, Short) and refused.rest == 40
    assert theirs.holds("theirs")
    ours.release("theirs")
    assert not ours.holds("theirs") and ours.words[slot + table.HELD] == 0
    with ours.locked():
        assert isinstance(Books(ours).reserve([one], worst(60), NOW_US), Reservation)


def test_the_allowance_is_for_what_runs_and_begins_nothing() -> None:
    shared = Table(table.create(64), "me")
    books, one = Books(shared), Line(budget(allowance=50), "total", NOW_US + 10**9)
    slot = lend(shared, one, 150)
    shared.words[slot + table.CAP] = 150
    with shared.locked():
        first = books.reserve([one], worst(90), NOW_US)
        # The amount is not spent yet: this one may run into the allowance.
        second = books.reserve([one], worst(60), NOW_US)
        assert isinstance(first, Reservation)
        assert isinstance(second, Reservation)
        books.settle(first, Usage(90, 0, 0), 0)
        books.settle(second, Usage(10, 0, 0), 0)
        refused = books.reserve([one], worst(1), NOW_US)
    assert isinstance(refused, Short)
    assert (refused.rest, refused.more) == (0, False)


@pytest.mark.trap("gateway-memory")
def test_a_column_is_taken_again_after_a_death_and_there_are_not_more_than_fit() -> None:
    memory = table.create(64)
    tables = [Table(memory, f"p{n}") for n in range(table.COLUMNS)]
    with pytest.raises(TableFull):
        Table(memory, "one too many")
    tables[0].release("p7")
    assert Table(memory, "new").column == tables[7].column


def test_a_table_can_be_nearly_full() -> None:
    """Four fifths of it at least, whatever the names: a hundred thousand keys find their place."""
    shared = Table(table.create(1 << 12), "me")
    slots = set()
    with shared.locked():
        for n in range(3300):
            slots.add(shared.find(f"key_{n}", NOW_US + 1, NOW_US))
        assert len(slots) == 3300
        shared._offsets.clear()
        assert {shared.find(f"key_{n}", NOW_US + 1, NOW_US) for n in range(3300)} == slots


def test_a_death_is_cleared_from_every_counter_and_unused_memory_stays_unused() -> None:
    memory = table.create(1 << 15)
    ours, theirs = Table(memory, "ours"), Table(memory, "theirs")
    lines = [Line(budget(), f"total/{n}", NOW_US + 10**9) for n in range(300)]
    slots = [lend(ours, one, 100) for one in lines]
    used = os.fstat(memory).st_blocks
    with theirs.locked():
        assert isinstance(Books(theirs).reserve(lines, worst(60), NOW_US), Reservation)
    ours.release("theirs")
    assert not any(ours.words[slot + table.HELD] for slot in slots)
    assert os.fstat(memory).st_blocks == used < os.fstat(memory).st_size // 512


def test_a_counter_that_is_in_use_is_never_given_away() -> None:
    shared = Table(table.create(32), "me")
    books, held = Books(shared), []
    for n in range(32):
        one = Line(budget(), f"total/{n}", NOW_US + 1)
        lend(shared, one, 10)
        if n % 2:
            with shared.locked():
                found = books.reserve([one], worst(10), NOW_US)
            assert isinstance(found, Reservation)
            held.append(found)
    later_us = NOW_US + 10**10
    for n in range(32, 48):
        with shared.locked():
            shared.find(f"new/{n}", later_us + 1, later_us)
    with shared.locked(), pytest.raises(TableFull):
        shared.find("one too many", later_us + 1, later_us)
    for reserved in held:
        assert shared.words[reserved.slots[0] + table.HELD] == 10


def test_killed_between_any_two_words_it_never_frees_what_was_not_free() -> None:
    """Many processes reserve and settle as fast as they can and are killed at random moments.

    Whatever was interrupted: nothing is held afterwards, and no lease was overspent."""
    memory = table.create(64)
    ours = Table(memory, "ours")
    one = line()
    slot = lend(ours, one, 10**12)
    spoken = os.memfd_create("spoken")  # what each has settled, told before it settles
    os.ftruncate(spoken, 8 * 64)
    for life in range(12):
        child = os.fork()
        if not child:
            _spend_for_ever(memory, one, life, spoken)
        # Not a wait for anything: the moment of death is what varies.
        signal.sigtimedwait([signal.SIGUSR1], random.Random(life).uniform(0.005, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ours.release(f"life {life}")
        assert ours.words[slot + table.HELD] == 0
    told = sum(int.from_bytes(os.pread(spoken, 8, 8 * life), "little") for life in range(12))
    assert told > 1000
    # Told first, then settled: the last of each life may be missing, and no more.
    assert told - 12 <= ours.words[slot + table.SPENT] <= told


def _spend_for_ever(memory: int, one: Line, life: int, spoken: int) -> None:
    books = Books(Table(memory, f"life {life}"))
    count = 0
    while True:
        with books.table.locked():
            found = books.reserve([one], worst(7), NOW_US)
        if not isinstance(found, Reservation):
            os._exit(1)
        count += 1
        os.pwrite(spoken, count.to_bytes(8, "little"), 8 * life)
        with books.table.locked():
            books.settle(found, Usage(1, 0, 0), 0)
