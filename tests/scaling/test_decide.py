"""Load, clock and caps together."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scaling.caps import Cap, Warmth
from controlplane.scaling.decide import LONGEST_S, Picture, Why, Wish, decide
from controlplane.scaling.desired import Sample
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.policy import AUTOMATIC, PREDICTABLE, KeepAlive, Policy
from controlplane.scaling.schedules import Burst, Schedule

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BUSY = (Sample(300, 0.0), Sample(30, 0.3))
QUIET = (Sample(300, 0.3), Sample(200, 0.0))
ONE = Picture(QUIET, current=1, idle_s=200, start_s=18, max_num_seqs=16)
MANY = Wish(max_replicas=10)


def test_a_load_keeps_what_it_needs() -> None:
    decision = decide(MANY, replace(ONE, samples=BUSY), NOW)
    assert (decision.replicas, decision.tier, decision.warm) == (1, "hot", 0)
    assert decision.why is Why.LOAD
    woken = decide(MANY, replace(ONE, samples=[Sample(0, 0.1)], current=0), NOW)
    assert (woken.replicas, woken.why) == (1, Why.LOAD)


def test_in_a_panic_it_is_looked_at_again_soon() -> None:
    rising = decide(MANY, replace(ONE, samples=[Sample(0.1, 5.0)]), NOW)
    assert rising.replicas == 1 and rising.again_s <= 0.5
    risen = decide(MANY, replace(ONE, samples=[Sample(2.0, 5.0)]), NOW)
    assert risen.replicas == 8 and risen.again_s > 0.5


def test_the_predictable_default_waits_its_time_out() -> None:
    assert PREDICTABLE.keep_alive is KeepAlive.PREDICTABLE
    wish = Wish(policy=Policy(scale_to_zero_timeout_s=300))
    waiting = decide(wish, ONE, NOW)
    assert (waiting.replicas, waiting.why, waiting.again_s) == (1, Why.KEEP_ALIVE, LONGEST_S)
    assert waiting.warm == 1
    assert decide(wish, replace(ONE, idle_s=299), NOW).again_s == 1
    gone = decide(wish, replace(ONE, idle_s=300), NOW)
    assert (gone.replicas, gone.tier, gone.why) == (0, "off", Why.IDLE)


def test_automatic_goes_down_tier_by_tier() -> None:
    wish = Wish(policy=AUTOMATIC)  # back from off costs 18 s * (1 + 4), so it waits 45 s or more
    history = GapHistory.of([10_000.0] * 20)
    picture = replace(ONE, history=history)
    assert decide(wish, replace(picture, idle_s=44), NOW).replicas == 1
    assert decide(wish, replace(picture, idle_s=46), NOW).replicas == 0
    sleeping = replace(picture, wake_s=2.0, sleep_rent=0.05)
    hot = decide(wish, replace(sleeping, idle_s=5), NOW)
    asleep = decide(wish, replace(sleeping, idle_s=30), NOW)
    off = decide(wish, replace(sleeping, idle_s=1000), NOW)
    assert [(d.replicas, d.tier) for d in (hot, asleep, off)] == [
        (1, "hot"),
        (1, "asleep"),
        (0, "off"),
    ]


def test_what_sleeps_is_no_warm_waiting() -> None:
    wish = Wish(policy=AUTOMATIC, cap=Cap(seconds=0))
    sleeping = replace(ONE, idle_s=30, wake_s=2.0, sleep_rent=0.05)
    assert (decide(wish, sleeping, NOW).tier, decide(wish, sleeping, NOW).warm) == ("asleep", 0)
    hot = decide(wish, replace(sleeping, idle_s=1), NOW)
    assert (hot.replicas, hot.why) == (0, Why.CAPPED)


def test_it_says_when_the_clock_will_have_its_say() -> None:
    off = replace(ONE, current=0, idle_s=float("inf"))
    wish = Wish(schedules=[Schedule("0 12 * * *", "UTC", 600)])
    before = decide(wish, off, NOW - timedelta(seconds=28))
    assert (before.replicas, before.again_s) == (0, 10)
    assert decide(wish, off, NOW + timedelta(seconds=590)).again_s == 10
    assert decide(wish, off, NOW - timedelta(hours=2)).again_s == LONGEST_S
    burst = Burst(1, NOW, NOW + timedelta(seconds=30))
    assert decide(Wish(bursts=[burst]), off, NOW - timedelta(seconds=20)).again_s == 2


def test_what_is_gone_is_not_brought_back_by_keep_alive() -> None:
    assert decide(Wish(), replace(ONE, current=0, idle_s=1), NOW).replicas == 0


def test_min_replicas_are_there_whatever_else_is() -> None:
    wish = Wish(min_replicas=2, max_replicas=4, cap=Cap(seconds=0))
    decision = decide(wish, replace(ONE, current=0, idle_s=float("inf")), NOW)
    assert (decision.replicas, decision.tier, decision.warm) == (2, "hot", 0)
    assert decision.why is Why.MIN_REPLICAS


def test_a_schedule_and_a_burst_start_in_time() -> None:
    off = replace(ONE, current=0, idle_s=float("inf"))
    wish = Wish(max_replicas=3, schedules=[Schedule("0 12 * * *", "UTC", 600, replicas=2)])
    early = decide(wish, off, NOW - timedelta(seconds=18))
    assert (early.replicas, early.tier, early.warm, early.why) == (2, "hot", 2, Why.CLOCK)
    assert decide(wish, off, NOW - timedelta(seconds=19)).replicas == 0
    burst = Burst(workers=200, at=NOW, until=NOW + timedelta(minutes=5))
    assert decide(replace(wish, bursts=[burst]), off, NOW).replicas == 3  # no more than may be


@pytest.mark.parametrize("cap", [Cap(seconds=500), Cap(euro=Decimal("0.5"))])
def test_a_cap_ends_waiting_warm_but_not_work(cap: Cap) -> None:
    wish = replace(
        MANY,
        cap=cap,
        hourly=Decimal("3.60"),
        schedules=[Schedule("0 12 * * *", "UTC", 3600, replicas=2)],
    )
    nearly = replace(ONE, warmth=Warmth("2026-06-01", 480.0, Decimal("0.48")))
    assert decide(wish, nearly, NOW).again_s == pytest.approx(10)  # two of them
    spent = replace(ONE, warmth=Warmth("2026-06-01", 500.0, Decimal("0.5")))
    decision = decide(wish, spent, NOW)
    assert (decision.replicas, decision.tier, decision.why) == (0, "off", Why.CAPPED)
    assert decide(wish, replace(spent, samples=BUSY), NOW).replicas == 1
    assert decide(wish, spent, NOW + timedelta(days=1)).replicas == 2


def test_a_policy_is_checked() -> None:
    with pytest.raises(ValueError):
        Policy(scale_to_zero_timeout_s=-1.0)
    with pytest.raises(ValueError):
        Policy(wait_value=float("nan"))


pictures = st.builds(
    Picture,
    samples=st.lists(st.tuples(st.floats(0, 200), st.floats(0, 20)), max_size=6).map(
        lambda samples: [Sample(age_s, level) for age_s, level in sorted(samples, reverse=True)]
    ),
    current=st.integers(0, 12),
    idle_s=st.one_of(st.floats(0, 1e5), st.just(float("inf"))),
    start_s=st.floats(0, 600),
    wake_s=st.one_of(st.none(), st.floats(0, 60)),
    sleep_rent=st.floats(0, 1),
    max_num_seqs=st.integers(1, 64),
    history=st.lists(st.floats(0, 1e5), max_size=5).map(GapHistory.of),
    warmth=st.builds(Warmth, st.just("2026-06-01"), st.floats(0, 1000)),
)


@given(pictures, st.integers(0, 3), st.integers(3, 9), st.sampled_from((PREDICTABLE, AUTOMATIC)))
def test_whatever_is_seen_the_decision_is_within_its_bounds(
    picture: Picture, low: int, high: int, policy: Policy
) -> None:
    burst = Burst(30, NOW + timedelta(seconds=100), NOW + timedelta(seconds=200))
    wish = Wish(low, high, policy, bursts=[burst], cap=Cap(seconds=500))
    decision = decide(wish, picture, NOW)
    assert low <= decision.replicas <= high
    assert 0 <= decision.warm <= decision.replicas
    assert 0 < decision.again_s <= LONGEST_S
    assert (decision.replicas == 0) == (decision.tier == "off")
    if picture.warmth.seconds >= 500 or decision.tier != "hot":
        assert decision.warm == 0
    if picture.samples and picture.samples[-1].utilization > 0:
        assert decision.replicas >= 1 and decision.tier == "hot"
