"""What a day of waiting warm may cost, in seconds and euro."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scaling.caps import NO_CAP, NOTHING, Cap, Warmth, left_s, waited

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
EURO = Decimal("3.60")  # an hour: a tenth of a cent a second


def test_it_counts_replica_seconds_and_what_they_cost() -> None:
    cap = Cap(seconds=1000)
    warmth = waited(NOTHING, cap, NOON, NOON + timedelta(seconds=100), replicas=2, hourly=EURO)
    assert warmth == Warmth("2026-03-29", 200.0, Decimal("0.2"))
    later = NOON + timedelta(seconds=100)
    assert left_s(warmth, cap, later, replicas=2, hourly=EURO) == 400
    assert left_s(warmth, cap, later, replicas=1, hourly=EURO) == 800


def test_the_tighter_bound_counts_and_what_is_over_is_over() -> None:
    warmth = Warmth("2026-03-29", 200.0, Decimal("0.2"))
    both = Cap(seconds=1000, euro=Decimal("0.3"))
    assert left_s(warmth, both, NOON, replicas=1, hourly=EURO) == 100
    assert left_s(warmth, both, NOON, replicas=1, hourly=Decimal(0)) == 800
    assert left_s(warmth, Cap(seconds=100), NOON, replicas=1, hourly=EURO) == 0
    assert left_s(warmth, NO_CAP, NOON, replicas=9, hourly=EURO) == float("inf")
    assert left_s(warmth, Cap(seconds=100), NOON, replicas=0, hourly=EURO) == float("inf")


def test_a_day_is_one_of_the_time_zone() -> None:
    cap = Cap(seconds=100, time_zone="Europe/Berlin")
    before = datetime(2026, 3, 28, 22, 59, 0, tzinfo=UTC)  # 23:59 there
    warmth = waited(NOTHING, cap, before, before + timedelta(seconds=90), replicas=1, hourly=EURO)
    assert warmth == Warmth("2026-03-29", 30.0, Decimal("0.03"))
    assert left_s(warmth, cap, before, replicas=1, hourly=EURO) == 100
    assert left_s(warmth, cap, before + timedelta(seconds=90), replicas=1, hourly=EURO) == 70


@given(st.lists(st.floats(0.001, 40_000), min_size=1, max_size=20), st.integers(1, 5))
def test_however_it_is_cut_it_adds_up(cuts: list[float], replicas: int) -> None:
    cap = Cap(time_zone="Europe/Berlin")
    warmth, at = NOTHING, NOON
    for cut in cuts:
        until = at + timedelta(seconds=cut)
        warmth = waited(warmth, cap, at, until, replicas=replicas, hourly=EURO)
        at = until
    whole = waited(NOTHING, cap, NOON, at, replicas=replicas, hourly=EURO)
    assert warmth.day == whole.day
    assert warmth.seconds == pytest.approx(whole.seconds, abs=1e-3)
    assert warmth.euro == pytest.approx(whole.euro, abs=Decimal("0.000001"))
