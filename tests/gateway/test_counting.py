"""What a request counts against is looked up once, and anew when its key or a bound was edited."""

import msgspec

from gateway import table
from gateway.books import Books
from gateway.budgets import NO_RUN, Budget
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
