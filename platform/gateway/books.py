"""Budgets in the shared table: reserve the worst case, serve, settle what was used.

All budgets of a request are reserved or none is. What a counter may spend is its lease
(`leases`), so nothing here asks PostgreSQL, and nothing here needs it to be there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import force_setattr

from billing.windows import ALWAYS_US, Window, window
from gateway import table as t
from gateway.budgets import CALLS, KEY, NANO_EUR, TOKENS, Budget
from gateway.prices import TokenPrices
from gateway.records import Charge
from gateway.table import Table
from gateway.usage import Usage

_GRACE_US = 3_600_000_000  # a counter outlives its window, for what is settled late
WARN_PERCENT = 80
_TOLD_US = 5_000_000  # what others spend of a budget that only warns is asked for so often
_PLAIN_MAX = 10_000
_RUN_IDLE_US = 3_600_000_000  # a run's counter may go once its lease was given back this long ago


@dataclass(frozen=True, slots=True)
class Worst:
    """What a request may use at most: prompt tokens, and output tokens of all its choices."""

    prompt: int
    output: int
    choices: int
    prices: TokenPrices

    @property
    def money(self) -> int:
        """Nanoeuro."""
        return self.prices.most(self.prompt, self.output)

    @property
    def tokens(self) -> int:
        return self.prompt + self.output

    def affordable(self, budget: Budget, rest: int) -> int | None:
        """Output tokens a choice that `rest` of the unit pays for; None: as many as you like,
        below 1: the request is beyond it."""
        if budget.unit == CALLS:
            return None if rest >= 1 else -1
        if budget.unit == NANO_EUR:
            output = self.prices.affords(rest, self.prompt)
        else:
            output = rest - self.prompt
        return None if output is None else output // self.choices


class Line(msgspec.Struct, frozen=True, gc=False):
    """One budget's counter, as a request sees it."""

    budget: Budget
    window: str  # its id, with the run or agent that it is for
    ends_us: int
    name: str = ""  # of the counter
    unit: str = ""
    hard: bool = False
    allowance: int = 0
    warns_at: int = 0  # so much left, with the allowance, is worth a word

    def __post_init__(self) -> None:
        budget = self.budget
        force_setattr(self, "name", f"{budget.id}/{self.window}")
        force_setattr(self, "unit", budget.unit)
        force_setattr(self, "hard", budget.hard)
        force_setattr(self, "allowance", budget.allowance)
        spare = budget.amount * (100 - WARN_PERCENT) // 100
        force_setattr(self, "warns_at", spare + budget.allowance)


@dataclass(frozen=True, slots=True)
class Short:
    """The lease of `line` is too small by then: `rest` is what can be had of it now."""

    line: Line
    need: int
    rest: int
    more: bool  # PostgreSQL has more for this host
    elsewhere: bool  # other hosts hold some of it, and may give it back


class Reservation:
    """What one request holds, and of what."""

    __slots__ = ("held", "leases", "lines", "low", "slots")

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.low: list[Line] = []  # PostgreSQL should be asked about these
        self.slots: list[int] = []
        self.leases: list[int] = []
        self.held: list[int] = []

    def charges(self) -> tuple[Charge, ...]:
        """For the open record: where the request will be charged, should this process die."""
        return tuple(
            Charge(line.budget.id, line.window, lease, line.budget.unit, 0)
            for line, lease in zip(self.lines, self.leases, strict=True)
        )


class Books:
    """One process's door to the counters. Times are Unix microseconds.

    Call whatever changes counters under the table's lock.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._windows: dict[tuple[str, str], Window] = {}
        self._plain: dict[str, Line] = {}  # by budget, but agents' and runs'

    def lines(self, found: Sequence[tuple[Budget, str]], now_us: int) -> tuple[list[Line], int]:
        """The counters of these budgets, and until when they are the ones."""
        lines, until_us = [], ALWAYS_US
        for budget, suffix in found:
            kind = budget.window, budget.time_zone
            current = self._windows.get(kind)
            if current is None or not current.starts_us <= now_us < current.ends_us:
                current = self._windows[kind] = window(*kind, now_us)
            ends_us = current.ends_us
            until_us = min(until_us, ends_us)
            if suffix and current.id == "total":
                ends_us = now_us + _RUN_IDLE_US
            lines.append(self._line(budget, current.id + suffix, ends_us + _GRACE_US, suffix))
        return lines, until_us

    def _line(self, budget: Budget, window: str, ends_us: int, suffix: str) -> Line:
        """What many keys share, such as their organization's, is made once."""
        if suffix or budget.subject == KEY:
            return Line(budget, window, ends_us)
        line = self._plain.get(budget.id)
        if line is None or line.budget is not budget or line.window != window:
            if len(self._plain) > _PLAIN_MAX:
                self._plain.clear()
            line = self._plain[budget.id] = Line(budget, window, ends_us)
        return line

    def reserve(self, lines: Sequence[Line], worst: Worst, now_us: int) -> Reservation | Short:
        """Hold the worst case on every line, or on none. Raises TableFull."""
        table, taken = self.table, Reservation(lines)
        words, column = table.words, t.COLUMN + table.column
        needs = {NANO_EUR: worst.money, TOKENS: worst.tokens, CALLS: 1}
        for line in lines:
            slot = table.find(line.name, line.ends_us, now_us)
            need = needs[line.unit]
            if line.hard:
                rest = words[slot + t.GRANTED] - words[slot + t.SPENT] - words[slot + t.HELD]
                more = words[slot + t.CAP] > words[slot + t.GRANTED]
                if line.allowance and words[slot + t.CAP] - line.allowance <= words[slot + t.SPENT]:
                    rest, more = 0, False  # the amount is spent: the allowance is for what runs
                if need > rest:
                    return Short(line, need, rest, more, words[slot + t.OTHERS] > 0)
                if more and rest < 3 * need:
                    taken.low.append(line)
            elif now_us - words[slot + t.TOLD_US] > _TOLD_US:
                taken.low.append(line)
            taken.slots.append(slot)
            taken.held.append(need)
        for line, slot, need in zip(lines, taken.slots, taken.held, strict=True):
            words[slot + t.HELD] += need
            words[slot + column] += need
            words[slot + t.USED_US] = now_us
            if words[slot + t.ENDS_US] < line.ends_us:
                words[slot + t.ENDS_US] = line.ends_us  # a run goes on
            taken.leases.append(words[slot + t.LEASE])
        return taken

    def settle(self, taken: Reservation, used: Usage, nano_eur: int) -> tuple[Charge, ...]:
        """Give the reservation back and spend what was used; the charges for the close record."""
        table, charges = self.table, []
        words, column = table.words, t.COLUMN + table.column
        amounts = {NANO_EUR: nano_eur, TOKENS: used.input + used.output, CALLS: 1}
        for line, slot, lease, held in zip(
            taken.lines, taken.slots, taken.leases, taken.held, strict=True
        ):
            amount = amounts[line.unit]
            if amount:
                # Spent before it is given back: death in between is too careful, no more.
                words[slot + t.SPENT] += amount
                charges.append(Charge(line.budget.id, line.window, lease, line.unit, amount))
            words[slot + t.HELD] -= held
            words[slot + column] -= held
        return tuple(charges)

    def give_back(self, taken: Reservation) -> None:
        """The request was not served after all."""
        for slot, held in zip(taken.slots, taken.held, strict=True):
            self.table.let_go(slot, held)

    def charge(self, charges: Sequence[Charge], now_us: int) -> None:
        """Spend what a request of a dead process used: its reservation goes with its column."""
        words = self.table.words
        for charge in charges:
            name = f"{charge.budget_id}/{charge.window}"
            slot = self.table.find(name, now_us + _GRACE_US, now_us)
            if words[slot + t.LEASE] == charge.lease:
                words[slot + t.SPENT] += charge.amount

    def left(self, taken: Reservation) -> list[tuple[Budget, int]]:
        """What each hard budget has left, as far as this host knows: for the reply's headers.
        Below 0 where its allowance is being spent."""
        words = self.table.words
        return [
            (line.budget, words[slot + t.CAP] - words[slot + t.SPENT] - line.allowance)
            for line, slot in zip(taken.lines, taken.slots, strict=True)
            if line.budget.hard
        ]

    def nearly_spent(self, taken: Reservation) -> list[tuple[int, Line]]:
        """The budgets of which `WARN_PERCENT` or more is spent, as far as this host knows, with
        the percentage."""
        words, found = self.table.words, []
        for line, slot in zip(taken.lines, taken.slots, strict=True):
            rest = words[slot + t.CAP] + words[slot + t.OTHERS] - words[slot + t.SPENT]
            if rest <= line.warns_at and words[slot + t.TOLD_US]:
                amount = line.budget.amount
                spent = amount + line.allowance - rest
                found.append((spent * 100 // amount if amount else 100, line))
        return found
