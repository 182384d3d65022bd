"""The order in which nodes get a release: fleets of any behaviour, time that the test moves."""

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.fleet import waves
from controlplane.fleet.waves import Plan, Policy, Standing, plan

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
OLD, NEW, NEWER = "a" * 64, "b" * 64, "c" * 64
POLICY = Policy(canary_share=0.2, wave_size=3, pause_s=60.0, limit_s=100.0)


@dataclass
class Machine:
    """`fate`: what becomes of it when it is told."""

    id: str
    fate: str = "updates"
    able: bool = True
    heard: bool = True
    release: str = OLD
    took_s: float = 10.0
    critical_since: datetime | None = None
    went_back: str = ""
    told_at: datetime | None = None
    done_at: datetime | None = None

    def standing(self) -> Standing:
        return Standing(
            id=self.id,
            able=self.able,
            release=self.release,
            heard=self.heard,
            critical_since=self.critical_since,
            went_back=self.went_back,
            told_at=self.told_at,
            done_at=self.done_at,
        )

    def live(self, now: datetime, release: str) -> None:
        """What it did since it was told."""
        if self.told_at is None or self.done_at is not None or now < self.told_at + self.took:
            return
        if self.fate == "updates":
            self.release = release
        elif self.fate == "goes back":
            self.went_back = "it did not start"
        elif self.fate == "ails":
            self.release, self.critical_since = release, now

    @property
    def took(self) -> timedelta:
        return timedelta(seconds=self.took_s)


@dataclass
class Fleet:
    machines: list[Machine]
    policy: Policy = POLICY
    release: str = NEW
    now: datetime = NOW
    waves: list[tuple[str, ...]] = field(default_factory=list)
    halted: str = ""
    finished: bool = False

    def step(self) -> Plan:
        """One sweep: what is decided is done, unless it is over."""
        for machine in self.machines:
            machine.live(self.now, self.release)
        standing = [machine.standing() for machine in self.machines]
        found = plan(standing, self.release, self.policy, self.now)
        # Whoever decides again before anything was done, or twice at once, decides the same.
        assert plan(list(reversed(standing)), self.release, self.policy, self.now) == found
        self.halted, self.finished = found.halt, found.finished
        if found.halt:
            assert not (found.tell or found.done or found.finished)
            return found
        by_id = {machine.id: machine for machine in self.machines}
        for id in found.done:
            by_id[id].done_at = self.now
        flying = [one for one in self.machines if one.told_at and one.done_at is None]
        if found.tell:
            assert not flying  # never more than a wave in flight
            self.waves.append(found.tell)
        for id in found.tell:
            assert by_id[id].told_at is None
            by_id[id].told_at = self.now
        return found

    def run(self, steps: int = 400, every_s: float = 7.0) -> None:
        for _ in range(steps):
            if self.halted or self.finished:
                return
            self.step()
            self.now += timedelta(seconds=every_s)


def machines(fates: st.SearchStrategy[str]) -> st.SearchStrategy[list[Machine]]:
    one = st.builds(
        Machine,
        id=st.just(""),
        fate=fates,
        able=st.sampled_from([True, True, True, False]),
        heard=st.sampled_from([True, True, True, False]),
        release=st.sampled_from([OLD, OLD, NEW]),
        took_s=st.floats(0, 60),
        critical_since=st.sampled_from([None, None, None, NOW - timedelta(hours=1)]),
    )
    named = st.lists(one, max_size=25)
    return named.map(lambda all: [replace(one, id=f"n{at:02}") for at, one in enumerate(all)])


policies = st.builds(
    Policy,
    canary_share=st.floats(0, 1),
    wave_size=st.integers(1, 8),
    pause_s=st.floats(0, 120),
    limit_s=st.just(100.0),
)


@settings(deadline=None)
@given(machines(st.just("updates")), policies)
def test_every_healthy_node_ends_updated(found: list[Machine], policy: Policy) -> None:
    fleet = Fleet(found, policy)
    fleet.run()
    assert not fleet.halted
    able = [one for one in found if one.able]
    fit = [one for one in able if one.heard and one.critical_since is None]
    assert {one.release for one in fit} <= {NEW}
    # It is over once every node has it; who is silent or ails is waited for, and never told.
    assert fleet.finished is all(one.release == NEW for one in able)
    assert all(one.told_at is None for one in found if one not in fit)
    most = max(1, math.ceil(policy.canary_share * len(able)))
    assert [len(wave) <= most for wave in fleet.waves[:1]] in ([], [True])
    assert all(len(wave) <= policy.wave_size for wave in fleet.waves[1:])
    assert len(set().union(*fleet.waves)) == sum(map(len, fleet.waves))  # nobody twice


@settings(deadline=None)
@given(machines(st.sampled_from(["updates", "updates", "goes back", "hangs", "ails"])), policies)
def test_one_that_gets_worse_halts_everything(found: list[Machine], policy: Policy) -> None:
    fleet = Fleet(found, policy)
    fleet.run()
    told = [one for one in found if one.told_at is not None]
    bad = [one for one in told if one.fate != "updates"]
    assert bool(fleet.halted) is bool(bad)
    if bad:
        # No wave came after the one with it.
        assert {one.id for one in bad} <= set(fleet.waves[-1])
        before = len(fleet.waves)
        fleet.step()
        assert fleet.halted and len(fleet.waves) == before


def test_the_pause_lies_between_the_waves() -> None:
    fleet = Fleet([Machine(f"n{at}") for at in range(5)])
    fleet.step()
    fleet.now += timedelta(seconds=10)
    assert fleet.step().done == ("n0",)
    fleet.now += timedelta(seconds=59)
    assert fleet.step() == Plan()
    fleet.now += timedelta(seconds=1)
    assert fleet.step().tell == ("n1", "n2", "n3")


def test_updated_nodes_are_watched_until_the_end() -> None:
    for change, why in (
        ({"heard": False}, "silent"),
        ({"release": OLD}, "another release"),
        ({"critical_since": NOW + timedelta(seconds=30)}, "critical"),
        ({"went_back": "it hung"}, "it hung"),
    ):
        fleet = Fleet([Machine("n0"), Machine("n1")])
        fleet.run(steps=3)
        assert fleet.machines[0].done_at is not None
        for name, value in change.items():
            setattr(fleet.machines[0], name, value)
        found = fleet.step()
        assert found.worse == ("n0",) and why in found.halt


def test_a_second_release_supersedes_the_first() -> None:
    """It starts from wherever the first had come to, with canaries of its own."""
    fleet = Fleet([Machine(f"n{at:02}") for at in range(10)])
    fleet.run(steps=5)
    assert 0 < sum(one.release == NEW for one in fleet.machines) < 10
    for one in fleet.machines:
        one.told_at = one.done_at = None
    second = Fleet(fleet.machines, release=NEWER, now=fleet.now)
    second.run()
    assert second.finished and {one.release for one in second.machines} == {NEWER}
    assert len(second.waves[0]) == 2


def test_long_lists_of_reasons_are_cut() -> None:
    bad = [Standing(f"n{at}", told_at=NOW, went_back="x" * 40) for at in range(9)]
    found = waves.plan(bad, NEW, POLICY, NOW)
    assert len(found.worse) == 9 and found.halt.endswith("; and 4 more")
