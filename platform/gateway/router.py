"""Which replica answers a prompt first. Pure: time is told, and only events of its own.

A replica is taken to prefill in the order of arrival. A first byte says that a prompt is through;
the moment it came, against the moment it was due, moves all that is due behind it. Sizes are in
any one unit (the gateway's is bytes of the prompt), and so is the rate that is learned.
"""

from collections.abc import Sequence
from math import exp
from typing import Protocol

from gateway.directory import Replica
from gateway.outliers import Standing
from gateway.prefixes import BLOCK, Prefixes

_PACE = 1 / 32_000  # seconds for one more byte, until a replica has shown its own
_PACE_MIN = 1e-9
_MEMORY = 0.95  # what the past weighs at each first byte
_DOUBT = 4.0 * BLOCK * BLOCK  # prompts that differ by less say little about the pace
_KNOWN_AFTER = 5  # first bytes, until a rate is more than a guess
_BUSY = 0.005  # of a request's usual duration: what one in flight costs the next one's start
_UNCACHED = 1.25  # a prompt that is read again also delays whoever comes next …
_UNCACHED_MAX = 8.0  # … and the more, the longer the queues: + 1 a second of the shortest
_WRITTEN_S = 300.0  # what was cached within about so long is what a new block drives out


class Owner(Protocol):
    def engine_silent(self) -> None:
        """The replica has shown no sign of life for too long, and others are there."""


class Ticket:
    """A request on its way to a replica. `visible`: its first byte ends its prefill."""

    __slots__ = (
        "answered", "at", "due", "lane", "owner", "probe", "shift", "size", "spare", "visible",
        "work",
    )  # fmt: skip

    def __init__(
        self,
        lane: "Lane",
        at: float,
        size: float,
        work: float,
        due: float,
        shift: float,
        visible: bool,
    ) -> None:
        self.lane = lane
        self.at = at
        self.size = size
        self.work = work  # what of it is not cached
        self.due = due
        self.shift = shift
        self.visible = visible
        self.answered = False
        self.probe = False
        self.spare = False  # a line of a batch
        self.owner: Owner | None = None


class Lane:
    """What is known of one replica."""

    __slots__ = (
        "_busy", "_bytes", "_bytes_seconds", "_bytes_squared", "_first_pace", "_free_at", "_known",
        "_last", "_pending", "_quiet", "_seconds", "_shift", "_weight", "_written", "_written_at",
        "heard", "heard_at", "id", "in_flight", "mute", "named", "pace", "prefixes", "replica",
        "standing", "start_s",
    )  # fmt: skip

    def __init__(self, replica: Replica, capacity: int, pace: float = _PACE) -> None:
        """`capacity` is how many blocks the replica's cache holds, as far as one knows."""
        self.id = replica.id
        self.replica = replica
        self.named = b""  # the header lines that say who answered
        self.in_flight = 0
        self.start_s = 0.0  # of a prompt's time that does not depend on its size
        self.pace = pace  # seconds a byte that is not cached
        self.prefixes = Prefixes(capacity)
        self.standing = Standing()
        self.mute = False  # it answers no probe of ours: only real requests tell
        self.heard = False  # anything at all came from it since `patrol` looked
        self.heard_at = 0.0
        self._pending: dict[Ticket, None] = {}  # what is before its first byte, in order
        self._quiet: dict[Ticket, None] = {}  # what should be through, and cannot tell
        self._free_at = 0.0
        self._last = 0.0  # its last first byte
        self._shift = 0.0  # how far all that is due has moved
        self._known = 0
        self._busy = 0.001
        self._written = self._written_at = 0.0  # blocks, of late
        # What the line through (bytes, seconds) is drawn from.
        self._first_pace = pace
        self._weight = self._bytes = self._seconds = 0.0
        self._bytes_squared = self._bytes_seconds = 0.0

    @property
    def known(self) -> bool:
        return self._known >= _KNOWN_AFTER

    def due(self, now: float, *, alone: bool) -> bool:
        """Whether the next request shall find out if it is well again."""
        standing = self.standing
        return standing.out and self.mute and standing.may_probe(now, alone=alone)

    def wait(self, now: float) -> float:
        """Seconds until a prompt that comes now gets its turn, decodes in flight included."""
        busy = self._busy * self.in_flight
        pending = self._pending
        while pending:
            head = next(iter(pending))
            due = head.due + self._shift - head.shift
            if now <= due:
                return max(0.0, self._free_at - now) + busy
            if head.visible:
                # Overdue: nobody knows for how long; as long again is the best guess.
                return max(0.0, self._free_at - due) + (now - due) + busy
            del pending[head]  # it is through, as far as anybody can tell
            self._quiet[head] = None
        return busy

    def backlog(self, now: float) -> float:
        """What it has still to prefill of our requests, in the unit of sizes; not of batches."""
        self.wait(now)  # what cannot tell, and should be through, is
        return sum(ticket.work for ticket in self._pending if not ticket.spare)

    def pressure(self, now: float) -> float:
        """The share of its cache that was written of late, and would be driven out too early."""
        written = self._written * exp((self._written_at - now) / _WRITTEN_S)
        return written / self.prefixes.capacity

    def cached(self, keys: Sequence[int], work: float, now: float) -> None:
        """It will have this in its cache; `work` of it was not there."""
        written = self._written * exp((self._written_at - now) / _WRITTEN_S)
        self._written, self._written_at = written + work / BLOCK, now
        self.prefixes.add(keys)

    def dispatched(self, size: float, work: float, now: float, *, visible: bool = True) -> Ticket:
        pending = self._pending
        start = self._free_at if pending and self._free_at > now else now
        self._free_at = due = start + self.start_s + work * self.pace
        ticket = Ticket(self, now, size, work, due, self._shift, visible)
        pending[ticket] = None
        self.in_flight += 1
        return ticket

    def first_byte(self, ticket: Ticket, now: float) -> None:
        if ticket.answered:
            return
        ticket.answered = True
        self._pending.pop(ticket, None)
        if not ticket.visible:
            self._quiet.pop(ticket, None)
        late = now - (ticket.due + self._shift - ticket.shift)
        self._shift += late
        self._free_at += late
        last = self._last
        self._last = now
        self._known += 1
        self._learn(ticket.work, now - (ticket.at if ticket.at > last else last))
        if self.standing.failures:
            self.standing.succeeded(now)

    def _learn(self, work: float, took: float) -> None:
        """The line through what was seen: a prompt's own time, and the time for each byte."""
        self._weight = weight = self._weight * _MEMORY + 1
        self._bytes = size = self._bytes * _MEMORY + work
        self._seconds = seconds = self._seconds * _MEMORY + took
        self._bytes_squared = squared = self._bytes_squared * _MEMORY + work * work
        self._bytes_seconds = both = self._bytes_seconds * _MEMORY + work * took
        spread = squared - size * size / weight + _DOUBT
        pace = (both - size * seconds / weight + _DOUBT * self._first_pace) / spread
        self.pace = pace = pace if pace > _PACE_MIN else _PACE_MIN
        start_s = (seconds - pace * size) / weight
        self.start_s = start_s if start_s > 0 else 0.0

    def end(self, ticket: Ticket, now: float, *, served: bool = True) -> None:
        """However it ended; `served` with a whole answer."""
        self.in_flight -= 1
        if served:
            self._busy += 0.05 * (_BUSY * (now - ticket.at) - self._busy)
            if not ticket.answered and (
                ticket.visible or now < ticket.due + self._shift - ticket.shift
            ):
                self.first_byte(ticket, now)  # it was through by now, at the latest
            elif self.standing.failures:
                self.standing.succeeded(now)
        if not ticket.answered:
            self._withdraw(ticket, now)
        if ticket.probe:
            self.standing.probing = ticket.probe = False

    def _withdraw(self, ticket: Ticket, now: float) -> None:
        """It leaves unanswered: what it would still have taken, nobody waits for."""
        ticket.answered = True
        pending = self._pending
        if ticket not in pending:
            self._quiet.pop(ticket, None)
            return
        due = ticket.due + self._shift - ticket.shift
        left = min(self.start_s + ticket.work * self.pace, due - now)
        if left > 0:
            self._free_at -= left
            behind = False
            for other in pending:
                if behind:
                    other.due -= left
                behind = behind or other is ticket
        del pending[ticket]

    def overdue(self, now: float) -> tuple[float, float]:
        """How long the prompt whose turn it is has been awaited, and what it takes uncached."""
        for ticket in self._pending:
            if ticket.visible:
                since = max(ticket.at, self._last, self.heard_at)
                return now - since, self.start_s + ticket.size * self.pace
        return 0.0, 0.0

    def unheard(self, now: float) -> float:
        """How long it has owed something without a sign of life, if no first byte is due."""
        if not self.in_flight or any(ticket.visible for ticket in self._pending):
            return 0.0
        owed = [next(iter(some)).at for some in (self._quiet, self._pending) if some]
        return now - max(self.heard_at, self._last, min(owed, default=0.0))

    def awaited(self) -> list[Ticket]:
        """What it has been sent, and of which nothing came back yet."""
        return [*self._quiet, *self._pending]


def choose(lanes: Sequence[Lane], size: int, keys: Sequence[int], now: float) -> tuple[Lane, float]:
    """The lane with the least estimated time to a first byte, and what it has to prefill."""
    best, least, work = lanes[0], float("inf"), float(size)
    if len(lanes) < 2:
        return best, work
    if not keys:
        for lane in lanes:
            cost = lane.wait(now) + lane.start_s + size * lane.pace
            if cost < least:
                best, least = lane, cost
        return best, work
    waits = [lane.wait(now) for lane in lanes]
    weight = min(_UNCACHED_MAX, _UNCACHED + min(waits))
    for lane, wait in zip(lanes, waits, strict=True):
        left = max(1, size - BLOCK * lane.prefixes.match(keys))
        cost = wait + lane.start_s + (weight + lane.pressure(now)) * left * lane.pace
        if cost < least:
            best, least, work = lane, cost, left
    return best, work
