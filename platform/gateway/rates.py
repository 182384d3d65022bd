"""Rate limits in the shared table: requests and tokens a minute, and requests at once.

A rate is a bucket that holds a minute's worth and fills steadily. It is kept as one number, the
time at which the bucket will be full again (GCRA), so no process can leave it half changed.
Tokens are taken as the worst case and what was not used is put back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from gateway import table as t
from gateway.directory import RateLimits
from gateway.table import Table

_MINUTE_NS = 60_000_000_000
_KEPT_US = 300_000_000  # a slot that was idle for so long is full anyway
_RENEW_US = 120_000_000

REQUESTS, INPUT, OUTPUT, CONCURRENCY = "requests", "input_tokens", "output_tokens", "concurrency"
_KINDS = (REQUESTS, INPUT, OUTPUT)
_WORDS = (t.REQUESTS, t.INPUT, t.OUTPUT)


class Bound(msgspec.Struct, frozen=True, gc=False):
    """The limits of one subject on this host, made ready: what is None is left out."""

    whose: str  # organization, project or key
    id: str
    # Of each rate: the word of the table, nanoseconds a unit, the limit, the index in _KINDS.
    rates: tuple[tuple[int, int, int, int], ...]
    at_once: int | None  # this host's share of `concurrency`, which is what the client is told
    concurrency: int | None


@lru_cache(1024)  # many keys have the same
def _rates(limits: RateLimits, hosts: int) -> tuple[tuple[int, int, int, int], ...]:
    given = (
        limits.requests_per_minute,
        limits.input_tokens_per_minute,
        limits.output_tokens_per_minute,
    )
    return tuple(
        (word, _MINUTE_NS * hosts // max(1, limit), limit, index)
        for index, (word, limit) in enumerate(zip(_WORDS, given, strict=True))
        if limit is not None
    )


def bound(whose: str, id: str, limits: RateLimits, hosts: int = 1) -> Bound:
    """`hosts` gateways share each limit."""
    rates = _rates(limits, hosts)
    at_once = limits.concurrency
    if at_once is not None:
        at_once = max(1, at_once // hosts) if at_once else 0
    return Bound(whose, id, rates, at_once, limits.concurrency)


@dataclass(frozen=True, slots=True)
class Limited:
    """Too fast. `whose` is organization, project or key."""

    whose: str
    what: str
    limit: int
    wait_ns: int  # until the same request would pass


# Of one limit: how much it is, what remains, nanoseconds until all of it is there again.
Left = tuple[int, int, int]


class Taken:
    """What one request took of its limits.

    `left` is for x-ratelimit headers: of requests, input and output tokens, what the tightest
    limit has left.
    """

    __slots__ = ("bounds", "input", "left", "output", "slots")

    def __init__(self, bounds: Sequence[Bound], input: int, output: int) -> None:
        self.bounds = bounds
        self.slots: list[int] = []
        self.input = input
        self.output = output
        self.left: list[Left | None] = [None, None, None]


class Rates:
    """Call everything under the table's lock."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def take(
        self, bounds: Sequence[Bound], input: int, output: int, now_ns: int
    ) -> Taken | Limited:
        """All of it or nothing.

        More tokens than a minute's worth are taken as a minute's worth: such a request passes
        when the bucket is full. Raises TableFull.
        """
        table, words = self._table, self._table.words
        now_us = now_ns // 1000
        taken = Taken(bounds, input, output)
        slots, left = taken.slots, taken.left
        amounts = (1, input, output)
        changes = []
        for one in bounds:
            slot = table.find(one.id, now_us + _KEPT_US, now_us)
            slots.append(slot)
            if one.at_once is not None and words[slot + t.HELD] >= one.at_once:
                return Limited(one.whose, CONCURRENCY, one.concurrency or 0, 1_000_000_000)
            for word, unit_ns, limit, index in one.rates:
                full_at = words[slot + word]
                if full_at < now_ns:
                    full_at = now_ns
                cost = amounts[index] * unit_ns
                full_at += cost if cost < _MINUTE_NS else _MINUTE_NS
                reset_ns = full_at - now_ns
                if reset_ns > _MINUTE_NS:
                    return Limited(one.whose, _KINDS[index], limit, reset_ns - _MINUTE_NS)
                changes.append((slot + word, full_at))
                remaining = (_MINUTE_NS - reset_ns) // unit_ns
                best = left[index]
                if best is None or remaining < best[1]:
                    left[index] = (limit, remaining, reset_ns)
        for address, full_at in changes:
            words[address] = full_at
        for one, slot in zip(bounds, slots, strict=True):
            if words[slot + t.ENDS_US] < now_us + _RENEW_US:
                words[slot + t.ENDS_US] = now_us + _KEPT_US
            if one.at_once is not None:
                table.hold(slot, 1)
        return taken

    def left(self, bounds: Sequence[Bound], now_ns: int) -> list[Left | None]:
        """As `Taken.left`, of who takes nothing. Raises TableFull."""
        found: list[Left | None] = [None, None, None]
        for one in bounds:
            slot = self._table.find(one.id, (now_ns + _MINUTE_NS) // 1000, now_ns // 1000)
            for word, unit_ns, limit, index in one.rates:
                reset_ns = max(0, self._table.words[slot + word] - now_ns)
                remaining = max(0, _MINUTE_NS - reset_ns) // unit_ns
                best = found[index]
                if best is None or remaining < best[1]:
                    found[index] = limit, remaining, reset_ns
        return found

    def put_back(self, taken: Taken, input: int, output: int) -> None:
        """The request ended and used so much: the rest of what it took is there again."""
        words = self._table.words
        amounts, used = (1, taken.input, taken.output), (1, input, output)
        for one, slot in zip(taken.bounds, taken.slots, strict=True):
            for word, unit_ns, _, index in one.rates:
                if index:
                    words[slot + word] -= min(amounts[index] * unit_ns, _MINUTE_NS) - min(
                        used[index] * unit_ns, _MINUTE_NS
                    )
            if one.at_once is not None:
                self._table.let_go(slot, 1)

    def undo(self, taken: Taken) -> None:
        """As if it had never been taken."""
        words = self._table.words
        for one, slot in zip(taken.bounds, taken.slots, strict=True):
            for word, unit_ns, _, index in one.rates:
                if not index:
                    words[slot + word] -= min(unit_ns, _MINUTE_NS)
        self.put_back(taken, 0, 0)
