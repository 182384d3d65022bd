"""Rate limits in the shared table: requests and tokens a minute, and requests at once.

A rate is a bucket that holds a minute's worth and fills steadily. It is kept as one number, the
time at which the bucket will be full again (GCRA), so no process can leave it half changed.
Tokens are taken as the worst case and what was not used is put back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway import table as t
from gateway.directory import RateLimits
from gateway.table import Table

_MINUTE_NS = 60_000_000_000
_KEPT_US = 300_000_000  # a slot that was idle for so long is full anyway

REQUESTS, INPUT, OUTPUT, CONCURRENCY = "requests", "input_tokens", "output_tokens", "concurrency"


@dataclass(frozen=True, slots=True)
class Limited:
    """Too fast. `whose` is organization, project or key."""

    whose: str
    what: str
    limit: int
    wait_ns: int  # until the same request would pass


@dataclass(frozen=True, slots=True)
class Left:
    """For x-ratelimit headers: the tightest limit of its kind."""

    limit: int
    remaining: int
    reset_ns: int  # until all of it is there again


class Taken:
    """What one request took of its limits."""

    __slots__ = ("input", "limits", "output", "slots")

    def __init__(self, slots: list[int], limits: list[RateLimits], input: int, output: int):
        self.slots = slots
        self.limits = limits
        self.input = input
        self.output = output


class Rates:
    """`hosts` gateways share each limit. Call everything under the table's lock."""

    def __init__(self, table: Table, hosts: int = 1) -> None:
        self._table = table
        self._hosts = hosts

    def take(
        self,
        subjects: Sequence[tuple[str, str, RateLimits]],
        input: int,
        output: int,
        now_ns: int,
    ) -> Taken | Limited:
        """All of it or nothing. `subjects`: whose limits (organization, …), of what id, which.

        More tokens than a minute's worth are taken as a minute's worth: such a request passes
        when the bucket is full. Raises TableFull.
        """
        table, words = self._table, self._table.words
        now_us = now_ns // 1000
        slots = []
        for whose, id, limits in subjects:
            slot = table.find(id, now_us + _KEPT_US, now_us)
            slots.append(slot)
            refused = self._check(slot, whose, limits, input, output, now_ns)
            if refused is not None:
                return refused
        for slot, (_, _, limits) in zip(slots, subjects, strict=True):
            words[slot + t.ENDS_US] = now_us + _KEPT_US
            if limits.requests_per_minute is not None:
                self._add(slot + t.REQUESTS, limits.requests_per_minute, 1, now_ns)
            if limits.input_tokens_per_minute is not None:
                self._add(slot + t.INPUT, limits.input_tokens_per_minute, input, now_ns)
            if limits.output_tokens_per_minute is not None:
                self._add(slot + t.OUTPUT, limits.output_tokens_per_minute, output, now_ns)
            if limits.concurrency is not None:
                table.hold(slot, 1)
        return Taken(slots, [limits for _, _, limits in subjects], input, output)

    def _check(
        self, slot: int, whose: str, limits: RateLimits, input: int, output: int, now_ns: int
    ) -> Limited | None:
        words = self._table.words
        for what, word, limit, amount in (
            (REQUESTS, t.REQUESTS, limits.requests_per_minute, 1),
            (INPUT, t.INPUT, limits.input_tokens_per_minute, input),
            (OUTPUT, t.OUTPUT, limits.output_tokens_per_minute, output),
        ):
            if limit is not None:
                full_at = max(words[slot + word], now_ns) + self._cost(limit, amount)
                if (wait_ns := full_at - now_ns - _MINUTE_NS) > 0:
                    return Limited(whose, what, limit, wait_ns)
        limit = limits.concurrency
        if limit is not None and words[slot + t.HELD] >= max(1, limit // self._hosts):
            return Limited(whose, CONCURRENCY, limit, 1_000_000_000)
        return None

    def _cost(self, limit: int, amount: int) -> int:
        return min(amount * _MINUTE_NS * self._hosts // max(1, limit), _MINUTE_NS)

    def _add(self, word: int, limit: int, amount: int, now_ns: int) -> None:
        words = self._table.words
        words[word] = max(words[word], now_ns) + self._cost(limit, amount)

    def put_back(self, taken: Taken, input: int, output: int) -> None:
        """The request ended and used so much: the rest of what it took is there again."""
        words = self._table.words
        for slot, limits in zip(taken.slots, taken.limits, strict=True):
            if (limit := limits.input_tokens_per_minute) is not None:
                words[slot + t.INPUT] -= self._cost(limit, taken.input) - self._cost(limit, input)
            if (limit := limits.output_tokens_per_minute) is not None:
                spare = self._cost(limit, taken.output) - self._cost(limit, output)
                words[slot + t.OUTPUT] -= spare
            if limits.concurrency is not None:
                self._table.let_go(slot, 1)

    def undo(self, taken: Taken) -> None:
        """As if it had never been taken."""
        words = self._table.words
        for slot, limits in zip(taken.slots, taken.limits, strict=True):
            if limits.requests_per_minute is not None:
                words[slot + t.REQUESTS] -= self._cost(limits.requests_per_minute, 1)
        self.put_back(taken, 0, 0)

    def left(self, taken: Taken, now_ns: int) -> tuple[Left | None, Left | None, Left | None]:
        """Of requests, input and output tokens. Reads only: no lock is needed."""
        found: list[Left | None] = [None, None, None]
        words = self._table.words
        for slot, limits in zip(taken.slots, taken.limits, strict=True):
            for index, (word, limit) in enumerate(
                (
                    (t.REQUESTS, limits.requests_per_minute),
                    (t.INPUT, limits.input_tokens_per_minute),
                    (t.OUTPUT, limits.output_tokens_per_minute),
                )
            ):
                if limit is None:
                    continue
                reset_ns = max(0, words[slot + word] - now_ns)
                share = max(1, limit // self._hosts)
                remaining = max(0, share - -(-reset_ns * share // _MINUTE_NS))
                best = found[index]
                if best is None or remaining < best.remaining:
                    found[index] = Left(limit, remaining, reset_ns)
        return found[0], found[1], found[2]
