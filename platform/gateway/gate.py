"""The gate: rate limits and budgets of one request, all of them or none, in one locked section.

`Pass` is what a request holds while it runs; `settle` takes it back, once.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway import errors
from gateway.books import Books, Line, Reservation, Short, Worst
from gateway.budgets import CALLS, NANO_EUR, NO_RUN, ROOT, RUN, TOKENS, Budget, Run
from gateway.counting import Counting
from gateway.directory import Directory, Endpoint, Key
from gateway.errors import ApiError
from gateway.leases import Away, Leases
from gateway.prices import TokenPrices
from gateway.rates import CONCURRENCY, Bound, Left, Limited, Rates, Taken
from gateway.records import Charge, CloseRecord
from gateway.request import Call
from gateway.sizes import Size
from gateway.table import Table, TableFull
from gateway.usage import Usage
from gateway.worst import clamp, worst

_TRIES = 6
_GIVE_BACK_S = 0.1
_WARNINGS_MAX = 4


@dataclass(slots=True)
class Ask:
    """What a request wants to pass the gate with."""

    lines: Sequence[Line]
    limits: Sequence[Bound]
    prices: TokenPrices
    run: Run = NO_RUN
    warning: str = ""  # of the runaway brake
    delay_s: float = 0.0  # … which slows it down
    worst: Worst | None = None  # None: nothing depends on how much the request may use


class Pass:
    __slots__ = ("ask", "cost", "reserved", "taken")

    def __init__(self, ask: Ask, taken: Taken | None, reserved: Reservation | None) -> None:
        self.ask = ask
        self.taken = taken
        self.reserved = reserved
        self.cost = 0  # nanoeuro, when it is settled


class Gate:
    """One process's gate. `clock`: Unix nanoseconds."""

    def __init__(
        self,
        table: Table,
        leases: Leases,
        books: Books,
        hosts: int = 1,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.table = table
        self.books = books
        self.leases = leases
        self._rates = Rates(table)
        self._clock = clock
        self._counting = Counting(books, hosts)

    def ask(
        self, directory: Directory, key: Key, endpoint: Endpoint, run: Run, call: Call, size: Size
    ) -> Ask:
        """Raises 400 where more budgets count than a request can carry, and for bounds that are
        none."""
        now_ns = self._clock()
        # Whose endpoint it is pays for its seconds; others, on a shared one, pay for tokens.
        by_token = endpoint.shared and endpoint.organization_id != key.organization_id
        known = self._counting.of(directory, key, run, now_ns, by_token=by_token)
        prices = directory.prices.at(endpoint.device_kind, now_ns / 1e9)
        ask = Ask(known.lines, known.limits, prices, run)
        if known.lines or known.limits:
            ask.worst = worst(call, size, endpoint.max_model_len, prices)
        return ask

    def forget(self, directory: Directory) -> None:
        """What was remembered of keys and runs that ask no more. Call it now and then."""
        self._counting.forget(directory, self._clock())

    def enter(self, ask: Ask) -> "Pass | Short | Limited":
        """Take and hold everything, or nothing. Raises 503 when the shared table is full."""
        worst = ask.worst
        if worst is None:
            return Pass(ask, None, None)
        now_ns, table = self._clock(), self.table
        taken: Taken | None = None
        reserved: Reservation | None = None
        table.lock()
        try:
            if ask.limits:
                found = self._rates.take(ask.limits, worst.prompt, worst.output, now_ns)
                if isinstance(found, Limited):
                    return found
                taken = found
            if ask.lines:
                held = self.books.reserve(ask.lines, worst, now_ns // 1000)
                if isinstance(held, Short):
                    if taken is not None:
                        self._rates.undo(taken)
                    return held
                reserved = held
        except TableFull:
            raise errors.gate_full() from None
        finally:
            table.unlock()
        if reserved is not None and reserved.low:
            self.leases.top_up(reserved.low)
        return Pass(ask, taken, reserved)

    async def fund(self, ask: Ask, call: Call, short: Short) -> Pass:
        """Ask for the leases that are short; if there is no more, let the request generate only
        what its budgets buy.

        Raises 429 when they buy no token, 503 when PostgreSQL cannot be asked for the rest.
        """
        asked: Counter[str] = Counter()
        while True:
            tries = asked[short.line.name]
            # Others may have taken what an ask has brought, and hosts need a moment to give back.
            if not tries or (tries < _TRIES and (short.more or short.elsewhere)):
                asked[short.line.name] += 1
                if tries and not short.more:
                    await asyncio.sleep(_GIVE_BACK_S)
                try:
                    await self.leases.raise_to(short.line, short.need)
                except Away:
                    subject = short.line.budget.subject
                    whose = RUN if subject == ROOT else subject
                    raise errors.budget_unavailable(whose) from None
            else:
                self._shorten(ask, call, short)
            outcome = self.enter(ask)
            if isinstance(outcome, Limited):
                raise self.refusal(ask, outcome)
            if isinstance(outcome, Pass):
                return outcome
            short = outcome

    def _shorten(self, ask: Ask, call: Call, short: Short) -> None:
        """Each time by at least one token, so that this comes to an end. Raises 429."""
        assert ask.worst is not None
        output = ask.worst.affordable(short.line.budget, short.rest)
        if output is None or output < 1 or not call.operation.output_limits:
            raise self.refusal(ask, short)
        most = ask.worst.output // ask.worst.choices
        ask.worst = clamp(call, ask.worst, min(output, most - 1))
        if most <= 1:
            raise self.refusal(ask, short)

    def settle(self, held: Pass, used: Usage) -> tuple[Charge, ...]:
        """The charges, for the close record. `held` is over with this."""
        held.cost = cost = held.ask.prices.cost(used)
        if held.taken is None and held.reserved is None:
            return ()
        charges: tuple[Charge, ...] = ()
        self.table.lock()
        try:
            if held.reserved is not None:
                charges = self.books.settle(held.reserved, used, cost)
            if held.taken is not None:
                self._rates.put_back(held.taken, used.input, used.output)
        finally:
            self.table.unlock()
        return charges

    def leave(self, held: Pass) -> None:
        """The request was not served: nothing is charged, only its call counts as a request."""
        self.table.lock()
        try:
            if held.reserved is not None:
                self.books.give_back(held.reserved)
            if held.taken is not None:
                self._rates.put_back(held.taken, 0, 0)
        finally:
            self.table.unlock()

    def bury(self, owner: str, cut_off: Sequence[CloseRecord]) -> None:
        """The process `owner` has died: charge what it had delivered, then free what it held."""
        now_us = self._clock() // 1000
        if not self.table.holds(owner):
            return  # of an earlier life, or told twice
        with self.table.locked():
            for record in cut_off:
                self.books.charge(record.charges, now_us)
        self.table.release(owner)

    def headers(self, held: Pass) -> bytes:
        """x-ratelimit-* as OpenAI sends them, what the run's budgets have left, and which budgets
        are nearly spent."""
        lines = _rate_lines(held.taken.left) if held.taken is not None else b""
        run = held.ask.run
        if run.refs:
            lines += b"x-stoa-run-id: %b\r\n" % run.refs[-1].encode()
            if held.ask.warning:
                lines += b"x-stoa-warning: run: %b\r\n" % held.ask.warning.encode()
            if held.reserved is not None:
                lines += _remaining(self.books.left(held.reserved))
        if held.reserved is not None and (spent := self.books.nearly_spent(held.reserved)):
            lines += _warning(spent)
        return lines

    def refusal(self, ask: Ask, short: Short | Limited) -> ApiError:
        """429: it is the caller's own bound; 403 for a run that has made all of its calls."""
        lines = self._left(ask.limits)
        if isinstance(short, Limited):
            if short.what == CONCURRENCY:
                lines += _limit(b"concurrency", (short.limit, 0, short.wait_ns))
            return errors.rate_limited(short.whose, short.what, short.limit, short.wait_ns, lines)
        budget = short.line.budget
        if budget.subject == ROOT:
            return errors.run_limit(f"makes more than {budget.amount} calls")
        return errors.budget_exceeded(
            budget.subject, budget.unit, budget.amount, short.line.window, short.need, short.rest,
            lines,
        )  # fmt: skip

    def rate_lines(self, directory: Directory, key: Key) -> bytes:
        """x-ratelimit-* of a request that is refused for another reason."""
        return self._left(self._counting.limits(directory, key))

    def _left(self, limits: Sequence[Bound]) -> bytes:
        try:
            with self.table.locked():
                return _rate_lines(self._rates.left(limits, self._clock()))
        except TableFull:
            return b""


def _rate_lines(left: Sequence[Left | None]) -> bytes:
    requests, prompt, output = left
    tokens = prompt if output is None else output
    if prompt is not None and output is not None and prompt[1] < output[1]:
        tokens = prompt
    lines = _limit(b"requests", requests) + _limit(b"tokens", tokens)
    if prompt is not None and output is not None:
        lines += _limit(b"input-tokens", prompt) + _limit(b"output-tokens", output)
    return lines


def _limit(what: bytes, left: Left | None) -> bytes:
    if left is None:
        return b""
    limit, remaining, reset_ns = left
    return (
        b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n"
    ) % (what, limit, what, remaining, what, duration(reset_ns))


_UNITS = {NANO_EUR: b"eur", TOKENS: b"tokens", CALLS: b"calls"}


def _remaining(left: Sequence[tuple[Budget, int]]) -> bytes:
    """What the tightest budget of the run, or of a run above it, has left in each unit."""
    least: dict[str, int] = {}
    for budget, rest in left:
        if budget.subject in (RUN, ROOT):
            least[budget.unit] = min(rest, least.get(budget.unit, rest))
    return b"".join(
        b"x-stoa-run-remaining-%b: %b\r\n"
        % (_UNITS[unit], euro(max(0, rest)) if unit == NANO_EUR else b"%d" % max(0, rest))
        for unit, rest in least.items()
    )


def _warning(spent: Sequence[tuple[int, Line]]) -> bytes:
    """A list in RFC 8941's form, of the budgets of which most is spent."""
    worst = sorted(spent, key=lambda one: -one[0])[:_WARNINGS_MAX]
    return b"x-stoa-budget-warning: %b\r\n" % ", ".join(_spent(*one) for one in worst).encode()


def _spent(percent: int, line: Line) -> str:
    whose = RUN if line.budget.subject == ROOT else line.budget.subject
    said = f"{whose};budget={line.budget.id};percent={percent}"
    reference = line.window.partition("/")[2]
    said += f";of={reference}" if reference else ""
    return f"{said};hard" if line.hard else said


def euro(nano: int) -> bytes:
    """Exactly, as decimals."""
    return b"%d.%09d" % divmod(nano, 10**9)


def duration(nanoseconds: int) -> bytes:
    """As OpenAI writes it: 12ms, 1.5s, 6m0s."""
    millis = -(-nanoseconds // 1_000_000)
    if millis < 1000:
        return b"%dms" % millis
    if millis < 60_000:
        return b"%gs" % (millis / 1000)
    return b"%dm%ds" % divmod(-(-millis // 1000), 60)
