"""Rows of several workers become one signal, and gaps that are told once."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.endpoints import traffic
from controlplane.endpoints.traffic import STALE_S, Row
from controlplane.scaling.load import Capacity, Load

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
FOUR = Capacity(max_num_seqs=4)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def row(
    seconds: float, running: int, *, worker: int = 0, idle_s: float | None = None, busy: bool = True
) -> Row:
    return Row(("gw", worker), at(seconds), Load(running=running), busy, idle_s)


def levels(*rows: Row, now: float = 0.0) -> dict[float, float]:
    found = traffic.samples(rows, FOUR, at(now))
    return {round(one.age_s, 3): one.utilization for one in found}


def test_workers_add_up_and_each_row_holds_until_the_next() -> None:
    rows = (row(-10, 4), row(-8, 2, worker=1), row(-6, 8), row(-2, 0, idle_s=0.0))
    assert levels(*rows) == {10: 1.0, 8: 1.5, 6: 2.5, 2: 0.5}


def test_a_worker_that_is_gone_counts_no_more() -> None:
    assert levels(row(-5, 4)) == {5: 1.0}
    assert levels(row(-STALE_S - 1, 4)) == {STALE_S + 1: 1.0, 1: 0.0}


def test_the_scarcest_resource_decides() -> None:
    load = Load(uncached_tokens=3000, kv_tokens=100, running=1)
    capacity = Capacity(prefill_tps=1000.0, kv_tokens=1000, max_num_seqs=4)
    (sample,) = traffic.samples([Row(("gw", 0), at(-1), load, True)], capacity, NOW)
    assert sample.utilization == 3.0


def test_a_wake_is_one_request() -> None:
    found = traffic.samples([], FOUR, NOW, asked_since=at(-3))
    assert [(one.age_s, one.utilization) for one in found] == [(3.0, 0.25)]


def test_a_row_from_a_clock_ahead_is_of_now() -> None:
    assert levels(row(0.4, 4)) == {0: 1.0}


# --- gaps ---------------------------------------------------------------------------------


def test_a_gap_runs_from_the_last_answer_of_all_workers_to_the_next_request() -> None:
    rows = [row(-100, 1), row(-95, 0, idle_s=2.0), row(-98, 1, worker=1)]
    rows += [row(-91, 0, worker=1, idle_s=1.0), row(-32, 1)]
    seen = traffic.quiet(rows, None, None, at(-31))
    assert seen.gaps == (60.0,)  # from -92, when the last of both had ended
    assert seen.since is None


def test_nothing_runs_since_the_last_answer() -> None:
    seen = traffic.quiet([row(-10, 1), row(-5, 0, idle_s=3.0)], None, None, NOW)
    assert (seen.gaps, seen.since) == ((), at(-8))


def test_what_goes_on_from_row_to_row_is_one_stretch() -> None:
    rows = [row(-15, 1), row(-10, 1), row(-5, 0, idle_s=2.0)]
    seen = traffic.quiet(rows, None, at(-15), NOW)
    assert (seen.gaps, seen.since, seen.idle_s) == ((), at(-7), 7.0)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12),
    st.lists(st.integers(0, 700), max_size=30),
)
def test_however_often_one_looks_each_gap_is_told_once(
    phases: list[tuple[int, int]], moments: list[int]
) -> None:
    """`phases`: seconds busy, seconds idle, in turn. Looks come whenever they like."""
    rows, gaps, clock = [], [], 0
    for busy_s, idle_s in phases:
        start, end = clock, clock + busy_s
        rows += [row(second, 1) for second in range(start, end, 5)]
        rows.append(row(end, 0, idle_s=0.0))
        clock = end + idle_s
        gaps.append(float(idle_s))
    told: list[float] = []
    since, looked = None, None
    for moment in sorted({*moments, clock + 1000}):
        seen = traffic.quiet(
            [one for one in rows if one.at <= at(moment)], since, looked, at(moment)
        )
        told += seen.gaps
        since, looked = seen.since, at(moment)
    assert told == gaps[:-1]
