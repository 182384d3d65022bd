"""Who ends: nobody that something accounts for, and everybody else, in time."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.agent.reaper.judge import Key, judge
from workers.agent.reaper.things import Expected, Kind, Thing

# A busy machine draws slowly.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
GRACE_S = 60.0
IDS = ("rep_a", "rep_b", "rep_c")

numbers = st.integers(2, 12)
sets = st.frozensets(numbers, max_size=4)
things = st.builds(
    Thing,
    st.sampled_from(Kind),
    st.text("xyz", min_size=1, max_size=2),
    group=st.sampled_from(["", "replica rep_a", "session 4"]),
    replica_id=st.sampled_from(["", *IDS]),
    pid=numbers,
    lineage=sets,
    standby=st.booleans(),
)
expectations = st.builds(
    Expected,
    replicas=st.frozensets(st.sampled_from(IDS)),
    engines=sets,
    standbys=sets,
    starting=st.booleans(),
)
looks = st.lists(
    st.tuples(st.lists(things, max_size=6), expectations, st.integers(0, 90)), max_size=8
)


@patient
@given(looks, st.booleans())
def test_nothing_that_is_accounted_for_ends(
    rounds: list[tuple[list[Thing], Expected, int]], alone: bool
) -> None:
    seen: dict[Key, float] = {}
    now = 0.0
    for there, expected, passed in rounds:
        now += passed
        judged = judge(there, expected, seen, now, grace_s=GRACE_S, alone=alone)
        seen = dict(judged.seen)
        for thing in judged.end:
            assert not thing.replica_id or thing.replica_id not in expected.replicas
            if thing.kind in (Kind.PROCESS, Kind.STRANGER):
                assert thing.pid not in expected.standbys
                assert not thing.lineage & expected.engines
                assert not (
                    thing.standby and expected.starting and thing.lineage & expected.standbys
                )
            assert alone or thing.kind is not Kind.STRANGER


@patient
@given(looks, st.lists(things, min_size=1, max_size=6), expectations)
def test_whatever_stays_unknown_ends_after_its_grace_and_no_sooner(
    before: list[tuple[list[Thing], Expected, int]], there: list[Thing], expected: Expected
) -> None:
    seen: dict[Key, float] = {}
    now = 0.0
    for some, known, passed in before:
        now += passed
        seen = dict(judge(some, known, seen, now, grace_s=GRACE_S, alone=True).seen)
    unknown = {thing for thing in there if not expected.knows(thing)}
    fresh = {thing for thing in unknown if thing.key not in seen}
    first = judge(there, expected, seen, now, grace_s=GRACE_S, alone=True)
    assert not fresh & set(first.end)
    late = judge(there, expected, first.seen, now + GRACE_S, grace_s=GRACE_S, alone=True)
    assert set(late.end) == unknown
    assert {thing.key for thing in unknown} == set(late.seen)


@patient
@given(st.lists(things, max_size=6), expectations)
def test_a_stranger_is_told_once_and_spared(there: list[Thing], expected: Expected) -> None:
    strangers = {t for t in there if t.kind is Kind.STRANGER and not expected.knows(t)}
    first = judge(there, expected, {}, 0.0, grace_s=GRACE_S)
    again = judge(there, expected, first.seen, 1e6, grace_s=GRACE_S)
    assert set(first.tell) == strangers and not again.tell
    assert not strangers & set(again.end)


def test_who_forks_and_ends_all_the_time_grows_old_all_the_same() -> None:
    def born(pid: int) -> Thing:
        return Thing(
            Kind.PROCESS, f"{pid} of 1", group="replica rep_x", replica_id="rep_x", pid=pid
        )

    seen: dict[Key, float] = {}
    for number in range(7):
        judged = judge([born(100 + number)], Expected(), seen, 10.0 * number, grace_s=GRACE_S)
        seen = dict(judged.seen)
        assert bool(judged.end) == (number == 6)


def test_a_thing_that_was_accounted_for_in_between_begins_anew() -> None:
    thing = Thing(Kind.FOLDER, "/run/e/x", replica_id="rep_a")
    seen = judge([thing], Expected(), {}, 0.0, grace_s=GRACE_S).seen
    seen = judge([thing], Expected(frozenset({"rep_a"})), seen, 30.0, grace_s=GRACE_S).seen
    assert not judge([thing], Expected(), seen, 70.0, grace_s=GRACE_S).end


def test_a_folder_is_known_by_the_end_of_its_replicas_id() -> None:
    assert Expected(frozenset({"rep_01kabcdef"})).knows(
        Thing(Kind.FOLDER, "/run/e/abcdef", replica_id="abcdef")
    )
