"""The queue in front of an engine, against what is known of queues."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.devices import known
from controlplane.placement.speed.factors import Factors
from controlplane.placement.speed.load import Job, Load, Request, Shape
from controlplane.placement.speed.machine import Machine
from controlplane.placement.speed.simulation import Limits, percentile, run
from controlplane.placement.speed.work import Work

STEP_S = 0.01
WIDE = Limits(256, 8192, 1e9)


def metronome(each_s: float = 0.0) -> Machine:
    """Every step takes STEP_S, and `each_s` for each request in it."""
    device = known()["h100"].throughput
    assert device is not None
    factors = Factors(1, 1, 1, 1, 1, 1, 1, 0, 0, STEP_S, each_s, 0, 0)
    return Machine(Work(0, 0, 0, 0, 0, 1, (), 0, 1, 1, 2, 1, 1), device, factors, 1e15)


def test_one_prompt_at_a_time_is_the_queue_with_a_known_wait() -> None:
    """M/D/1: the mean wait is half the service time, times busy over idle."""
    busy = 0.7
    chance = random.Random(3)
    now, asked = 0.0, []
    for _ in range(20_000):
        now += chance.expovariate(busy / STEP_S)
        asked.append(Request(now, 100, 0, 1))
    found = run(metronome(), Limits(1, 100, 1e9), asked)
    expected = STEP_S + busy * STEP_S / (2 * (1 - busy))
    assert statistics.fmean(each.ttft_s for each in found) == pytest.approx(expected, rel=0.08)


def test_tokens_come_one_a_step() -> None:
    [only] = run(metronome(), WIDE, [Request(1.0, 100, 0, 11)])
    assert only.ttft_s == pytest.approx(STEP_S)
    assert only.e2e_s == pytest.approx(11 * STEP_S)
    assert only.tpot_s == pytest.approx(STEP_S)


def test_a_long_prompt_is_read_in_chunks_beside_those_that_decode() -> None:
    asked = [Request(0.0, 1, 0, 50), Request(0.0, 1000, 0, 1)]
    by_output = {each.output: each for each in run(metronome(), Limits(8, 101, 1e9), asked)}
    # 100 tokens beside the first prompt, then nine chunks of 100 beside its decoding.
    assert by_output[1].ttft_s == pytest.approx(10 * STEP_S)
    assert by_output[50].e2e_s == pytest.approx(50 * STEP_S)


def test_who_has_no_room_in_the_cache_waits_for_who_leaves() -> None:
    asked = [Request(0.0, 100, 0, 10), Request(0.0, 100, 0, 10)]
    first, second = run(metronome(), Limits(8, 8192, 150), asked)
    assert second.ttft_s == pytest.approx(first.e2e_s + STEP_S)
    first, second = run(metronome(), Limits(8, 8192, 300), asked)
    assert second.ttft_s == first.ttft_s


def test_a_request_that_is_too_large_for_the_cache_runs_alone() -> None:
    asked = [Request(0.0, 1000, 0, 2), Request(0.0, 10, 0, 2)]
    assert len(run(metronome(), Limits(8, 8192, 100), asked)) == 2


requests = st.lists(
    st.builds(
        Request,
        at_s=st.floats(0, 5, allow_nan=False),
        prompt=st.integers(1, 3000),
        cached=st.integers(0, 500),
        output=st.integers(1, 60),
    ),
    max_size=40,
).map(lambda them: sorted(them, key=lambda one: one.at_s))


@given(requests, st.integers(1, 8), st.integers(1, 600), st.integers(1, 5000))
def test_everybody_is_served_once_and_no_faster_than_alone(
    asked: list[Request], sequences: int, batched: int, tokens: int
) -> None:
    found = run(metronome(1e-4), Limits(sequences, batched, tokens), asked)
    assert sorted((s.arrived_s, s.output) for s in found) == sorted(
        (r.at_s, r.output) for r in asked
    )
    for each in found:
        assert each.ttft_s >= STEP_S * 0.999
        assert each.e2e_s >= each.output * STEP_S * 0.999


def test_more_load_means_longer_waits() -> None:
    shape = Shape(500, 50)
    waits = []
    for rate in (2.0, 20.0, 45.0, 60.0):
        asked = Load(rate, shape).arrivals(rate, 400, 4096, seed=1)
        found = run(metronome(), Limits(20, 2048, 1e9), asked)
        waits.append(percentile([each.ttft_s for each in found], 0.95))
    assert waits == sorted(waits) and waits[-1] > 5 * waits[0]


def test_lengths_are_drawn_with_the_mean_and_spread_that_is_asked_for() -> None:
    shape = Shape(1000, 200, cached=0.25, spread=0.85)
    drawn = Job(1, shape).waiting(20_000, 10**6, seed=2)
    lengths = [each.prompt + each.cached for each in drawn]
    mean = statistics.fmean(lengths)
    assert mean == pytest.approx(1000, rel=0.03)
    assert statistics.pstdev(lengths) / mean == pytest.approx(0.85, rel=0.1)
    assert sum(each.cached for each in drawn) / sum(lengths) == pytest.approx(0.25, rel=0.01)
    assert all(each.tokens <= 300 for each in Job(1, shape).waiting(500, 300, seed=2))


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (1, 1, 1.0), (1, 1, -0.1), (1, 1, 0, -1)])
def test_a_shape_that_cannot_be_is_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Shape(*wrong)


def test_a_load_or_job_that_cannot_be_is_refused() -> None:
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError):
            Load(rate, Shape(1, 1))
    with pytest.raises(ValueError):
        Job(0, Shape(1, 1))
    with pytest.raises(ValueError):
        Job(1, Shape(1, 1), deadline_s=0)


def test_percentiles() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile(range(100), 0.95) == 95
    assert percentile([3.0], 0.99) == 3.0
