"""The fair queue: projects share by tokens served, priorities first, nobody starves."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import table
from gateway.fairness import FairQueue
from gateway.order import Order
from gateway.table import Table

PROJECTS = ("prj_a", "prj_b", "prj_c")


def tally() -> Order:
    return Order(Table(table.create(64), "me"), "ep_shared", 30.0, lambda: 0.0)


class Stub:
    def __init__(self, project: str, priority: int, since: float) -> None:
        self.project, self.priority, self.since = project, priority, since


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PROJECTS), st.integers(1, 100)), max_size=300))
def test_who_waits_is_served_alike_however_much_others_ask(costs: list[tuple[str, int]]) -> None:
    """While two both wait, what they were served differs by no more than two requests."""
    queue: FairQueue[Stub] = FairQueue(30.0, tally())
    for project in PROJECTS:
        for number in range(300):
            queue.push(Stub(project, 0, float(number)))
    served = dict.fromkeys(PROJECTS, 0)
    for _, cost in costs:
        first = queue.first(0.0)
        assert first is not None
        queue.remove(first)
        queue.charge(first.project, cost)
        served[first.project] += cost
        assert max(served.values()) - min(served.values()) <= 200


def test_a_newcomer_has_saved_nothing_up() -> None:
    queue: FairQueue[Stub] = FairQueue(30.0, tally())
    for number in range(10):
        queue.push(Stub("a", 0, float(number)))
        queue.charge("a", 100)
    for number in range(10):
        queue.push(Stub("b", 0, 10.0 + number))
    order = []
    while (first := queue.first(20.0)) is not None:
        queue.remove(first)
        queue.charge(first.project, 100)
        order.append(first.project)
    assert order[:10].count("b") <= 6


def test_a_priority_goes_first_and_the_others_in_the_end() -> None:
    queue: FairQueue[Stub] = FairQueue(30.0, tally())
    low = Stub("a", 0, 0.0)
    queue.push(low)
    queue.push(Stub("b", 2, 0.0))
    first = queue.first(1.0)
    assert first is not None
    assert first.priority == 2
    # Others of that priority keep coming; a minute of waiting makes up for it.
    for number in range(100):
        now = float(number)
        first = queue.first(now)
        assert first is not None
        queue.remove(first)
        queue.charge(first.project, 10)
        if first is low:
            assert 55 <= now <= 95
            break
        queue.push(Stub("b", 2, now))
    else:
        raise AssertionError("starved")


def test_within_a_project_the_order_is_that_of_arrival() -> None:
    queue: FairQueue[Stub] = FairQueue(30.0, tally())
    items = [Stub("a", 0, float(number)) for number in range(20)]
    for item in items:
        queue.push(item)
    queue.remove(items.pop(7))
    found = []
    while (first := queue.first(100.0)) is not None:
        queue.remove(first)
        found.append(first)
    assert found == items
    with contextlib.suppress(KeyError):
        queue.remove(items[0])
    assert len(queue) == 0
