"""Leases: what this host may spend of each budget without asking.

PostgreSQL is the authority (`billing_lease`). A counter asks when a request finds its lease too
small, and ahead of that when it runs low; what has been idle is given back, and at once when
another host lacks it or the budget was edited. Asks are numbered in the shared table. An ask for
more never lowers; giving back lowers the table first, and an answer to what was asked before
counts no longer: so what stands in the table never exceeds what PostgreSQL has granted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg

from gateway import store, tasks
from gateway import table as t
from gateway.books import Books, Line
from gateway.budgets import Budget

log = logging.getLogger(__name__)

_IDLE_US = 30_000_000
_LOOK_S = 5.0
_ASK_TIMEOUT_S = 2.0
_ASK = "SELECT lease, seq, granted, cap, others FROM billing_lease(%s, %s, %s, %s)"


class Away(Exception):
    """PostgreSQL cannot be asked now."""


@dataclass(slots=True)
class Wanted:
    line: Line
    need: int = 0  # of the requests that wait for it
    more: bool = False
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sent:
    slot: int
    name: str


class Leases:
    """One process's asks. All methods belong to one event loop's thread."""

    def __init__(
        self,
        books: Books,
        store: store.Store,
        gateway_id: str,
        hosts: int = 1,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`hosts`: gateways of the region, which share what is left. `clock`: Unix microseconds."""
        self._books = books
        self._store = store
        self._gateway_id = gateway_id
        self._hosts = hosts
        self._clock = clock
        self._asks: dict[str, Wanted] = {}
        self._known: dict[str, Line] = {}  # counters that this process has used
        self._due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._look())]

    async def stop(self) -> None:
        """Give everything back that is not held; what cannot be told now ends with the epoch."""
        await tasks.end(*self._tasks)
        self._tasks = []
        self.give_back(self._known.values())
        try:
            async with asyncio.timeout(1.0):
                await self._send()
        except (*store.AWAY, psycopg.Error):
            log.warning("leases were not given back; they end when this gateway's spool is settled")

    # --- Asking -----------------------------------------------------------------------
    async def raise_to(self, line: Line, need: int) -> None:
        """Ask for a lease that has room for `need` more. Returns when the answer is in the table,
        whatever it is. Raises Away."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ask = self._ask(line)
        ask.need += need
        ask.more = True
        ask.waiting.append(waiter)
        await waiter

    def top_up(self, lines: Iterable[Line]) -> None:
        """Their leases run low: ask in the background. Of a budget that only warns nothing is
        leased; it asks what is spent elsewhere."""
        for line in lines:
            ask = self._ask(line)
            ask.more = ask.more or line.hard

    def give_back(self, lines: Iterable[Line], *, idle_us: int = 0) -> None:
        """Lower each lease to what is spent and held, if it was not used for `idle_us`."""
        now_us, words = self._clock(), self._books.table.words
        for line in list(lines):
            if line.ends_us < now_us:
                self._known.pop(line.name, None)
                continue
            with self._books.table.locked():
                slot = self._books.table.find(line.name, line.ends_us, now_us)
                used = words[slot + t.SPENT] + words[slot + t.HELD]
                if now_us - words[slot + t.USED_US] < idle_us:
                    continue
                if words[slot + t.GRANTED] <= used:
                    self._known.pop(line.name, None)  # there is nothing to give
                    continue
                words[slot + t.GRANTED] = used
            self._ask(line)

    def edited(self, before: Mapping[str, Budget], after: Mapping[str, Budget]) -> None:
        """The directory's budgets (by id) have changed: what was granted under the old ones goes
        back."""
        if before is after:
            return

        def changed(id: str) -> bool:
            now = after.get(id)
            return now is not None and id in before and now != before[id]

        self.give_back([line for line in self._known.values() if changed(line.budget.id)])

    def wanted(self, payload: str) -> None:
        """Another host lacks what this one may hold: `<budget> <window>`."""
        line = self._known.get(payload.replace(" ", "/", 1))
        if line is not None:
            self.give_back([line])

    def _ask(self, line: Line) -> Wanted:
        self._known[line.name] = line
        ask = self._asks.get(line.name)
        if ask is None:
            ask = self._asks[line.name] = Wanted(line)
        self._due.set()
        return ask

    async def _run(self) -> None:
        failing = False
        while True:
            await self._due.wait()
            try:
                await self._send()
                failing = False
            except (*store.AWAY, psycopg.Error) as error:
                if not failing:
                    log.warning("budgets live on their leases: %s", type(error).__name__)
                failing = True
                await asyncio.sleep(0.2)

    def _again(self, ask: Wanted) -> None:
        """Something was given back while this was asked for: who waits has got nothing yet."""
        again = self._ask(ask.line)
        again.need += ask.need
        again.more = True
        again.waiting += ask.waiting

    async def _send(self) -> None:
        self._due.clear()
        asks, self._asks = self._asks, {}
        if not asks:
            return
        try:
            sent, rows = self.compose(asks)
            async with asyncio.timeout(_ASK_TIMEOUT_S), self._store.connection() as connection:
                arguments = self._gateway_id, self._books.table.epoch, self._hosts, rows
                cursor = await connection.execute(_ASK, arguments)
                answers = await cursor.fetchall()
        except BaseException as error:
            for ask in asks.values():
                for waiter in ask.waiting:
                    if not waiter.done():
                        waiter.set_exception(Away(type(error).__name__))
            raise
        overtaken = self.apply(sent, answers)
        for ask in asks.values():
            if ask.line.name in overtaken and ask.waiting:
                self._again(ask)
                continue
            for waiter in ask.waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def compose(self, asks: Mapping[str, Wanted]) -> tuple[dict[int, Sent], str]:
        """What to tell `billing_lease`, and what to know when it answers."""
        table, sent, rows = self._books.table, {}, []
        words, now_us = table.words, self._clock()
        with table.locked():
            for name, ask in asks.items():
                slot = table.find(name, ask.line.ends_us, now_us)
                words[slot + t.SEQ] += 1
                lease, seq = words[slot + t.LEASE], words[slot + t.SEQ]
                needed = words[slot + t.SPENT] + words[slot + t.HELD] + ask.need
                if not ask.more:
                    # What is given back is out of use before PostgreSQL hears of it.
                    words[slot + t.LOWERED] = seq
                    words[slot + t.GRANTED] = needed = min(needed, words[slot + t.GRANTED])
                sent[lease] = Sent(slot, name)
                rows.append((ask.line.budget.id, ask.line.window, lease, seq, needed, ask.more))
        return sent, msgspec.json.encode(rows).decode()

    def apply(self, sent: Mapping[int, Sent], answers: Iterable[tuple[Any, ...]]) -> set[str]:
        """Put the answers in the table. Returns whose answer was overtaken: by something that
        was given back after it was asked for, so that less may be granted now than it says."""
        words, overtaken, now_us = self._books.table.words, set(), self._clock()
        with self._books.table.locked():
            for lease, seq, granted, cap, others in answers:
                one = sent[lease]
                if words[one.slot + t.LEASE] != lease or seq < words[one.slot + t.LOWERED]:
                    overtaken.add(one.name)
                    continue
                # Asks for more only ever raise: the answer of an earlier one is no less true.
                if seq > words[one.slot + t.LOWERED]:
                    granted = max(granted, words[one.slot + t.GRANTED])
                    words[one.slot + t.GRANTED] = granted
                granted = words[one.slot + t.GRANTED]
                words[one.slot + t.CAP] = max(cap, granted) if granted else cap
                words[one.slot + t.OTHERS] = others
                words[one.slot + t.TOLD_US] = now_us
        return overtaken

    # --- Giving back ------------------------------------------------------------------
    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.give_back(self._known.values(), idle_us=_IDLE_US)
