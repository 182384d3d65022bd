"""A queue that is fair between projects. Pure: time is told.

The virtual token counter: while several projects wait, whoever was served fewest tokens is next;
a project that joins starts at the least served of those that wait, so that nobody saves up a
claim. Within a project, order of arrival. A higher priority goes first, but each so many seconds
of waiting count as one priority more: low ones are slow, never forgotten.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    @property
    def project(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def since(self) -> float: ...


T = TypeVar("T", bound=Item)


class FairQueue(Generic[T]):
    """Items are told apart by identity. No operation looks at more than one item a lane."""

    def __init__(self, aging_s: float) -> None:
        self._aging_s = aging_s
        self._lanes: dict[tuple[int, str], OrderedDict[int, T]] = {}
        self._waiting: dict[str, int] = {}  # by project
        self._served: dict[str, float] = {}  # tokens, since the queue was last empty
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """All of them, in no order; the queue may change meanwhile."""
        return iter([item for lane in self._lanes.values() for item in lane.values()])

    def waiting(self, project: str) -> int:
        return self._waiting.get(project, 0)

    def push(self, item: T) -> None:
        project = item.project
        if not self._waiting.get(project):
            least = min((self._served.get(other, 0.0) for other in self._waiting), default=0.0)
            self._served[project] = max(self._served.get(project, 0.0), least)
        lane = self._lanes.setdefault((item.priority, project), OrderedDict())
        lane[id(item)] = item
        self._waiting[project] = self._waiting.get(project, 0) + 1
        self._length += 1

    def first(self, now: float) -> T | None:
        """Whose turn it is; it stays until it is removed."""
        best: tuple[int, float, float] | None = None
        found: T | None = None
        for (priority, project), lane in self._lanes.items():
            item = next(iter(lane.values()))
            urgency = priority + int(max(0.0, now - item.since) / self._aging_s)
            rank = (-urgency, self._served.get(project, 0.0), item.since)
            if best is None or rank < best:
                best, found = rank, item
        return found

    def newest_of_longest(self) -> T:
        """The one that is the least loss: the last to come of the project with most waiting."""
        project = max(self._waiting, key=lambda name: self._waiting[name])
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
        if not self._length:
            self._served.clear()

    def charge(self, project: str, tokens: float) -> None:
        """A project was served so much (or less than it was charged before). It counts only
        against others that wait."""
        if self._length:
            self._served[project] = self._served.get(project, 0.0) + tokens
