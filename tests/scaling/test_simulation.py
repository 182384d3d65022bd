"""The simulator behind `make bench NAME=autoscale`: its sums are right, its traffic repeats."""

from pathlib import Path

import pytest

from tests.benchmarks import autoscale
from tests.benchmarks.autoscale import Fixed
from tests.benchmarks.scaling import traces
from tests.benchmarks.scaling.simulate import Outcome, play
from tests.benchmarks.scaling.traces import Arrival, Session


def test_a_gap_that_is_longer_than_the_time_out_costs_it_a_start_and_a_wait() -> None:
    outcome = play([Session(0, [2, 2, 2], [5, 100])], Fixed(10), start_s=3)
    assert outcome == Outcome(idle_s=15, starts=1, requests=3, waits=[3], gaps=[5, 100])
    assert outcome.cost(start_s=3, wait_value=4) == 15 + 3 + 4 * 3
    assert outcome.cold_share == pytest.approx(1 / 3)


def test_who_comes_while_it_starts_waits_for_the_rest() -> None:
    sessions = [Session(0, [1]), Session(50, [1]), Session(52, [1]), Session(60, [1])]
    outcome = play(sessions, Fixed(10), start_s=18)
    assert (outcome.starts, outcome.waits) == (1, [18, 16, 8])
    assert outcome.gaps == [49] and outcome.idle_s == 10


def test_a_wait_delays_the_rest_of_a_session() -> None:
    sessions = [Session(0, [1]), Session(101, [1, 1], [5])]
    assert play(sessions, Fixed(0), start_s=20).gaps == [100, 5]
    # Another's request comes after that session where nobody waited, and during it where somebody
    # did.
    sessions.append(Session(121.5, [1]))
    assert play(sessions, Fixed(1000), start_s=20).gaps == [100, 5, 13.5]
    assert play(sessions, Fixed(99), start_s=20).gaps == [100, 4.5]


def test_a_wait_of_a_share_counts_who_did_not_wait() -> None:
    outcome = Outcome(requests=100, waits=[5.0, 1.0])
    assert [outcome.wait_s(share) for share in (0.98, 0.99, 1.0)] == [0.0, 1.0, 5.0]


def test_traffic_repeats_with_its_seed_and_only_with_it() -> None:
    arrivals = [Arrival(float(at), 5.0) for at in range(2000)]
    one, same, other = (traces.agents(arrivals, 1 / 100, 20, seed) for seed in (1, 1, 2))
    assert one == same and one != other and len(one) == traces.TENANTS
    sessions = [session for tenant in one for session in tenant]
    assert 300 < len(sessions) < 500
    turns = sum(len(session.service_s) for session in sessions) / len(sessions)
    assert 10 < turns < 14
    assert all(len(s.gaps) == len(s.service_s) - 1 and s.at % 20 == 0 for s in sessions)


def test_a_trace_is_read_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:50.9951690,8000,40\n"
        "2023-11-16 18:15:46.9951690,0,20"
    )
    assert traces.read(path) == [Arrival(0.0, 0.5), Arrival(4.0, 2.0)]


def test_the_aims_hold_where_gaps_are_long_and_regular() -> None:
    """Half the break-even and a start for each gap: three halves of the optimum, from the first."""
    tenants = [[Session(0, [5.0] * 101, [600.0] * 100)]]
    cases = list(autoscale.study("d_timer", [tenants]))
    assert len(cases) == 4
    for case in cases:
        assert case.ratio == pytest.approx(1.5)
        assert case.known == case.optimum
        assert not list(autoscale.missed(case))


def test_what_is_beyond_an_aim_is_said() -> None:
    """With a wait as dear as that, gaps of 100 s are kept: so does the best fixed time-out."""
    tenants = [[Session(0, [5.0] * 4, [100.0, 5_000.0, 40_000.0])]]
    case = next(case for case in autoscale.study("a", [tenants]) if case.name == "a/L18/lambda4")
    assert case.best_fixed == "fixed_1m"
    assert case.costs["fixed_1m"] == 3 * 60 + 3 * 90
    assert case.costs["stoa"] == 3 * 45 + 3 * 90
    case.costs["fixed_1m"] = 100.0
    assert list(autoscale.missed(case)) == [
        "a/L18/lambda4: 4.050 of the best fixed (fixed_1m), aim 1.15"
    ]
