"""Seconds served become slices of minutes: each once, all in the end, never beyond our clock."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.endpoints import serving
from controlplane.endpoints.serving import Slice

NOON = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
EPOCH = int(NOON.timestamp())


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def cut(
    started: float, ended: float | None, served: float, metered: int, now: float
) -> list[Slice]:
    return serving.slices(
        started_at=after(started),
        ended_at=None if ended is None else after(ended),
        served_s=served,
        metered_s=metered,
        now=after(now),
    )


def test_a_minute_is_handed_out_when_it_is_over() -> None:
    assert cut(15, None, 44.9, 0, 60) == []
    assert cut(15, None, 45, 0, 60) == [Slice(EPOCH, 45)]
    assert cut(15, None, 110, 45, 125) == [Slice(EPOCH + 60, 60)]


def test_the_node_may_be_behind_and_the_minute_waits() -> None:
    """Its last report is seconds old: what is not reported is not billed yet."""
    assert cut(0, None, 58, 0, 70) == []
    assert cut(0, None, 61, 0, 70) == [Slice(EPOCH, 60)]


def test_the_last_minute_is_handed_out_at_the_end() -> None:
    assert cut(15, 75.8, 60.5, 45, 80) == [Slice(EPOCH + 60, 15)]
    assert cut(15, 75.8, 60.5, 60, 80) == []


def test_an_end_in_the_future_is_no_end_yet() -> None:
    assert cut(0, 30, 30, 0, 20) == []
    assert cut(0, 30, 30, 0, 30) == [Slice(EPOCH, 30)]


def test_fractions_at_both_ends_lose_less_than_a_second() -> None:
    assert cut(59.5, 180.2, 120.7, 0, 200) == [Slice(EPOCH + 60, 60), Slice(EPOCH + 120, 60)]
    assert cut(59.1, 60.5, 1.4, 0, 200) == [Slice(EPOCH + 60, 1)]
    assert cut(59.9, 60.5, 0.6, 0, 200) == []


@pytest.mark.parametrize("served", [1e9, math.inf, math.nan, -5.0])
def test_a_node_cannot_claim_more_than_our_clock_saw(served: float) -> None:
    total = sum(piece.seconds for piece in cut(0, 90, served, 0, 1000))
    assert total == (90 if served == 1e9 else 0)
    assert sum(piece.seconds for piece in cut(0, None, served, 0, 90)) <= 60


def test_a_final_report_after_the_end_makes_a_slice_with_a_name_of_its_own() -> None:
    (early,) = cut(15, 75, 52.0, 45, 80)
    assert (early.name, early.seconds) == (str(EPOCH + 60), 7)
    (late,) = cut(15, 75, 59.9, 52, 80)
    assert (late.name, late.seconds, late.at) == (f"{EPOCH + 60}+7", 7, after(60))


def test_what_is_not_metered_yet() -> None:
    def left(metered: int, served: float, now: float) -> int:
        return serving.unmetered_s(
            started_at=NOON, ended_at=None, served_s=served, metered_s=metered, now=after(now)
        )

    assert left(60, 85.5, 90) == 25
    assert left(60, 500, 90) == 30
    assert left(60, 50, 90) == 0


@dataclass
class Stretch:
    """A replica's serving as the control plane sees it, with what was metered of it."""

    started: float
    ended: float | None = None
    served: float = 0.0
    metered: int = 0
    events: dict[str, int] = field(default_factory=dict)
    by_minute: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def meter(self, now: float, crash: bool = False) -> None:
        due = cut(self.started, self.ended, self.served, self.metered, now)
        for piece in due:
            assert piece.seconds > 0
            assert piece.name not in self.events, "one name, two slices"
            assert piece.minute_epoch % 60 == 0
        if crash:
            return
        for piece in due:
            self.events[piece.name] = piece.seconds
            self.by_minute[piece.minute_epoch] += piece.seconds
        self.metered += sum(piece.seconds for piece in due)
        seen = after(min(now, self.ended or now)) - after(self.started)  # in our clock's own grain
        assert self.metered <= seen.total_seconds()


steps = st.lists(
    st.tuples(
        st.floats(0, 200),  # seconds that pass
        st.floats(0, 1.2),  # how much of them the node counts
        st.sampled_from(["meter", "meter", "crash", "skip"]),
    ),
    max_size=25,
)


@given(st.floats(0, 7200), steps, st.floats(0, 10), st.floats(0, 30))
def test_whatever_happens_in_between_the_sum_is_the_whole_seconds_served(
    started: float, steps: list[tuple[float, float, str]], late: float, final: float
) -> None:
    now = started
    stretch = Stretch(started)
    for passed, share, deed in steps:
        now += passed
        stretch.served += passed * share
        if deed != "skip":
            stretch.meter(now, crash=deed == "crash")
    stretch.ended = now
    stretch.meter(now + late)
    stretch.served += final  # the node's last report comes after the end
    stretch.meter(now + late)
    stretch.meter(now + late)

    bound = serving.bounded_s(after(started), after(now), stretch.served, after(now))
    assert stretch.metered == sum(stretch.events.values()) == math.floor(bound)
    assert all(seconds <= 60 for seconds in stretch.by_minute.values())


@given(st.floats(0, 7200), st.floats(0, 7200), st.lists(st.floats(0, 7200), max_size=8))
def test_when_it_is_metered_does_not_change_the_minutes(
    started: float, length: float, looks: list[float]
) -> None:
    ended = started + length
    often, once = Stretch(started), Stretch(started)
    for now in sorted(started + look for look in looks if look < length):
        often.served = now - started
        often.meter(now)
    for stretch in (often, once):
        stretch.ended, stretch.served = ended, length
        stretch.meter(ended)
    assert often.events == once.events
