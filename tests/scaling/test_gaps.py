"""What is remembered of gaps: enough to choose by, of a fixed size, and not for ever."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scaling.gaps import BINS, MEMORY, GapHistory

gaps = st.lists(st.floats(0, 1e7), max_size=80)


def charged(gaps: list[float], timeout_s: float, break_even_s: float) -> float:
    return sum(gap if gap <= timeout_s else timeout_s + break_even_s for gap in gaps)


@given(st.lists(st.floats(1, 1e4), min_size=30, max_size=200), st.floats(2, 500))
def test_it_chooses_about_the_best_of_what_was(gaps: list[float], even_s: float) -> None:
    chosen = GapHistory.of(gaps).cheapest(even_s, even_s / 2, even_s * 2)
    assert even_s / 2 <= chosen <= even_s * 2
    tries = [even_s / 2, even_s * 2, *(g for g in gaps if even_s / 2 <= g <= even_s * 2)]
    best = min(charged(gaps, timeout_s, even_s) for timeout_s in tries)
    # Bins are 9 % wide, and the prior counts as two gaps, each of which costs 3 C at the most.
    assert charged(gaps, chosen, even_s) <= best * 1.2 + 6 * even_s


@given(gaps)
def test_it_survives_being_kept_as_json(gaps: list[float]) -> None:
    history = GapHistory.of(gaps)
    data = history.as_data()
    again = GapHistory.from_data(json.loads(json.dumps(data)))
    assert again.as_data() == data and len(data["bins"]) <= BINS
    for even_s in (6.0, 90.0):
        expected = history.cheapest(even_s, even_s / 2, even_s * 2)
        assert again.cheapest(even_s, even_s / 2, even_s * 2) == expected


def test_it_forgets() -> None:
    history = GapHistory.of([1000.0] * 2000)
    assert history.cheapest(90, 45, 180) == 45
    for _ in range(int(2 * MEMORY)):
        history.add(100.0)
    assert 100 <= history.cheapest(90, 45, 180) < 115
    assert sum(count for count, _ in history.as_data()["bins"].values()) < MEMORY


def test_a_few_gaps_outweigh_the_prior() -> None:
    assert GapHistory().cheapest(90, 45, 180) == 45  # scale-free: it goes early
    assert 100 <= GapHistory.of([100.0] * 3).cheapest(90, 45, 180) < 115


def test_what_is_no_gap_is_refused() -> None:
    for gap_s in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="a gap of"):
            GapHistory().add(gap_s)
    history = GapHistory.of([0.0, 1e-9, 1e12, float("inf")])
    assert set(history.as_data()["bins"]) >= {"0", str(BINS - 1)}
    with pytest.raises(IndexError):
        GapHistory.from_data({"bins": {"100000": [1, 1]}})
