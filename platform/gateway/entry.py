"""A request's entry in the books: opened before an engine hears of it, settled exactly once."""

import time

from gateway.access_log import Line
from gateway.budgets import NO_RUN, Run
from gateway.client import Request
from gateway.context import Context
from gateway.directory import Endpoint, Key
from gateway.engine_times import EngineTimes
from gateway.errors import ApiError
from gateway.gate import Pass, euro
from gateway.records import Charge
from gateway.request import Call
from gateway.spans import Finished
from gateway.spare import LineKey
from gateway.spool import CloseRecord, OpenRecord
from gateway.stream import Rewriter
from gateway.timing import Split, pace
from gateway.trace import Trace
from gateway.usage import Usage

_NOTE_EVERY_US = 1_000_000


class Entry:
    """`settle` is the only way out; what was never opened is counted, and charged nothing."""

    __slots__ = (
        "_call", "_context", "_id", "_key", "_noted_us", "_trace", "code", "endpoint", "held",
        "opened_us", "replica_id", "request_id", "settled", "split", "timing", "told",
    )  # fmt: skip

    def __init__(
        self, context: Context, request: Request, key: Key, call: Call, endpoint: Endpoint
    ) -> None:
        self._context = context
        self._key = key
        self._call = call
        self._noted_us = 0
        tracer = context.tracer
        self._trace = None if tracer is None else tracer.begin(request.headers)
        self._id = request.id  # as client and engine have it
        self.request_id = request.entry_id
        self.timing = request.timing
        self.told: EngineTimes | None = None  # the engine's own account of it
        self.code = ""  # of the error that it ended with
        self.split: Split | None = None  # once it is settled
        self.endpoint = endpoint
        self.opened_us = 0  # 0: nothing was opened yet
        self.held: Pass | None = None  # of limits and budgets
        self.replica_id = ""  # where it was last
        self.settled = False
        context.metrics.in_flight += 1

    def identity(self) -> bytes:
        """Header lines by which the engine's own log and spans can be found."""
        lines = b"x-request-id: %b\r\n" % self._id.encode()
        return lines if self._trace is None else lines + self._trace.header()

    def open(self, replica_id: str) -> None:
        """Raises SpoolFull: then nothing may be served."""
        opened_us = time.time_ns() // 1000
        key, endpoint = self._key, self.endpoint
        charges: tuple[Charge, ...] = ()
        prices, run = (0, 0, 0), NO_RUN
        if (held := self.held) is not None:
            run, cost = held.ask.run, held.ask.prices
            prices = cost.input, cost.cached, cost.output
            charges = held.reserved.charges() if held.reserved is not None else ()
        self._context.spool.open(
            OpenRecord(
                self.request_id, key.id, key.project_id, endpoint.id, replica_id,
                self._call.operation.name, opened_us, charges, prices, run.path, run.agent,
            )
        )  # fmt: skip
        self.opened_us = self._noted_us = opened_us
        self._context.activity.began(endpoint.id, line=type(key) is LineKey)

    def note(self, rewriter: Rewriter) -> Usage | None:
        """What has been delivered so far, for the case that this process is killed.

        Once a second; None in between."""
        now_us = time.time_ns() // 1000
        if now_us - self._noted_us < _NOTE_EVERY_US:
            return None
        self._noted_us = now_us
        used, _ = rewriter.delivered()
        args = (used.input, used.cached, used.output)
        self._context.spool.progress(self.request_id, now_us, *args)
        return used

    def refuse(self, error: ApiError) -> None:
        """Nothing but the error will leave."""
        self.code = error.code or ""
        self._context.metrics.refusal(error.code)

    def settle(self, now: float, status: int, finish: str, used: Usage, counted_by: str) -> None:
        """Book the request, once, before its last byte leaves. `now` is on the timing's clock."""
        assert not self.settled
        self.settled = True
        context, call, timing = self._context, self._call, self.timing
        context.metrics.in_flight -= 1
        operation = call.operation.name
        split = self.split = timing.split(now, self.told, decodes=call.operation.generates)
        series = context.metrics.of(operation, self.endpoint)
        series.count(status, finish, used, timing, split, now)
        if context.access is not None:
            context.access.add(self._line(now, status, finish, used, counted_by, split))
        if self._trace is not None and self._trace.sampled:
            self._tell(self._trace, now, status, used)
        charges, nano_eur, run = self._pay(used)
        if not self.opened_us:
            return
        key, endpoint_id = self._key, self.endpoint.id
        context.activity.ended(endpoint_id, line=type(key) is LineKey)
        context.spool.close(
            CloseRecord(
                self.request_id, key.id, key.project_id, endpoint_id, self.replica_id, operation,
                self.opened_us, time.time_ns() // 1000, status, finish, counted_by,
                used.input, used.cached, used.output, charges, nano_eur, run.path, run.agent,
                *pace(split),
            )
        )  # fmt: skip

    def _line(
        self, now: float, status: int, finish: str, used: Usage, counted_by: str, split: Split
    ) -> Line:
        key, call, endpoint = self._key, self._call, self.endpoint
        return Line(
            time.time(), self.request_id, call.operation.name, status,
            (now - self.timing.arrived) * 1000, self.code,
            key.organization_id, key.project_id, key.id,
            call.model, endpoint.id, self.replica_id, call.stream, finish, counted_by,
            used.input, used.cached, used.output, *split,
        )  # fmt: skip

    def _tell(self, trace: Trace, now: float, status: int, used: Usage) -> None:
        moments, key, call, endpoint = self.timing, self._key, self._call, self.endpoint
        offset = time.time() - now

        def unix_ns(moment: float) -> int:
            return int((moment + offset) * 1e9) if moment else 0

        assert self._context.tracer is not None
        self._context.tracer.add(
            Finished(
                trace, self.request_id, call.operation.path, call.operation.name, key.project_id,
                endpoint.id, self.replica_id, call.model, endpoint.model, call.stream, call.choices,
                status, self.code, used, unix_ns(moments.arrived), unix_ns(moments.asked),
                unix_ns(moments.first), unix_ns(moments.last), unix_ns(now), moments.queue,
                moments.wake,
            )
        )  # fmt: skip

    def lines(self) -> bytes:
        """Header lines: what is left of limits and budgets, and the cost once it is known."""
        held = self.held
        if held is None:
            return b""
        lines = self._context.gate.headers(held)
        if self.settled:
            lines += b"x-stoa-cost: %b\r\n" % euro(held.cost)
        return lines

    def remark(self) -> bytes:
        """The cost of a stream, whose head has left: a comment among its events."""
        return b": x-stoa-cost: %b\n" % euro(self.held.cost) if self.held is not None else b""

    def _pay(self, used: Usage) -> tuple[tuple[Charge, ...], int, Run]:
        """Before the close is written: a death in between makes counters too careful, no more."""
        held = self.held
        if held is None:
            return (), 0, NO_RUN
        gate = self._context.gate
        if not self.opened_us:
            gate.leave(held)
            return (), 0, held.ask.run
        charges = gate.settle(held, used)
        return charges, held.cost, held.ask.run
