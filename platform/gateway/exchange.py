"""One request and its answer, from the directory to the spool's closing record.

Nothing here is a task while an engine answers: its bytes arrive as a callback and leave in the
same one. A task exists only while a connection is made or an endpoint wakes. However it ends, it
settles once: `_settle` is the only way out of a request that was opened.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine

from gateway import (
    engine_errors,
    engine_times,
    errors,
    reply,
    stream,
    timing,
    typed_events,
    usage,
)
from gateway.answer import Answer
from gateway.books import Short
from gateway.client import Client, Request
from gateway.context import Context
from gateway.directory import Endpoint, Key, Replica
from gateway.entry import Entry
from gateway.errors import ApiError
from gateway.gate import Ask, Pass
from gateway.loads import Place
from gateway.request import Call
from gateway.sizes import Size
from gateway.spare import LineKey
from gateway.spool import SpoolFull
from gateway.turn import Turn
from gateway.upstream import Unreachable, Upstream, post
from gateway.usage import NONE, Usage
from gateway.way import Way

log = logging.getLogger(__name__)

_WHOLE_MAX = 1 << 20  # a longer answer is relayed as it comes
_TAIL = 8 << 10  # of which usage is read
_WAITING = b": waiting\n\n"


class Exchange:
    __slots__ = (
        "_answer", "_ask_for", "_body", "_call", "_client", "_context", "_deaths",
        "_engine_model", "_entry", "_headers", "_loop", "_need", "_paused", "_request",
        "_rewriter", "_sent", "_size", "_stale", "_status", "_task", "_turn", "_upstream",
        "_way", "_wire",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        client: Client,
        request: Request,
        key: Key,
        call: Call,
        endpoint: Endpoint,
        engine_model: str,
        need: Size,
        ask: Ask,
    ) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._call = call
        self._ask_for = ask
        self._entry = entry = Entry(context, request, key, call, endpoint)
        self._engine_model = engine_model
        self._need = need
        self._loop = client.loop
        self._wire = b""
        self._way = way = Way(context, client.loop, key, call, endpoint, need, ask.run)
        self._turn = Turn(context, client, request, key, call, engine_model, need, entry, way)
        self._paused = self._stale = False
        self._upstream: Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._deaths = self._size = self._status = 0  # the last is the engine's
        self._headers: dict[bytes, bytes] = {}
        self._rewriter: stream.Rewriter | None = None
        self._body: list[bytes] = []
        self._answer = Answer(context, client, request)
        self._sent = False  # something of the engine's has left

    # --- to the engine ------------------------------------------------------------------
    def start(self) -> None:
        self._client.running = self
        if self._ask_for.run.refs:
            self._context.stops.running.add(self)
            if self._ask_for.delay_s:
                self._spawn(self._slowed(self._ask_for.delay_s))
                return
        self._come()

    async def _slowed(self, seconds: float) -> None:
        """The runaway brake says so."""
        self._client.touch(seconds + self._context.limits.engine_s)
        await asyncio.sleep(seconds)
        self._entry.timing.queue += seconds
        self._come()

    def _come(self) -> None:
        outcome = self._context.gate.enter(self._ask_for)
        if isinstance(outcome, Pass):
            self._enter(outcome)
        elif isinstance(outcome, Short):
            self._spawn(self._fund(outcome))
        else:
            self._fail(self._context.gate.refusal(self._ask_for, outcome), "refused")

    async def _fund(self, short: Short) -> None:
        try:
            held = await self._context.gate.fund(self._ask_for, self._call, short)
        except ApiError as error:
            self._fail(error, "refused")
        else:
            self._enter(held)

    def _enter(self, held: Pass) -> None:
        self._entry.held = held
        self._turn.come(self)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", self._request.id, exc_info=error)
            self._client.abort()  # and so it settles

    # --- its turn -----------------------------------------------------------------------
    def go(self, replica: Replica) -> None:
        if type(self._turn.key) is LineKey:
            self._context.spare.began(self._entry.endpoint.id, self)
        try:
            self._dispatch(replica)
        except ApiError as error:
            self.turned_away(error)

    def still_waiting(self) -> None:
        self._send(_WAITING)

    def turned_away(self, error: ApiError) -> None:
        self._fail(error, "engine_gone" if self._entry.opened_us else "refused")

    # --- to the engine ------------------------------------------------------------------
    def _dispatch(self, replica: Replica) -> None:
        context = self._context
        self._task = None
        if not self._entry.opened_us:
            self._open(replica)
        self._entry.replica_id = replica.id
        upstream = None if self._stale else context.engines.take(replica)
        if upstream is None:
            self._spawn(self._connect(replica))
        else:
            self._ask(upstream)

    def _open(self, replica: Replica) -> None:
        """Raises ApiError."""
        context = self._context
        salt = context.salts.of(self._turn.key.organization_id)
        body = self._call.wire(self._engine_model, salt)
        if refused_s := context.suspects.refused_for(body, self._loop.time()):
            raise errors.suspect(refused_s)
        try:
            self._entry.open(replica.id)
        except SpoolFull:
            raise errors.spool_full() from None
        self._wire = post(self._call.operation.path, self._entry.identity(), body)
        self._request.sent()
        self._call.fields.clear()

    async def _connect(self, replica: Replica) -> None:
        try:
            upstream = await self._context.engines.connect(replica, new=self._stale)
        except Unreachable as error:
            log.warning("%s", error)
            self._context.metrics.upstream_errors["unreachable"] += 1
            self._way.failed()
            self._try_another()
            return
        self._task = None
        self._ask(upstream)

    def _ask(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._client.touch(self._context.limits.engine_s)
        moments = self._entry.timing
        moments.asked = moments.asked or time.monotonic()
        upstream.send(self, self._wire)

    def _try_another(self) -> None:
        """Only before the first byte: a replica that was not tried yet, else 503."""
        self._way.leave()
        self._stale = False
        self._turn.come_again(self)

    # --- from the engine ------------------------------------------------------------------
    def engine_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status, self._headers = status, headers
        kind = headers.get(b"content-type", b"")
        if status == 200 and self._call.stream and kind.startswith(b"text/event-stream"):
            self._rewriter = typed_events.rewriter(self._call, self._engine_model)

    def engine_data(self, data: bytes, done: bool) -> None:
        moments = self._entry.timing
        if done:
            self._upstream = None
            moments.last = time.monotonic()
        if not self._paused:
            self._client.touch(self._context.limits.engine_s)
        self._way.heard()
        if self._rewriter is not None:
            if not moments.first:
                moments.first = moments.last or time.monotonic()
            self._relay(self._rewriter, data, done)
        elif self._status == 200:
            self._collect(data, done)
        else:
            self._refusal(data, done)

    def engine_lost(self, why: str, kind: str = "lost") -> None:
        upstream, self._upstream = self._upstream, None
        if self._rewriter is not None and self._rewriter.done:
            self._end()  # only the frame's end is missing
            return
        log.warning("%s was lost by %s: %s", self._request.id, self._entry.replica_id, why)
        stale = upstream is not None and upstream.reused and not self._stale and not self._sent
        self._context.metrics.upstream_errors["stale" if stale else kind] += 1
        if self._sent:
            self._way.failed()
            self._cut(errors.engine_gone(), "engine_gone")
            return
        self._forget_answer()
        if stale:
            # The engine had closed an idle connection as we took it: it never saw the request.
            self._stale = True
            assert self._way.lane is not None
            self._dispatch(self._way.lane.replica)
            return
        self._way.failed()
        body = self._wire.partition(b"\r\n\r\n")[2]
        self._context.suspects.died(body, self._entry.replica_id, self._loop.time())
        if self._deaths:
            self._fail(errors.engine_unavailable(self._call.model), "engine_gone")
        else:
            self._deaths += 1
            self._try_another()

    def engine_silent(self) -> None:
        """It has been put out, and there are others; what it has not begun is tried there."""
        if self._sent or self._entry.settled:
            return
        log.warning("%s waits in vain for %s", self._request.id, self._entry.replica_id)
        self._abandon()
        self._forget_answer()
        if self._deaths:
            self._fail(errors.engine_silent(), "engine_timeout")
        else:
            self._deaths += 1
            self._try_another()

    def _forget_answer(self) -> None:
        self._status, self._headers, self._rewriter = 0, {}, None
        self._entry.timing.first = 0.0
        self._body.clear()
        self._size = 0

    def _relay(self, rewriter: stream.Rewriter, data: bytes, done: bool) -> None:
        try:
            out = rewriter.feed(data) + (rewriter.rest() if done else b"")
        except stream.Gone as error:
            self._abandon()
            self.engine_lost(str(error), error.kind)
            return
        if not self._entry.settled:
            if rewriter.done or done:
                # Before the last bytes leave: with them the client knows that it is served.
                used, counted_by = rewriter.delivered()
                finish = "engine_error" if rewriter.failed else "complete"
                moments = self._entry.timing
                moments.last = moments.last or time.monotonic()
                self._entry.told = rewriter.times
                self._settle(200, finish, used, counted_by)
                if self._entry.split and not self._answer.trails:
                    out = timing.comment(self._entry.split) + out
                out = self._entry.remark() + out
            else:
                self._turn.noted(self._entry.note(rewriter))
        if out:
            if not self._sent:
                self._sent = True
                self._way.first_byte()
                self._wire = b""  # no second try from here on
            self._send(out)
        if done:
            self._end()

    def _collect(self, data: bytes, done: bool) -> None:
        """An answer in one piece: kept until it is whole, unless it is very long."""
        self._body.append(data)
        self._size += len(data)
        if not done:
            if self._size > _WHOLE_MAX:
                self._spill()
            return
        body = b"".join(self._body)
        used, counted_by = usage.counted(
            self._call.operation, self._call.size, body, _TAIL, cut=self._sent
        )
        self._entry.told = engine_times.last(body[-_TAIL:])
        self._settle(200, "complete", used, counted_by)
        if self._answer.started:
            self._send(body)
            self._end()
            return
        body = self._named(body)
        lines = self._lines(used)
        self._answer.whole(self._headers.get(b"content-type", reply.JSON), body, lines)

    def _spill(self) -> None:
        """Pass on what was collected, except for the end, where usage stands."""
        body = b"".join(self._body)
        if not self._answer.started:
            body = self._named(body)
        self._sent = True
        self._send(body[:-_TAIL])
        self._body = [body[-_TAIL:]]
        self._size = _WHOLE_MAX - (64 << 10)  # from here on in smaller pieces

    def _named(self, body: bytes) -> bytes:
        names = stream.renaming(self._engine_model, self._call.model)
        return stream.rename(body, names) if names else body

    def _refusal(self, data: bytes, done: bool) -> None:
        self._body.append(data)
        self._size += len(data)
        if self._size > _WHOLE_MAX:
            self._abandon()
            done = True
        if done:
            body = b"".join(self._body)
            if self._status >= 500 and engine_errors.dead(body):
                self.engine_lost("its own word")
                return
            error = engine_errors.translate(
                self._status, body, self._call, self._engine_model, self._need.asked
            )
            if error.status >= 500:
                self._context.metrics.upstream_errors["status"] += 1
            if self._way.refused(self._status, error):
                self._forget_answer()
                self._try_another()
            else:
                self._fail(error, "engine_error" if error.status >= 500 else "refused")

    # --- to the client ------------------------------------------------------------------
    def _send(self, data: bytes) -> None:
        """Part of an answer of unknown length, its head first."""
        if self._answer.started:
            self._answer.part(data)
        else:
            used = self._rewriter.delivered()[0] if self._rewriter is not None else None
            kind = self._headers.get(b"content-type", reply.EVENTS)
            self._answer.begin(kind, self._lines(used), data)

    def _end(self, *, keep_alive: bool = True) -> None:
        if not self._answer.started:
            self._send(b"\n")
        self._answer.end(self._entry.split, keep_alive=keep_alive)

    def _lines(self, used: Usage | None) -> tuple[bytes, ...]:
        """Header lines; `used` is what the engine has reported so far."""
        entry, now = self._entry, time.monotonic()
        millis = (now - entry.timing.arrived) * 1000
        ours = b"openai-organization: %b\r\nopenai-processing-ms: %d\r\n" % (
            self._turn.key.organization_id.encode(), millis,
        )  # fmt: skip
        spent = timing.header(entry.split or entry.timing.split(now))
        one = self._need.prompts < 2 and self._call.operation.counts
        full = self._way.fullness(used) if one else b""
        return ours, spent, self._way.lines(), full, entry.lines()

    # --- ends -----------------------------------------------------------------------------
    def _fail(self, error: ApiError, finish: str) -> None:
        """Nothing of the engine's has left: an error takes the whole answer's place."""
        self._entry.refuse(error)
        if not self._entry.settled:
            self._settle(error.status, finish, NONE, "engine")
        untouched = not (self._answer.started or self._deaths)
        if untouched and self._request.passed_on(error, booked=self._entry.opened_us > 0):
            return
        if self._answer.started:
            self._cut_off(error)
        else:
            self._answer.refuse(error)

    def _cut(self, error: ApiError, finish: str) -> None:
        """The answer ends in its middle: what was delivered is charged."""
        self._entry.code = error.code or ""
        if not self._entry.settled:
            used, counted_by = self._delivered()
            self._settle(200, finish, used, counted_by)
        self._cut_off(error)

    def _cut_off(self, error: ApiError) -> None:
        if self._call.stream:
            self._send(error.event(self._call.operation.shape))
            self._end(keep_alive=False)
        else:
            self._client.abort()  # a body that stops short is the only sign left

    def _delivered(self) -> tuple[Usage, str]:
        if self._rewriter is not None and self._sent:
            return self._rewriter.delivered()
        return NONE, "delivered"

    def _settle(self, status: int, finish: str, used: Usage, counted_by: str) -> None:
        self._way.leave(served=finish == "complete", broke=finish == "engine_error")
        self._turn.ended(used, counted=finish == "complete" and counted_by == "engine")
        now = time.monotonic()
        self._entry.settle(now, status, finish, used, counted_by)
        run, held = self._ask_for.run, self._entry.held
        if type(self._turn.key) is LineKey:
            self._context.spare.ended(self._entry.endpoint.id, self)
        if run.refs:
            self._context.stops.running.discard(self)
            if held is not None and held.cost:
                self._context.brake.paid(run, held.cost, now)

    def _abandon(self) -> None:
        self._turn.leave_queue()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abandon()

    # --- from the client ------------------------------------------------------------------
    def client_gone(self) -> None:
        self._abandon()
        if not self._entry.settled:
            used, counted_by = self._delivered()
            self._settle(499, "client_gone", used, counted_by)

    def gateway_leaves(self) -> None:
        self._leave(errors.draining(), "gateway_gone")

    def _leave(self, error: ApiError, finish: str) -> None:
        self._abandon()
        if self._sent:
            self._cut(error, finish)
        else:
            self._fail(error, finish)

    # --- from its run ---------------------------------------------------------------------
    def belongs(self, project_id: str, ref: str) -> bool:
        return ref in self._ask_for.run.refs and project_id == self._turn.key.project_id

    @property
    def place(self) -> Place:
        """What it takes of its replica."""
        return self._way.place

    def preempted(self) -> None:
        """A line of a batch makes room for somebody who waits."""
        self._leave(errors.preempted(self._call.model), "preempted")

    def stopped(self) -> None:
        self._leave(errors.run_stopped(), "run_stopped")

    def client_slow(self) -> None:
        self._paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def client_ready(self) -> None:
        self._paused = False
        if self._upstream is not None:
            self._upstream.resume()

    def timed_out(self) -> None:
        if self._paused:
            self._client.abort()  # it reads nothing any more
            return
        self._abandon()
        self._context.metrics.upstream_errors["silent"] += 1
        self._way.failed()
        if self._sent:
            self._cut(errors.engine_silent(), "engine_timeout")
        else:
            self._fail(errors.engine_silent(), "engine_timeout")
