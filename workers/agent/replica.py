"""One replica on this node, from the wish to its end.

    fetching ──▶ starting ──▶ probing ──▶ ready ──▶ draining ──▶ stopped
        │            │           │          │           ▲
        ╰────────────┴───────────┴────┬─────┴───────────╯ a stop was asked
                                      ▼
                                   failed

`failed` and `stopped` are entered only when no process of the engine is left, so the report of
either frees the devices. Every step reads the record and moves it; a step that was interrupted,
by an exception or by the death of the agent, is taken again from the record.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.fleet import wire
from workers.agent import logs, threads
from workers.agent.engines import Running
from workers.agent.records import ENDED, Phase, Record, Store
from workers.agent.runner import CannotStart, Runner

log = logging.getLogger("stoa.agent")

POLL_S = 0.25  # how soon the end of an engine is seen
SEEN_EVERY_S = 5.0  # what an agent's death can cost of a dead engine's ready seconds
RETRY_S = 1.0

COMING = frozenset({Phase.FETCHING, Phase.STARTING, Phase.PROBING})
LISTENING = frozenset({Phase.PROBING, Phase.READY, Phase.DRAINING})

# endpoints.states.Reason, which this package may not import.
ENGINE_EXITED = "engine_exited"
ENGINE_MISSING = "engine_missing"
FETCH_FAILED = "fetch_failed"
PROBE_FAILED = "probe_failed"
START_TIMEOUT = "start_timeout"
WALLS_MISSING = "walls_missing"


class Replica:
    """Drives one record. `changed` is called after each change worth a report."""

    def __init__(
        self,
        record: Record,
        *,
        store: Store,
        runner: Runner,
        clock: Callable[[], float],
        changed: Callable[[], None],
        address: Callable[[Running], str] = lambda running: f"unix:{running.socket}",
        devices_busy: Callable[["Replica"], bool] = lambda _: False,
    ) -> None:
        self.record = record
        self.unlisted = False  # nobody wants it; kept until its last log lines are away
        self._store, self._runner, self._clock = store, runner, clock
        self._changed, self._address, self._devices_busy = changed, address, devices_busy
        self._stopping = asyncio.Event()
        if record.drain_s is not None:
            self._stopping.set()

    @property
    def id(self) -> str:
        return self.record.spec.replica_id

    @property
    def ended(self) -> bool:
        return self.record.phase in ENDED

    def request_stop(self, drain_s: float) -> None:
        """Stop it, in whatever phase it is. Asking again changes nothing."""
        if self.ended or self.record.drain_s is not None:
            return
        self.record.drain_s = drain_s
        self._stopping.set()

    async def run(self) -> None:
        """Drive the replica to its end; returns then."""
        steps: dict[Phase, Callable[[], Awaitable[None]]] = {
            Phase.FETCHING: self._fetch,
            Phase.STARTING: self._start,
            Phase.PROBING: self._probe,
            Phase.READY: self._serve,
            Phase.DRAINING: self._drain,
        }
        while not self.ended:
            try:
                if self._stopping.is_set() and self.record.phase is not Phase.DRAINING:
                    self._enter(Phase.DRAINING)
                await steps[self.record.phase]()
            except Exception:  # a full disk, say: the record still says where we are
                log.exception("%s: %s did not work, trying again", self.id, self.record.phase)
                await asyncio.sleep(RETRY_S)

    def report(self) -> wire.ReplicaReport:
        record, running = self.record, self.record.running
        return wire.ReplicaReport(
            replica_id=self.id,
            phase=record.phase,
            reason=record.reason,
            detail=record.detail[:500],
            bytes_done=record.bytes_done,
            bytes_total=record.bytes_total,
            pid=running.pid if running is not None and not self.ended else 0,
            address=self._address(running) if running and record.phase in LISTENING else "",
            start_tier=running.tier if running is not None else None,
            phase_seconds=dict(record.phase_seconds),
            ready_s=round(record.ready_s(self._clock()), 3),
            engine=record.engine,
            log_tail=record.log_tail,
        )

    # --- steps ---------------------------------------------------------------------

    async def _fetch(self) -> None:
        spec = self.record.spec
        fetch = asyncio.ensure_future(
            threads.call(self._runner.fetch, spec, self._progress, self._stopping.is_set)
        )
        try:
            if await self._first(fetch):
                fetch.result()
                self._enter(Phase.STARTING)
        except CannotStart as error:
            await self._fail(error.reason, str(error))
        finally:
            fetch.cancel()

    async def _start(self) -> None:
        record = self.record
        if record.running is None:
            if self._devices_busy(self):
                await self._pause()  # a replica that is on its way out still holds them
                return
            record.start_since = self._clock()
            try:
                # The intent, STARTING without a pid, is already on disk.
                await threads.finish(self._start_and_record)
            except CannotStart as error:
                await self._fail(error.reason, str(error))
                return
            self._changed()
        elif not self._runner.alive(record.running):
            await self._fail(ENGINE_EXITED, await self._exit_reason(record.running))
        elif await threads.call(self._runner.listening, record.running):
            self._enter(Phase.PROBING)
        elif self._late():
            await self._fail(START_TIMEOUT, f"not up after {record.spec.start_timeout_s:g} s")
        else:
            await self._pause()

    def _start_and_record(self) -> None:
        self.record.running = self._runner.start(self.record.spec)
        self._store.save(self.record)

    async def _probe(self) -> None:
        record, running = self.record, self.record.running
        assert running is not None
        if not self._runner.alive(running):
            await self._fail(ENGINE_EXITED, await self._exit_reason(running))
            return
        wrong = await threads.call(self._runner.probe, running, record.spec)
        if wrong is None:
            record.engine = await threads.call(self._runner.engine_report, running)
            record.detail = ""
            self._enter(Phase.READY)
        elif self._late():
            await self._fail(PROBE_FAILED, wrong)
        else:
            record.detail = wrong
            await self._pause()

    async def _serve(self) -> None:
        record, running = self.record, self.record.running
        assert running is not None
        while not self._stopping.is_set():
            if not self._runner.alive(running):
                await self._fail(ENGINE_EXITED, await self._exit_reason(running))
                return
            if self._clock() - record.seen_at >= SEEN_EVERY_S:
                record.seen_at = self._clock()
                self._store.save(record)
            await self._pause()

    async def _drain(self) -> None:
        running = self.record.running
        if running is not None:
            await threads.call(self._runner.stop, running, self.record.drain_s or 0.0)
            if self._runner.alive(running):
                raise RuntimeError("the engine does not die")
        self._enter(Phase.STOPPED)

    # --- moves ---------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        now = self._clock()
        log.info("%s: %s -> %s", self.id, self.record.phase, phase)
        self.record.enter(phase, now)
        self.record.seen_at = now
        self._store.save(self.record)
        self._changed()

    async def _fail(self, reason: str, detail: str) -> None:
        record = self.record
        record.close_ready(self._clock())  # what follows is nobody's to pay
        if record.running is not None:
            await threads.finish(self._runner.stop, record.running, 0.0)
            record.log_tail = logs.tail(record.running.log)
        record.reason, record.detail = reason, detail
        log.warning("%s: failed: %s: %s", self.id, reason, detail)
        self._enter(Phase.FAILED)

    async def _exit_reason(self, running: Running) -> str:
        self.record.close_ready(self._clock())
        return await threads.call(self._runner.exit_reason, running)

    def _progress(self, text: str, done: int = 0, total: int = 0) -> None:
        """What people are told of a fetch; the next report carries it."""
        self.record.detail = text
        self.record.bytes_done, self.record.bytes_total = done, total

    def _late(self) -> bool:
        since = self.record.start_since
        if since is None:
            since = self.record.phase_since
        return self._clock() - since > self.record.spec.start_timeout_s

    async def _first(self, future: asyncio.Future[None]) -> bool:
        """Wait for `future` or for the wish to stop; whether it was the future."""
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            waiting: list[asyncio.Future[Any]] = [future, stop]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return future.done()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._stopping.wait()
