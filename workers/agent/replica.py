"""One replica on this node, from the wish to its end.

    fetching ──▶ starting ──▶ probing ──▶ ready ──▶ draining ──▶ stopped
        │            │  ▲        │         │ │          ▲
        │            │  ╰───── asleep ◀────╯ │          │
        ╰────────────┴────┬──────┴───────────┴──────────╯ a stop was asked
                          ▼
                       failed

`failed` and `stopped` are entered only when no process of the engine is left, so the report of
either frees the devices. An engine that sleeps holds them. Every step reads the record and moves
it; a step that was interrupted, by an exception or by the death of the agent, is taken again from
the record.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from controlplane.fleet import wire
from workers.agent import logs, threads
from workers.agent.adapting import Adapting
from workers.agent.answering import Answering
from workers.agent.cleanliness import Cleanliness
from workers.agent.engines import Running
from workers.agent.progress import Progress, Watch
from workers.agent.records import ENDED, Phase, Record, Store
from workers.agent.runner import CannotStart, Runner

log = logging.getLogger("stoa.agent")

POLL_S = 0.25  # how soon the end of an engine is seen
# While somebody waits: what a start that is over, and not seen to be, costs on average is half.
START_POLL_S = 0.05
END_GRACE_S = 8.0  # for an engine to end by itself; what it still runs has the engine's shutdown_s
RETRY_S = 1.0

COMING = frozenset({Phase.FETCHING, Phase.STARTING, Phase.PROBING})
LISTENING = frozenset({Phase.PROBING, Phase.READY, Phase.DRAINING})

# endpoints.states.Reason, which this package may not import.
ENGINE_EXITED = "engine_exited"
ENGINE_MISSING = "engine_missing"
FETCH_FAILED = "fetch_failed"
PROBE_FAILED = "probe_failed"
TOOL_PROBE_FAILED = "tool_probe_failed"
START_TIMEOUT = "start_timeout"
DEVICE_DIRTY = "device_dirty"
WALLS_MISSING = "walls_missing"

# An engine whose parser of tool calls does not suit its tokenizer ends with words of that.
_TOOLS = re.compile(r"tool[-_ ](?:call[-_ ])?parser", re.IGNORECASE)


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
        turn: Callable[[Record], bool] = lambda _: True,
        beside: Callable[[Record], list[str]] = lambda _: [],
        devices: Cleanliness | None = None,
    ) -> None:
        self.record = record
        self.unlisted = False  # nobody wants it; kept until its last log lines are away
        self._store, self._runner, self._clock = store, runner, clock
        self._changed, self._address, self._devices_busy = changed, address, devices_busy
        self._devices, self._turn, self._beside = devices, turn, beside
        self._stopping = asyncio.Event()
        self._nudged = asyncio.Event()  # the wish has changed: look at once
        self._wants_sleep = record.phase is Phase.ASLEEP
        self._rules: tuple[list[str], list[str]] | None = None
        self._watch: Watch | None = None  # of an engine that starts
        self._progress = Progress(clock())
        self.adapting = Adapting(
            record,
            store=store,
            runner=runner,
            clock=clock,
            changed=changed,
            cancelled=self._stopping.is_set,
        )
        if record.drain_s is not None:
            self._stopping.set()

    @property
    def id(self) -> str:
        return self.record.spec.replica_id

    @property
    def ended(self) -> bool:
        return self.record.phase in ENDED

    def request_stop(self, drain_s: float) -> None:
        """Stop it, in whatever phase it is, with up to `drain_s` for its requests. Who asks again
        may only shorten that."""
        record = self.record
        if self.ended or (record.drain_s is not None and record.drain_s <= drain_s):
            return
        record.drain_s = drain_s
        if self._stopping.is_set():
            self._store.save(record)
        self._stopping.set()
        self._nudged.set()

    def request_sleep(self, asleep: bool) -> None:
        """Let it sleep once it serves, or wake it. Asking again changes nothing."""
        if asleep != self._wants_sleep:
            self._wants_sleep = asleep
            self._nudged.set()

    def hear(self, peers: list[wire.Peer], go: bool) -> None:
        """What the wish list says of the other members of its gang."""
        if (self.record.peers, self.record.go) != (peers, go):
            self.record.peers, self.record.go = peers, go
            self._store.save(self.record)

    def let_out(self, destinations: list[str], networks: list[str]) -> None:
        """What it may reach outside, as the wish list has it now."""
        spec = self.record.spec
        if (spec.egress, spec.egress_networks) != (destinations, networks):
            changes = {"egress": destinations, "egress_networks": networks}
            self.record.spec = msgspec.structs.replace(spec, **changes)
            self._store.save(self.record)
            self._nudged.set()

    async def run(self) -> None:
        """Drive the replica to its end; returns then."""
        steps: dict[Phase, Callable[[], Awaitable[None]]] = {
            Phase.FETCHING: self._fetch,
            Phase.STARTING: self._start,
            Phase.PROBING: self._probe,
            Phase.READY: self._serve,
            Phase.ASLEEP: self._rest,
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

    @property
    def _follows(self) -> bool:
        """A gang's member that serves nobody itself."""
        return self.record.spec.seat is not None and self.record.spec.seat.rank > 0

    @property
    def _reached(self) -> bool:
        return self.record.phase in LISTENING and not self._follows

    def report(self) -> wire.ReplicaReport:
        record, running = self.record, self.record.running
        return wire.ReplicaReport(
            replica_id=self.id,
            phase=record.phase,
            reason=record.reason,
            detail=record.detail[:500],
            bytes_done=record.bytes_done,
            bytes_total=record.bytes_total,
            revision=record.revision,
            pid=running.pid if running is not None and not self.ended else 0,
            address=self._address(running) if running and self._reached else "",
            start_tier=record.tier,
            phase_seconds=dict(record.phase_seconds),
            stalled_s=round(self._stalled_s(), 3) if record.phase in COMING else 0.0,
            can_sleep=record.can_sleep,
            start_flags=record.start_flags,
            ready_s=round(record.ready_s(self._clock()), 3),
            meters=True,
            engine=record.engine,
            adapters=[] if self.ended else list(record.adapters),
            proof=record.proof,
            image=running.image if running is not None else "",
            egress=self._reached_outside(),
            log_tail=record.log_tail,
        )

    def _reached_outside(self) -> list[wire.EgressCount]:
        running = self.record.running
        if running is None or not running.container or self.ended:
            return []
        return self._runner.reached(running)

    # --- steps ---------------------------------------------------------------------

    async def _fetch(self) -> None:
        record, spec, given_up = self.record, self.record.spec, False
        if not record.brought and not await threads.call(self._runner.here, spec):
            record.brought = True
            self._store.save(record)
        fetch = asyncio.ensure_future(
            threads.call(
                self._runner.fetch,
                spec,
                self._tell,
                lambda: given_up or self._stopping.is_set(),
            )
        )
        try:
            while not await self._first(fetch, within_s=POLL_S):
                if self._stopping.is_set():
                    return
                if self._late():
                    given_up = True
                    await self._fail(START_TIMEOUT, self._hung(record.detail or "the fetch"))
                    return
            record.revision = fetch.result()
            self._enter(Phase.STARTING)
        except CannotStart as error:
            await self._fail(error.reason, str(error))
        finally:
            fetch.cancel()

    async def _start(self) -> None:
        record = self.record
        if record.running is None:
            if self._devices_busy(self):
                # A replica that is on its way out still holds them.
                if self._late():
                    await self._fail(START_TIMEOUT, self._hung("the wait for its devices"))
                else:
                    await self._pause()
                return
            if not record.go or not self._turn(record):
                # Of a gang nobody starts before each member has what it needs, so that none waits
                # with an engine for another's download; of sharers one at a time. No stall of ours.
                self._progress.told(self._clock())
                await self._pause()
                return
            if not await self._devices_clean():
                return
            self._watch = None
            try:
                # The intent, STARTING without a pid, is already on disk.
                await threads.finish(self._start_and_record)
            except CannotStart as error:
                await self._fail(error.reason, str(error))
                return
            self._changed()
        elif not self._runner.alive(record.running):
            why = await self._exit_reason(record.running)
            await self._fail(TOOL_PROBE_FAILED if _TOOLS.search(why) else ENGINE_EXITED, why)
        elif record.waking:
            await self._wake(record.running)
        elif self._follows:
            self._enter(Phase.READY)  # it computes for rank 0, whose probe proves them all
        elif await threads.call(self._loaded, record.running):
            self._enter(Phase.PROBING)
        elif self._late():
            await self._fail(START_TIMEOUT, self._hung("the engine's start"))
        else:
            await self._pause(START_POLL_S)

    async def _devices_clean(self) -> bool:
        """Whether nothing of an engine before is left on them; one that stays dirty is no place."""
        spec, beside, devices = self.record.spec, self._beside(self.record), self._devices
        verdict = await threads.call(devices.prove, spec, beside) if devices else None
        if verdict is None or not verdict.why:
            return True
        if verdict.over:
            await self._fail(DEVICE_DIRTY, verdict.why)
        elif self._late():
            await self._fail(START_TIMEOUT, verdict.why)
        else:
            self.record.detail = verdict.why
            await self._pause()
        return False

    def _start_and_record(self) -> None:
        record = self.record
        record.running = running = self._runner.start(record.spec)
        record.tier = wire.StartTier.COLD if record.brought else running.tier
        record.start_flags = dict(running.flags)
        self._store.save(record)
        if self._devices is not None:
            self._devices.started(record.spec, running)

    def _loaded(self, running: Running) -> bool:
        """Whether it listens; notes on the way how far its start is."""
        if self._watch is None:
            self._watch = Watch(running, self.record.phase_since, clock=self._clock)
            self._watch.progress = self._progress
            self._progress.told(self._clock())
        self._watch.look()
        listens = self._runner.listening(running)
        if listens:
            self._watch.listens()
        self.record.phase_seconds.update(self._watch.seconds)
        return listens

    async def _probe(self) -> None:
        record, running = self.record, self.record.running
        assert running is not None
        if not self._runner.alive(running):
            await self._fail(ENGINE_EXITED, await self._exit_reason(running))
            return
        wrong = await threads.call(self._runner.probe, running, record.spec)
        if wrong is None:
            if not (record.tier is wire.StartTier.WAKE and record.proof) and not await self._prove(
                running
            ):
                return
            record.engine = await threads.call(self._runner.engine_report, running)
            if record.tier is not wire.StartTier.WAKE:
                record.can_sleep = self._runner.can_sleep(running, record.spec)
            await self.adapting.first()
            record.detail = ""
            self._enter(Phase.READY)
        elif self._late():
            await self._fail(PROBE_FAILED, wrong)
        else:
            record.detail = wrong
            if self._watch is not None:
                await threads.call(self._watch.look)
            await self._pause()

    async def _prove(self, running: Running) -> bool:
        """Whether it can do what its endpoint promises; one that cannot is no replica."""
        try:
            self.record.proof = await threads.call(self._runner.prove, running, self.record.spec)
        except CannotStart as error:
            await self._fail(error.reason, str(error))
        except OSError as error:
            if not self._late():
                self.record.detail = str(error)
                await self._pause()
                return False
            await self._fail(PROBE_FAILED, str(error))
        return not self.ended

    async def _serve(self) -> None:
        record, running = self.record, self.record.running
        assert running is not None
        while not self._stopping.is_set():
            if not self._runner.alive(running):
                await self._fail(ENGINE_EXITED, await self._exit_reason(running))
                return
            if self._wants_sleep and record.can_sleep:
                self._enter(Phase.ASLEEP)  # nobody pays from here on
                return
            self._store.see(record, self._clock())
            self.adapting.tick()
            await self._keep_rules(running)
            await self._pause()

    async def _keep_rules(self, running: Running) -> None:
        """What it may reach outside is as its wish says, whoever wrote that down last."""
        spec = self.record.spec
        rules = (spec.egress, spec.egress_networks)
        if running.container and rules != self._rules:
            await threads.call(self._runner.allow, running, spec)
            self._rules = rules

    async def _rest(self) -> None:
        """Asleep, or on the way there. Again after each interruption: it is safe to repeat."""
        record, running = self.record, self.record.running
        assert running is not None
        sleeps, answering = False, Answering(record.left_at, clock=self._clock)
        while not self._stopping.is_set():
            if not self._runner.alive(running):
                await self._fail(ENGINE_EXITED, await self._exit_reason(running))
                return
            if not self._wants_sleep:
                self._begin_waking()
                return
            if not sleeps and answering.over(await threads.call(self._runner.busy, running)):
                refused = await threads.finish(self._runner.sleep, running)
                if refused is not None:
                    log.warning("%s: it does not sleep: %s", self.id, refused)
                    record.can_sleep, record.detail = False, refused
                    self._begin_waking()
                    return
                sleeps = True
            self._store.see(record, self._clock())
            await self._pause()

    def _begin_waking(self) -> None:
        record = self.record
        record.waking, record.tier = True, wire.StartTier.WAKE
        self._progress = Progress(self._clock())
        self._watch = None
        self._enter(Phase.STARTING)
        record.phase_seconds = {}  # how long it slept is no part of its start

    async def _wake(self, running: Running) -> None:
        wrong = await threads.finish(self._runner.wake, running)
        if wrong is None:
            self.record.waking = False
            self._enter(Phase.PROBING)
        elif self._late():
            await self._fail(PROBE_FAILED, f"it does not wake: {wrong}")
        else:
            self.record.detail = wrong
            await self._pause()

    async def _drain(self) -> None:
        self.adapting.stop()
        running = self.record.running
        if running is not None:
            await self._answer_all(running)
            grace_s = END_GRACE_S if self.record.drain_s else 0.0
            await threads.call(self._runner.stop, running, grace_s)
            if self._runner.alive(running):
                raise RuntimeError("the engine does not die")
        self._enter(Phase.STOPPED)

    async def _answer_all(self, running: Running) -> None:
        """Until its requests are answered and no more will come, or the time for that is up."""
        record = self.record
        if self._follows or not record.left_at:
            return
        answering, closed = Answering(record.left_at, clock=self._clock), False
        while self._runner.alive(running):
            if self._clock() - record.phase_since >= (record.drain_s or 0.0):
                return
            if not answering.over(await threads.call(self._runner.busy, running)):
                await self._pause()
            elif closed:
                return
            else:  # and once more, for who came in just before
                await threads.call(self._runner.close, running)
                closed = True

    # --- moves ---------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        now = self._clock()
        log.info("%s: %s -> %s", self.id, self.record.phase, phase)
        self.record.enter(phase, now)
        self.record.seen_at = now
        self._store.save(self.record)
        if self.ended:
            self._runner.forget(self.id)
        self._changed()

    async def _fail(self, reason: str, detail: str) -> None:
        record = self.record
        record.close_metered(self._clock())  # what follows is nobody's to pay
        if record.running is not None:
            await threads.finish(self._runner.stop, record.running, 0.0)
            record.log_tail = logs.tail(record.running.log)
        record.reason, record.detail = reason, detail
        log.warning("%s: failed: %s: %s", self.id, reason, detail)
        self._enter(Phase.FAILED)

    async def _exit_reason(self, running: Running) -> str:
        self.record.close_metered(self._clock())
        return await threads.call(self._runner.exit_reason, running)

    def _tell(self, text: str, done: int = 0, total: int = 0) -> None:
        """What people are told of a fetch; the next report carries it."""
        record = self.record
        if (text, done, total) != (record.detail, record.bytes_done, record.bytes_total):
            self._progress.told(self._clock())
        # What seemed to be here may be another by now at its source: a branch has moved.
        record.brought |= done > 0
        record.detail, record.bytes_done, record.bytes_total = text, done, total

    def _stalled_s(self) -> float:
        return self._progress.stalled_s(self._clock(), self.record.spec.start_timeout_s)

    def _late(self) -> bool:
        return self._stalled_s() > self.record.spec.start_timeout_s

    def _hung(self, what: str) -> str:
        return f"no progress for {self.record.spec.start_timeout_s:g} s: {what}"

    async def _first(self, future: asyncio.Future[str], within_s: float) -> bool:
        """Wait for `future`, for the wish to stop, or so long; whether it was the future."""
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            waiting: list[asyncio.Future[Any]] = [future, stop]
            await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return future.done()

    async def _pause(self, within_s: float = POLL_S) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._nudged.wait()
        self._nudged.clear()
