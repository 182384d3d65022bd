"""One endpoint and its sessions, event by event: when it is hot, when it starts, who waits."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.benchmarks.scaling.traces import Session, Tenant


class KeepAlive(Protocol):
    """What decides how long an endpoint stays hot; it sees gaps only once they are over."""

    def timeout_s(self) -> float: ...
    def ended(self, gap_s: float) -> None: ...


@dataclass
class Outcome:
    """Sums over all that was played. `waits`: seconds, of those requests that did not wait 0."""

    idle_s: float = 0.0
    starts: int = 0
    requests: int = 0
    waits: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.idle_s += other.idle_s
        self.starts += other.starts
        self.requests += other.requests
        self.waits += other.waits
        self.gaps += other.gaps

    def cost(self, start_s: float, wait_value: float) -> float:
        """J: idle GPU-seconds, those of starts, and the waits at their value."""
        return self.idle_s + self.starts * start_s + wait_value * sum(self.waits)

    @property
    def cold_share(self) -> float:
        return len(self.waits) / self.requests

    def wait_s(self, share: float) -> float:
        """The wait that so large a share of all requests did not exceed."""
        rank = math.ceil(share * self.requests) - (self.requests - len(self.waits))
        return sorted(self.waits)[rank - 1] if rank > 0 else 0.0


def play(sessions: Tenant, keep_alive: KeepAlive, start_s: float) -> Outcome:
    """From the first request, which finds the endpoint hot, to the last answer.

    One replica takes all that comes: keep-alive is what is looked at here.
    """
    outcome = Outcome()
    waits, gaps = outcome.waits, outcome.gaps
    # (moment, session, turn, whether that turn ends)
    events: list[tuple[float, int, int, bool]] = [
        (session.at, number, 0, False) for number, session in enumerate(sessions)
    ]
    heapq.heapify(events)
    running, ready_at = 0, 0.0
    idle_since: float | None = None
    while events:
        now, number, turn, ends = heapq.heappop(events)
        session = sessions[number]
        if ends:
            running -= 1
            if turn + 1 < len(session.service_s):
                heapq.heappush(events, (now + session.gaps[turn], number, turn + 1, False))
            if not running:
                idle_since = now
            continue
        if idle_since is not None:
            gap = now - idle_since
            timeout = keep_alive.timeout_s()
            outcome.idle_s += min(gap, timeout)
            if gap > timeout:
                outcome.starts += 1
                ready_at = now + start_s
            keep_alive.ended(gap)
            gaps.append(gap)
            idle_since = None
        running += 1
        wait = max(0.0, ready_at - now)
        outcome.requests += 1
        if wait:
            waits.append(wait)
        heapq.heappush(events, (now + wait + session.service_s[turn], number, turn, True))
    return outcome


def play_all(
    tenants: Sequence[Sequence[Session]], make: Callable[[], KeepAlive], start_s: float
) -> Outcome:
    """Each tenant has an endpoint of its own, and a keep-alive that begins with nothing."""
    together = Outcome()
    for tenant in tenants:
        together.add(play(tenant, make(), start_s))
    return together
