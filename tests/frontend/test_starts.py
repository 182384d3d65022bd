"""The bar of a start: its parts are the seconds that were spent."""

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.endpoints.models import Replica, Transition
from controlplane.endpoints.states import State
from frontend import starts
from frontend.templatetags import console

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


def replica(state: State, age_s: float = 0.0, id: str = "rep_1") -> Replica:
    return Replica(id=id, state=state, state_at=NOW - timedelta(seconds=age_s))


def arc(old: str, new: State, seconds: float = 0.0) -> Transition:
    return Transition(from_state=old, to_state=new, seconds=seconds)


BEGUN = [
    arc("", State.REQUESTED),
    arc("requested", State.PLACED, 0.5),
    arc("placed", State.STARTING, 1.5),
]


def test_a_start_under_way_counts_the_state_it_is_in() -> None:
    start = starts.measure(replica(State.STARTING, age_s=6.0), BEGUN, NOW)
    assert [(one.state, one.seconds) for one in start.phases] == [
        ("requested", 0.5),
        ("placed", 1.5),
        ("starting", 6.0),
    ]
    assert start.phases[-1].running
    assert start.total_s == 8.0
    assert start.outcome == ""


def test_what_came_after_ready_is_no_part_of_the_start() -> None:
    rows = [*BEGUN, arc("starting", State.READY, 2.0), arc("ready", State.UNREACHABLE, 900.0)]
    start = starts.measure(replica(State.UNREACHABLE, age_s=60.0), rows, NOW)
    assert start.total_s == 4.0
    assert start.outcome == "ready"
    assert not any(one.running for one in start.phases)


def test_a_wake_is_a_start_of_its_own() -> None:
    rows = [
        *BEGUN,
        arc("starting", State.READY, 2.0),
        arc("ready", State.ASLEEP, 900.0),
        arc("asleep", State.STARTING, 3600.0),
        arc("starting", State.READY, 1.25),
    ]
    start = starts.measure(replica(State.READY), rows, NOW)
    assert [(one.state, one.seconds) for one in start.phases] == [("starting", 1.25)]
    assert (start.total_s, start.outcome) == (1.25, "ready")


def test_the_widths_fill_the_bar_and_short_phases_stay_visible() -> None:
    rows = [arc("requested", State.PLACED, 0.001), arc("placed", State.READY, 600.0)]
    start = starts.measure(replica(State.READY), rows, NOW)
    assert sum(one.width for one in start.phases) == pytest.approx(starts.WIDTH, abs=0.1)
    assert start.phases[0].width > 5
    assert start.phases[1].x == pytest.approx(start.phases[0].width, abs=0.01)


def test_a_replica_just_wished_for_has_a_bar() -> None:
    start = starts.measure(replica(State.REQUESTED), [arc("", State.REQUESTED)], NOW)
    assert [one.width for one in start.phases] == [starts.WIDTH]


@pytest.mark.parametrize(
    ("states", "wanted"),
    [
        ([State.READY, State.STARTING, State.FAILED], 1),
        ([State.READY, State.FAILED], 0),
        ([State.STOPPED, State.FAILED], 1),
    ],
)
def test_which_start_is_shown(states: list[State], wanted: int) -> None:
    replicas = [replica(state, id=f"rep_{number}") for number, state in enumerate(states)]
    assert starts.newest(replicas) is replicas[wanted]


def test_quantities_read_well() -> None:
    assert console.duration(0.416) == "0.42 s"
    assert console.duration(41.93) == "41.9 s"
    assert console.duration(59.99) == "60.0 s"
    assert console.duration(125) == "2 min 05 s"
    assert console.duration(12_000) == "3 h 20 min"
    assert console.size(3 << 30) == "3.0 GiB"
    assert console.size(None) == "not reported"
    assert console.money("0.0004", "EUR") == "€0.0004"
    assert console.money("1234.5", "USD") == "USD 1,234.50"
    assert console.money(None) == "no price"
    assert console.spent("0.00", "0.001166667", "EUR") == "€0.001167"
    assert console.spent("0.00", "0.000000000", "EUR") == "€0.00"
