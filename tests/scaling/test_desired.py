"""From the signal to replicas: up within two seconds of the evidence, down late, in its bounds."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controlplane.scaling.desired import USUAL, Past, Sample, desired
from controlplane.scaling.load import Capacity, Load, utilization

REPLICA = Capacity(prefill_tps=8_000, ttft_target_s=0.5, kv_tokens=100_000, max_num_seqs=64)


def wanted(samples: list[tuple[float, float]], current: int, low: int = 0, high: int = 50) -> int:
    given = [Sample(age_s, level) for age_s, level in samples]
    return desired(given, current, USUAL, min_replicas=low, max_replicas=high)


levels = st.floats(0, 40)
histories = st.lists(st.tuples(st.floats(0, 300), levels), max_size=20).map(
    lambda samples: sorted(samples, key=lambda s: -s[0])
)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(), 0.0),
        (Load(uncached_tokens=8_000, kv_tokens=10_000, running=4), 2.0),  # 1 s of prefill for 0.5
        (Load(uncached_tokens=100, kv_tokens=150_000, running=4), 1.5),
        (Load(uncached_tokens=100, kv_tokens=10_000, running=96), 1.5),
    ],
)
def test_the_scarcest_counts(load: Load, expected: float) -> None:
    assert utilization(load, REPLICA) == expected


def test_half_the_target_is_twice_the_load() -> None:
    backlog = Load(uncached_tokens=8_000)
    for target_s, replicas in ((0.25, 4.0), (0.5, 2.0), (1.0, 1.0), (4.0, 0.25)):
        capacity = Capacity(prefill_tps=8_000, ttft_target_s=target_s)
        assert utilization(backlog, capacity) == replicas


def test_what_is_not_known_does_not_count() -> None:
    assert utilization(Load(10**9, 10**9, 32), Capacity(max_num_seqs=64)) == 0.5
    assert utilization(Load(10**9, 10**9, 32), Capacity()) == 0.0


@given(histories, st.integers(0, 20), st.floats(0.01, 30))
def test_a_load_beyond_all_replicas_is_met_within_two_seconds(
    before: list[tuple[float, float]], current: int, level: float
) -> None:
    assume(level > current)
    rising = [(age_s + USUAL.panic_s, old) for age_s, old in before]
    assert wanted([*rising, (USUAL.panic_s, level)], current) >= math.ceil(level / 0.7 - 1e-9)


def test_a_blink_is_no_panic_but_somebody_who_waits_at_zero_is() -> None:
    assert wanted([(0.1, 3.0), (0.05, 0.5)], 1) == 1
    assert wanted([(0.0, 0.01)], 0) == 1
    assert wanted([(0.0, 9.0)], 0) == 1  # the rest as it lasts
    assert wanted([(0.5, 9.0)], 0) == 4
    assert wanted([(2.0, 9.0)], 0) == 13


def test_the_trend_is_followed_without_a_panic() -> None:
    assert wanted([(10.0, 0.9)], 1) == 1
    assert wanted([(60.0, 0.9)], 1) == 2


@given(histories, st.integers(0, 20), st.integers(0, 5), st.integers(1, 30))
def test_the_bounds_hold(
    samples: list[tuple[float, float]], current: int, low: int, high: int
) -> None:
    assume(low <= high)
    assert low <= wanted(samples, current, low, high) <= high


@given(histories, st.integers(1, 20))
def test_the_last_one_is_never_taken_away_here(
    samples: list[tuple[float, float]], current: int
) -> None:
    assert wanted(samples, current) >= 1


def test_down_only_after_a_quiet_minute_and_by_no_more_than_was_needed() -> None:
    busy = [(300.0, 6.9)]
    assert wanted([*busy, (30.0, 0.5)], 10) == 10
    assert wanted([*busy, (59.0, 0.5)], 10) == 10
    # After the panic span has passed, too, nothing of the busy time is left.
    assert wanted([*busy, (62.0, 0.5)], 10) == 1
    # A spike of 10 s half a minute ago still needs its replicas: 3.0 at 63 % each are 5.
    assert wanted([(300.0, 0.5), (40.0, 3.0), (30.0, 0.5)], 10) == 5


def test_around_a_boundary_it_stays() -> None:
    """At 70 % of four replicas there are four; down to three only at 63 % of three."""
    assert wanted([(300.0, 2.8)], 4) == 4
    assert wanted([(300.0, 2.05)], 4) == 4
    assert wanted([(300.0, 1.85)], 4) == 3


def mean(samples: list[tuple[float, float]], span_s: float, until_s: float) -> float:
    """By its definition, sample by sample."""
    area = 0.0
    newest = [*(age for age, _ in samples[1:]), 0.0]
    for (older, level), newer in zip(samples, newest, strict=False):
        area += level * max(0.0, min(older, until_s + span_s) - max(newer, until_s))
    return area / span_s


@given(histories, st.floats(0.5, 60), st.floats(0, 60))
def test_a_mean_is_weighed_by_time(
    samples: list[tuple[float, float]], span_s: float, until_s: float
) -> None:
    past = Past([Sample(age_s, level) for age_s, level in samples])
    assert past.mean(span_s, until_s) == pytest.approx(mean(samples, span_s, until_s), abs=1e-6)


@given(histories, st.floats(0, 60))
def test_no_mean_is_above_the_peak(samples: list[tuple[float, float]], moment: float) -> None:
    past = Past([Sample(age_s, level) for age_s, level in samples])
    peak = past.peak(2.0, 60.0)
    assert past.mean(2.0, moment) <= peak + 1e-6
    assert peak <= max((level for _, level in samples), default=0.0) + 1e-6
