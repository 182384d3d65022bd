"""Tells the control plane which endpoints have traffic and which have somebody waiting.

One row says the most that was in flight since the row before, so that traffic of short requests
shows, and how many wait now. It comes at once when somebody begins to wait (it wakes the endpoint),
otherwise at once after a quiet time and then at most every few seconds, and once more, with zeros,
when the traffic has ended. Rows are composed when they are written, so an outage of PostgreSQL
loses nothing that still matters.
"""

import asyncio
import logging
import math
from collections.abc import Iterable

import msgspec
import psycopg

from gateway import store, tasks

log = logging.getLogger(__name__)

_TOGETHER = 10  # times in an interval at which rows are written

_INSERT = """
INSERT INTO endpoints_activity (endpoint_id, gateway_id, in_flight, waiting)
SELECT r ->> 0, %s, (r ->> 1)::int4, (r ->> 2)::int4 FROM jsonb_array_elements(%s::jsonb) r
"""


class _State:
    __slots__ = ("endpoint_id", "in_flight", "peak", "row_at", "timer", "told", "waiting")

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint_id = endpoint_id
        self.in_flight = 0
        self.peak = 0  # the most in flight since the last row
        self.waiting = 0
        self.told = False  # the last row was not all zeros
        self.row_at = float("-inf")
        self.timer: asyncio.Handle | None = None  # set: the next row has its time

    @property
    def worth_a_row(self) -> bool:
        return bool(self.peak or self.waiting or self.told)


class Activity:
    """Counts per endpoint. All methods belong to one event loop's thread and never block."""

    def __init__(self, store: store.Store, gateway_id: str, every_s: float) -> None:
        self._store = store
        self._gateway_id = gateway_id
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

    def began(self, endpoint_id: str) -> None:
        """A request is sent to a replica of the endpoint."""
        state = self._touch(endpoint_id)
        state.in_flight += 1
        state.peak = max(state.peak, state.in_flight)

    def ended(self, endpoint_id: str) -> None:
        state = self._touch(endpoint_id)
        state.in_flight = max(0, state.in_flight - 1)

    def waiting(self, endpoint_id: str, delta: int) -> None:
        """`delta` more requests (or fewer) wait for the endpoint to have a ready replica."""
        state = self._touch(endpoint_id)
        nobody = state.waiting == 0
        state.waiting = max(0, state.waiting + delta)
        if nobody and state.waiting:
            if state.timer is not None:
                state.timer.cancel()
            state.timer = asyncio.get_running_loop().call_soon(self._ready, state)  # at once

    def _touch(self, endpoint_id: str) -> _State:
        state = self._states.get(endpoint_id)
        if state is None:
            state = self._states[endpoint_id] = _State(endpoint_id)
        if state.timer is None:
            self._schedule(state)
        return state

    def _schedule(self, state: _State) -> None:
        loop = asyncio.get_running_loop()
        now, due_at = loop.time(), state.row_at + self._every_s
        if due_at > now:  # together with others: with many endpoints each row would be a statement
            together_s = self._every_s / _TOGETHER
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
            values = [(state.endpoint_id, peak, waiting) for state, peak, waiting in rows]
            encoded = msgspec.json.encode(values).decode()
            async with self._store.connection() as connection:
                await connection.execute(_INSERT, (self._gateway_id, encoded))
        except BaseException:
            for state, peak, _ in rows:
                state.peak = max(state.peak, peak)
            raise
        for state, peak, waiting in rows:
            state.told = bool(peak or waiting)
            if state.timer is None and state.worth_a_row:
                self._schedule(state)
            elif state.timer is None:
                self._states.pop(state.endpoint_id, None)

    def _compose(self, states: Iterable[_State]) -> list[tuple[_State, int, int]]:
        now = asyncio.get_running_loop().time()
        rows = []
        for state in list(states):
            state.timer = None
            if state.worth_a_row:
                rows.append((state, state.peak, state.waiting))
                state.peak = state.in_flight
                state.row_at = now
            else:  # who waited has left before we could tell
                self._states.pop(state.endpoint_id, None)
        return rows
