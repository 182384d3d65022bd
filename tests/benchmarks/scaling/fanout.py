"""Workers that fan out over the replicas of one endpoint, which does all that `decide` says.

Event by event: requests come, wait for room, end; replicas take `START_S` to become ready; the
load is looked at after each change, and when the last decision asked for it.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from controlplane.scaling.decide import Decision, Picture, Wish, decide
from controlplane.scaling.desired import Sample
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.load import Capacity, Load, utilization
from controlplane.scaling.schedules import Burst

START_S = 18.0
SEQS = 4  # of one replica
SERVICE_S = 5.0
THINK_S = 2.0
EPOCH = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Fanout:
    """`workers`: when each begins and ends; each asks, gets its answer, thinks, and asks again."""

    wish: Wish
    workers: list[tuple[float, float]]
    waits: list[float] = field(default_factory=list)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)  # replicas, ready or coming
    idle_s: float = 0.0  # replica-seconds, ready and empty-handed

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._now = 0.0
        self._ready_at: list[float] = []  # of each replica that is there or comes
        self._running = 0
        self._queue: deque[tuple[float, float]] = deque()  # since when, and until when it works
        self._levels: list[tuple[float, float]] = []
        self._idle_since = float("-inf")
        self._history = GapHistory()
        self._look_at = float("inf")

    def play(self, until_s: float) -> "Fanout":
        for begins, ends in self.workers:
            self._at(begins, partial(self._ask, ends))
        self._at(0.0, lambda: None)
        while self._events and self._events[0][0] <= until_s:
            at, _, happens = heapq.heappop(self._events)
            self._pass(at)
            happens()
            self._settle()
        self._pass(until_s)
        return self

    def replicas(self, at_s: float) -> int:
        return next((count for at, count in reversed(self.changes) if at <= at_s), 0)

    def _at(self, moment: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._serial), happens))

    def _pass(self, until_s: float) -> None:
        ready = sum(at <= self._now for at in self._ready_at)
        used = min(ready, -(-self._running // SEQS))
        self.idle_s += (ready - used) * (until_s - self._now)
        self._now = until_s

    def _ask(self, until_s: float) -> None:
        if not self._busy and self._now - self._idle_since < float("inf"):
            self._history.add(self._now - self._idle_since)
        self._queue.append((self._now, until_s))

    def _answered(self, until_s: float) -> None:
        self._running -= 1
        if not self._busy:
            self._idle_since = self._now
        if self._now + THINK_S < until_s:
            self._at(self._now + THINK_S, partial(self._ask, until_s))

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._queue)

    def _settle(self) -> None:
        """Whoever has room now begins; then the load is looked at."""
        room = SEQS * sum(at <= self._now for at in self._ready_at) - self._running
        while self._queue and room > 0:
            since, until_s = self._queue.popleft()
            self.waits.append(self._now - since)
            self._running, room = self._running + 1, room - 1
            self._at(self._now + SERVICE_S, partial(self._answered, until_s))
        load = Load(running=self._running + len(self._queue))
        self._levels.append((self._now, utilization(load, Capacity(max_num_seqs=SEQS))))
        oldest = self._now - self.wish.policy.windows.memory_s
        while len(self._levels) > 1 and self._levels[1][0] <= oldest:
            self._levels.pop(0)
        self._apply(decide(self.wish, self._picture(), EPOCH + timedelta(seconds=self._now)))

    def _picture(self) -> Picture:
        return Picture(
            samples=[Sample(self._now - at, level) for at, level in self._levels],
            current=len(self._ready_at),
            idle_s=self._now - self._idle_since,
            start_s=START_S,
            max_num_seqs=SEQS,
            history=self._history,
        )

    def _apply(self, decision: Decision) -> None:
        self.decisions.append((self._now, decision))
        before = len(self._ready_at)
        for _ in range(decision.replicas - before):
            self._ready_at.append(self._now + START_S)
            self._at(self._now + START_S, lambda: None)
        self._ready_at.sort()
        del self._ready_at[decision.replicas :]  # the latest first
        if before != len(self._ready_at) or not self.changes:
            self.changes.append((self._now, len(self._ready_at)))
        again_at = self._now + decision.again_s
        if again_at < self._look_at or self._look_at <= self._now:
            self._look_at = again_at
            self._at(again_at, lambda: None)


BURST = Burst(20, EPOCH + timedelta(seconds=180), EPOCH + timedelta(seconds=480))


def twenty(wish: Wish) -> Fanout:
    """Twenty workers in three minutes, as `BURST` has them: they come within 10 s, and leave."""
    workers = [(180.0 + worker / 2, 480.0) for worker in range(20)]
    return Fanout(wish, workers).play(1080.0)
