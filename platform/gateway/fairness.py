"""A queue that is fair between projects. Pure: time is told, and who keeps count.

The virtual token counter: while several projects wait, whoever was served fewest tokens is next;
a project that joins starts at the least served of those that wait, so that nobody saves up a
claim. Within a project, order of arrival. A higher priority goes first, but each so many seconds
of waiting count as one priority more: low ones are slow, never forgotten.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar


class Item(Protocol):
    @property
    def project(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def since(self) -> float: ...


class Tally(Protocol):
    """What projects were served while others waited, in tokens, and how many of each wait."""

    def joins(self, project: str, others: Iterable[str]) -> None:
        """One more waits; `others` of the same queue wait already. Where none of its own did, it
        counts as served no less than any that waits."""

    def leaves(self, project: str) -> None: ...
    def waiting(self, project: str) -> int: ...
    def served(self, project: str) -> int: ...
    def charge(self, project: str, tokens: float) -> None:
        """It was served so much, or less than it was charged before. Nothing, if nobody waits."""


T = TypeVar("T", bound=Item)


class Head(NamedTuple, Generic[T]):
    """Whose turn it is in a queue."""

    item: T
    served: int  # its project
    least: int  # … and the least served of those that wait


def urgency(priority: int, since: float, now: float, aging_s: float) -> int:
    return priority + int(max(0.0, now - since) / aging_s)


class FairQueue(Generic[T]):
    """Items are told apart by identity. No operation looks at more than one item a lane."""

    def __init__(self, aging_s: float, tally: Tally) -> None:
        self._aging_s = aging_s
        self._tally = tally
        self._lanes: dict[tuple[int, str], OrderedDict[int, T]] = {}
        self._waiting: dict[str, int] = {}  # by project, in here
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """All of them, in no order; the queue may change meanwhile."""
        return iter([item for lane in self._lanes.values() for item in lane.values()])

    def push(self, item: T) -> None:
        project = item.project
        self._tally.joins(project, self._waiting)
        lane = self._lanes.setdefault((item.priority, project), OrderedDict())
        lane[id(item)] = item
        self._waiting[project] = self._waiting.get(project, 0) + 1
        self._length += 1

    def first(self, now: float) -> T | None:
        head = self.head(now)
        return None if head is None else head.item

    def head(self, now: float) -> Head[T] | None:
        """Whose turn it is; it stays until it is removed."""
        best: tuple[int, int, float] | None = None
        found: T | None = None
        least: int | None = None
        for (priority, project), lane in self._lanes.items():
            item = next(iter(lane.values()))
            served = self._tally.served(project)
            rank = (-urgency(priority, item.since, now, self._aging_s), served, item.since)
            if best is None or rank < best:
                best, found = rank, item
            if least is None or served < least:
                least = served
        if found is None or best is None or least is None:
            return None
        return Head(found, best[1], least)

    def newest_of_longest(self) -> T:
        """The one that is the least loss: the last to come of the project with most waiting."""
        project = max(self._waiting, key=self._tally.waiting)
        lanes = [lane for (_, name), lane in self._lanes.items() if name == project]
        lasts = [next(reversed(lane.values())) for lane in lanes]
        return min(lasts, key=lambda item: (item.priority, -item.since))

    def remove(self, item: T) -> None:
        where = (item.priority, item.project)
        lane = self._lanes[where]
        del lane[id(item)]
        if not lane:
            del self._lanes[where]
        self._length -= 1
        self._waiting[item.project] -= 1
        if not self._waiting[item.project]:
            del self._waiting[item.project]
        self._tally.leaves(item.project)

    def charge(self, project: str, tokens: float) -> None:
        self._tally.charge(project, tokens)
