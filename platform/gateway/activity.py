"""Tells the control plane which endpoints have traffic and which have somebody waiting.

One row says the most that was in flight since the row before, so that traffic of short requests
shows, how many wait for a replica now, and what all of it asks of replicas (`demand`). It comes at
once when somebody begins to wait, and twice a second while there is more than the ready replicas
take: from zero and under load the endpoint scales by it. Otherwise it comes at once after a quiet
time and then at most every few seconds, and once more when the traffic has ended, to say how long
ago. Rows are composed when they are written, so an outage of PostgreSQL
loses nothing that still matters.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Protocol

import msgspec
import psycopg

from gateway import store, tasks
from gateway.demand import NOTHING, Demand

log = logging.getLogger(__name__)

_TOGETHER = 10  # times in an interval at which rows are written

_PRESSED_S = 0.5  # between two rows while there is more than the replicas take

_INSERT = """
INSERT INTO endpoints_activity (endpoint_id, gateway_id, worker, in_flight, waiting,
                                uncached_tokens, kv_tokens, running, pressed, prefill_tps, idle_s,
                                people)
SELECT r ->> 0, %s, %s, (r ->> 1)::int4, (r ->> 2)::int4, (r ->> 3)::int8, (r ->> 4)::int8,
       (r ->> 5)::int4, (r ->> 6)::bool, (r ->> 7)::float8, (r ->> 8)::float8, (r ->> 9)::bool
FROM jsonb_array_elements(%s::jsonb) r
"""


class _State:
    __slots__ = (
        "endpoint_id", "in_flight", "lines", "peak", "people", "pressed", "quiet_at", "row_at",
        "timer", "told", "waiting",
    )  # fmt: skip

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint_id = endpoint_id
        self.in_flight = 0
        self.lines = 0  # of those in flight, lines of batches
        self.peak = 0  # the most in flight since the last row
        self.people = False  # since the last row others than lines were in flight, or waited
        self.waiting = 0
        self.pressed = False  # as the last row said
        self.quiet_at = 0.0  # when the last one ended
        self.told = False  # the last row was not all zeros
        self.row_at = float("-inf")
        self.timer: asyncio.Handle | None = None  # set: the next row has its time

    @property
    def worth_a_row(self) -> bool:
        return bool(self.peak or self.waiting or self.told or self.pressed)

    def idle_s(self, demand: Demand, now: float) -> float | None:
        if self.in_flight or self.waiting or demand.running:
            return None
        return max(0.0, now - self.quiet_at)


class Sight(Protocol):
    """What sees how much there is for an endpoint: `demand.Demands`."""

    def of(self, endpoint_id: str) -> Demand: ...


_Composed = tuple[_State, int, int, Demand, float | None, bool]


class Activity:
    """Counts per endpoint. All methods belong to one event loop's thread and never block.

    `worker`: which of its gateway's processes this is; `demands` may be set later.
    """

    demands: Sight | None = None

    def __init__(
        self, store: store.Store, gateway_id: str, every_s: float, worker: int = 0
    ) -> None:
        self._store = store
        self._gateway_id = gateway_id
        self._worker = worker
        self._every_s = every_s
        self._states: dict[str, _State] = {}
        self._due: set[_State] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write the last rows if PostgreSQL is there."""
        await tasks.end(self._task)
        self._task = None
        for state in self._states.values():
            if state.timer is not None:
                state.timer.cancel()
        try:
            async with asyncio.timeout(1.0):
                await self._write(self._states.values())
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("the last activity rows were not written: %s", type(error).__name__)

    def began(self, endpoint_id: str, *, line: bool = False) -> None:
        """A request is sent to a replica of the endpoint. `line`: of a batch."""
        state = self._touch(endpoint_id)
        state.in_flight += 1
        state.lines += line
        state.people |= not line
        state.peak = max(state.peak, state.in_flight)

    def ended(self, endpoint_id: str, *, line: bool = False) -> None:
        state = self._touch(endpoint_id)
        state.in_flight = max(0, state.in_flight - 1)
        state.lines = max(0, state.lines - line)
        if not state.in_flight:
            state.quiet_at = asyncio.get_running_loop().time()

    def waiting(self, endpoint_id: str, delta: int) -> None:
        """`delta` more requests (or fewer) wait for the endpoint to have a ready replica."""
        state = self._touch(endpoint_id)
        nobody = state.waiting == 0
        state.waiting = max(0, state.waiting + delta)
        state.people |= state.waiting > 0
        if nobody and state.waiting:
            self._at_once(state)
        elif not state.waiting:
            state.quiet_at = asyncio.get_running_loop().time()

    def pressed(self, endpoint_id: str) -> None:
        """Somebody waits for room at its replicas."""
        state = self._touch(endpoint_id)
        if not state.pressed:
            state.pressed = True
            self._at_once(state)

    def look(self) -> None:
        """Find the endpoints where nobody waits, and prompts queue in the engines all the same."""
        if self.demands is not None:
            for endpoint_id, state in list(self._states.items()):
                if state.in_flight and not state.pressed and self.demands.of(endpoint_id).pressed:
                    self.pressed(endpoint_id)

    def _at_once(self, state: _State) -> None:
        if state.timer is not None:
            state.timer.cancel()
        state.timer = asyncio.get_running_loop().call_soon(self._ready, state)

    def _touch(self, endpoint_id: str) -> _State:
        state = self._states.get(endpoint_id)
        if state is None:
            state = self._states[endpoint_id] = _State(endpoint_id)
        if state.timer is None:
            self._schedule(state)
        return state

    def _schedule(self, state: _State) -> None:
        loop = asyncio.get_running_loop()
        every_s = self._every_s
        if state.pressed or state.waiting:
            every_s = min(every_s, _PRESSED_S)
        now, due_at = loop.time(), state.row_at + every_s
        if due_at > now:  # together with others: with many endpoints each row would be a statement
            together_s = every_s / _TOGETHER
            due_at = math.ceil(due_at / together_s) * together_s
        state.timer = loop.call_at(max(due_at, now), self._ready, state)

    def _ready(self, state: _State) -> None:
        self._due.add(state)
        self._wake.set()

    async def _run(self) -> None:
        backoff = store.Backoff()
        failing = False
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, set()
            try:
                await self._write(due)
                failing = False
                backoff.reset()
            except Exception as error:  # an idle timer that hears nothing stops the endpoint
                if not failing:
                    log.warning("activity rows wait: %s", type(error).__name__)
                failing = True
                self._due |= due
                self._wake.set()
                await asyncio.sleep(backoff.next())

    async def _write(self, states: Iterable[_State]) -> None:
        rows = self._compose(states)
        if not rows:
            return
        try:
            values = [
                (state.endpoint_id, peak, waiting, *demand, idle_s, people)
                for state, peak, waiting, demand, idle_s, people in rows
            ]
            encoded = msgspec.json.encode(values).decode()
            async with self._store.connection() as connection:
                await connection.execute(_INSERT, (self._gateway_id, self._worker, encoded))
        except BaseException:
            for state, peak, *_, people in rows:
                state.peak = max(state.peak, peak)
                state.people |= people
            raise
        for state, peak, waiting, demand, *_ in rows:
            state.told = bool(peak or waiting or demand.running)
            if state.timer is None and state.worth_a_row:
                self._schedule(state)
            elif state.timer is None:
                self._states.pop(state.endpoint_id, None)

    def _compose(self, states: Iterable[_State]) -> list[_Composed]:
        now = asyncio.get_running_loop().time()
        rows = []
        for state in list(states):
            state.timer = None
            if state.worth_a_row:
                demand = NOTHING if self.demands is None else self.demands.of(state.endpoint_id)
                idle_s = state.idle_s(demand, now)
                people = state.people or state.in_flight > state.lines or state.waiting > 0
                rows.append((state, state.peak, state.waiting, demand, idle_s, people))
                state.peak, state.pressed, state.people = state.in_flight, demand.pressed, False
                state.row_at = now
            else:  # who waited has left before we could tell
                self._states.pop(state.endpoint_id, None)
        return rows
