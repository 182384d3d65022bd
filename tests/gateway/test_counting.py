"""What a request counts against is looked up once, and anew when its key or a bound was edited."""

import msgspec
import pytest

from gateway import table
from gateway.books import Books
from gateway.budgets import NO_RUN, Budget, Run
from gateway.counting import Counting
from gateway.directory import Directory, Key, Organization, Project, RateLimits
from gateway.table import Table

NOW_NS = 1_772_600_000 * 10**9
LIMITS = RateLimits(requests_per_minute=60)
BUDGET = Budget("bud", "project", "prj", "tokens", 100, "month", "UTC", True)


def key(id: str, per_minute: int) -> Key:
    limits = RateLimits(requests_per_minute=per_minute)
    return Key(id, "prj", "org", frozenset(), frozenset(), None, rate_limits=limits)


def directory(*keys: Key, budget: Budget = BUDGET) -> Directory:
    return Directory(
        b"", {key.id.encode().ljust(32): key for key in keys}, (),
        projects=[Project("prj", "org", LIMITS)], organizations=[Organization("org", LIMITS)],
        budgets=[budget], generation=1, read_at=1.0,
    )  # fmt: skip


def test_an_edit_of_one_key_leaves_the_others_as_they_are() -> None:
    counting = Counting(Books(Table(table.create(64), "me")))
    one, two = key("one", 10), key("two", 20)
    before = directory(one, two)
    known = [counting.of(before, each, NO_RUN, NOW_NS, by_token=False) for each in (one, two)]
    edited = key("two", 30)
    ring = before.keys.changed(["two"], [(b"two".ljust(32), edited)])
    after = before.with_keys(ring, 2, 2.0, "")
    assert counting.of(after, one, NO_RUN, NOW_NS, by_token=False) is known[0]
    found = counting.of(after, edited, NO_RUN, NOW_NS, by_token=False)
    assert [bound.rates[0][2] for bound in found.limits] == [60, 60, 30]
    assert found.lines == known[1].lines


def test_another_budget_counts_at_once_and_a_new_month_on_time() -> None:
    counting = Counting(Books(Table(table.create(64), "me")))
    one = key("one", 10)
    known = counting.of(directory(one), one, NO_RUN, NOW_NS, by_token=False)
    more = msgspec.structs.replace(BUDGET, amount=500)
    after = directory(one, budget=more)
    found = counting.of(after, one, NO_RUN, NOW_NS, by_token=False)
    assert [line.budget for line in known.lines + found.lines] == [BUDGET, more]
    later = counting.of(after, one, NO_RUN, NOW_NS + 40 * 86_400 * 10**9, by_token=False)
    assert later.lines[0].window > found.lines[0].window


def test_what_holds_no_longer_is_forgotten() -> None:
    counting = Counting(Books(Table(table.create(64), "me")))
    now, gone, stays = directory(), key("gone", 10), key("stays", 10)
    for run in (NO_RUN, Run(("run_1",))):
        counting.of(now, gone, run, NOW_NS, by_token=False)
        known = counting.of(now, stays, run, NOW_NS, by_token=False)
        later_ns = NOW_NS + 599 * 10**9
        counting.forget(now, later_ns)
        assert counting.of(now, stays, run, later_ns, by_token=False) is known
    assert len(counting) == 4
    late_ns = NOW_NS + 601 * 10**9
    for run in (NO_RUN, Run(("run_1",))):
        counting.of(now, stays, run, late_ns, by_token=False)
    counting.forget(now, late_ns)
    assert len(counting) == 2
    counting.forget(directory(), late_ns)  # whose bounds are others
    assert len(counting) == 0


def test_no_more_runs_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.counting._RUNS_MAX", 3)
    counting, now, one = Counting(Books(Table(table.create(64), "me"))), directory(), key("one", 10)
    known = counting.of(now, one, NO_RUN, NOW_NS, by_token=False)
    for number in range(10):
        counting.of(now, one, Run((f"run_{number}",)), NOW_NS, by_token=False)
    assert len(counting) == 3 + 1
    assert counting.of(now, one, NO_RUN, NOW_NS, by_token=False) is known
