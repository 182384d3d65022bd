"""Through a gap: never more than three times what hindsight would have paid, on any gaps."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scaling import keepalive
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.keepalive import HOT, Step, Tier

OFF = keepalive.tier("off", 0.0, wake_s=18, wait_value=4)  # back costs 90
ASLEEP = keepalive.tier("asleep", 0.1, wake_s=3, wait_value=4)  # 15

starts_s = st.floats(0.1, 600)
wait_values = st.floats(0, 20)


@st.composite
def two_tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    return HOT, keepalive.tier("off", 0.0, draw(starts_s), draw(wait_values))


@st.composite
def three_tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    value = draw(wait_values)
    asleep = keepalive.tier("asleep", draw(st.floats(0.001, 0.999)), draw(starts_s), value)
    return HOT, asleep, keepalive.tier("off", 0.0, draw(starts_s), value)


def neighbours(tiers: Sequence[Tier]) -> list[tuple[Tier, Tier]]:
    return list(itertools.pairwise(keepalive.envelope(tiers)))


def adversary(data: st.DataObject, steps: Sequence[Step]) -> float:
    """A gap by somebody who knows the plan: often one that ends just beside a step."""
    step = data.draw(st.sampled_from(steps))
    beside = st.sampled_from((0.0, 1e-9, 1e-6, -1e-9)).map(lambda d: step.after_s * (1 + d) + d)
    return max(0.0, data.draw(st.one_of(beside, st.floats(0, 1e7), st.floats(0, 100))))


@given(st.one_of(two_tiers(), three_tiers()), st.data())
def test_no_gaps_cost_more_than_three_times_the_optimum(
    tiers: tuple[Tier, ...], data: st.DataObject
) -> None:
    history = GapHistory()
    for _ in range(data.draw(st.integers(1, 12))):
        steps = keepalive.plan(tiers, history)
        gap_s = adversary(data, steps)
        paid, best = keepalive.cost(steps, gap_s), keepalive.optimum(tiers, gap_s)
        assert best <= paid * (1 + 1e-9) and paid <= 3 * best * (1 + 1e-9)
        even_s = keepalive.break_even(*data.draw(st.sampled_from(neighbours(tiers))))
        lure = [even_s * share for share in (0.67, 1.06, 1.45, 1.95, 2.15)]
        for taught_s in data.draw(st.sampled_from(([gap_s], [gap_s], [gap_s] * 50, lure * 30))):
            history.add(taught_s)


@given(st.one_of(two_tiers(), three_tiers()), st.data())
def test_without_a_history_it_is_twice(tiers: tuple[Tier, ...], data: st.DataObject) -> None:
    steps = keepalive.plan(tiers)
    gap_s = adversary(data, steps)
    assert keepalive.cost(steps, gap_s) <= 2 * keepalive.optimum(tiers, gap_s) * (1 + 1e-9)


@given(two_tiers(), st.lists(st.floats(0, 1e6), max_size=50))
def test_the_time_stays_around_the_break_even(tiers: tuple[Tier, ...], gaps: list[float]) -> None:
    even_s = keepalive.break_even(*tiers)
    after_s = keepalive.plan(tiers, GapHistory.of(gaps))[-1].after_s
    assert 0.5 * even_s <= after_s <= 2 * even_s


@given(three_tiers(), st.lists(st.floats(0, 1e6), max_size=50))
def test_steps_ascend_and_get_colder(tiers: tuple[Tier, ...], gaps: list[float]) -> None:
    steps = keepalive.plan(tiers, GapHistory.of(gaps))
    assert steps[0] == Step(0.0, HOT) and steps[-1].tier.rent == 0
    for one, next_one in itertools.pairwise(steps):
        assert one.after_s <= next_one.after_s
        assert one.tier.rent > next_one.tier.rent and one.tier.back < next_one.tier.back


def test_the_bound_is_reached() -> None:
    """The property above looks where it hurts: somebody who trains the history pays three times."""
    quick = keepalive.plan((HOT, OFF), GapHistory.of([1000.0] * 100))
    assert quick[-1].after_s == 45
    assert keepalive.cost(quick, 45.001) == pytest.approx(3 * 45, rel=1e-3)
    slow = keepalive.plan((HOT, OFF), GapHistory.of([60.0, 95.0, 130.0, 175.0] * 25))
    assert slow[-1].after_s == pytest.approx(180, rel=0.05)
    assert keepalive.cost(slow, 1e6) == pytest.approx(3 * 90, rel=0.03)


def test_history_chooses_where_gaps_end() -> None:
    """Seconds within a session, half an hour between: it waits for the seconds, no longer."""
    history = GapHistory.of(([3.0] * 11 + [1800.0]) * 10)
    assert keepalive.plan((HOT, OFF), history)[-1].after_s == 45.0
    # All gaps end within 100 s: it is worth more than the break-even of 90 s.
    assert 100 <= keepalive.plan((HOT, OFF), GapHistory.of([100.0] * 50))[-1].after_s < 115


def test_three_tiers_each_take_their_part_of_a_gap() -> None:
    steps = keepalive.plan((OFF, HOT, ASLEEP))
    assert [step.tier for step in steps] == [HOT, ASLEEP, OFF]
    assert steps[1].after_s == pytest.approx(15 / 0.9)
    assert steps[2].after_s == pytest.approx((90 - 15) / 0.1)
    for idle_s, tier, left_s in ((5, HOT, 15 / 0.9 - 5), (100, ASLEEP, 650)):
        reached, next_s = keepalive.at(steps, idle_s)
        assert reached == tier and next_s == pytest.approx(left_s)
    assert keepalive.at(steps, 750) == (OFF, None)
    assert keepalive.cost(steps, 5) == 5
    assert keepalive.cost(steps, 116.666666) == pytest.approx(15 / 0.9 + 10 + 15)
    assert keepalive.cost(steps, 10_000) == pytest.approx(15 / 0.9 + 0.1 * (750 - 15 / 0.9) + 90)


def test_a_colder_tier_is_never_left_before_it_is_reached() -> None:
    """Break-evens of 100 and 104 s, and gaps that the edges of bins tell apart for one of them."""
    tiers = (HOT, Tier("asleep", 0.5, 50.0), Tier("off", 0.0, 102.0))
    steps = keepalive.plan(tiers, GapHistory.of([51.0] * 50))
    assert 53 < steps[1].after_s <= steps[2].after_s


def test_a_tier_that_is_never_cheapest_is_left_out() -> None:
    assert keepalive.envelope((HOT, OFF, Tier("asleep", 0.9, 80.0))) == (HOT, OFF)
    assert keepalive.envelope((HOT, OFF, Tier("worse", 0.5, 95.0))) == (HOT, OFF)
    assert keepalive.envelope((HOT, OFF, ASLEEP)) == (HOT, ASLEEP, OFF)
    with pytest.raises(ValueError, match="no tier"):
        keepalive.envelope(())


def test_a_fixed_time_out_is_just_that() -> None:
    assert keepalive.fixed(300, (HOT, ASLEEP, OFF)) == (Step(0.0, HOT), Step(300, OFF))
    free = keepalive.tier("off", 0.0, wake_s=0, wait_value=4)
    assert keepalive.fixed(300, keepalive.envelope((HOT, free))) == (Step(0, HOT), Step(300, free))
    assert keepalive.plan((HOT, free)) == (Step(0.0, free),)
