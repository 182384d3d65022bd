"""A request's entry in the books: opened before an engine hears of it, settled exactly once."""

import time

from gateway.context import Context
from gateway.directory import Endpoint, Key
from gateway.request import Call
from gateway.spool import CloseRecord, OpenRecord
from gateway.stream import Rewriter
from gateway.usage import Usage

_NOTE_EVERY_US = 1_000_000


class Entry:
    """`settle` is the only way out; what was never opened is counted, and charged nothing."""

    __slots__ = (
        "_call", "_context", "_key", "_noted_us", "arrived", "endpoint", "opened_us",
        "replica_id", "request_id", "settled",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        request_id: str,
        arrived: float,
        key: Key,
        call: Call,
        endpoint: Endpoint,
    ) -> None:
        self._context = context
        self._key = key
        self._call = call
        self._noted_us = 0
        self.request_id = request_id
        self.arrived = arrived  # on the loop's clock
        self.endpoint = endpoint
        self.opened_us = 0  # 0: nothing was opened yet
        self.replica_id = ""  # where it was last
        self.settled = False
        context.metrics.in_flight += 1

    def open(self, replica_id: str) -> None:
        """Raises SpoolFull: then nothing may be served."""
        opened_us = time.time_ns() // 1000
        key, endpoint = self._key, self.endpoint
        self._context.spool.open(
            OpenRecord(
                self.request_id, key.id, key.project_id, endpoint.id, replica_id,
                self._call.operation.name, opened_us,
            )
        )  # fmt: skip
        self.opened_us = self._noted_us = opened_us
        self._context.activity.began(endpoint.id)

    def note(self, rewriter: Rewriter) -> None:
        """What has been delivered so far, for the case that this process is killed."""
        now_us = time.time_ns() // 1000
        if now_us - self._noted_us < _NOTE_EVERY_US:
            return
        self._noted_us = now_us
        used, _ = rewriter.delivered()
        args = (used.input, used.cached, used.output)
        self._context.spool.progress(self.request_id, now_us, *args)

    def settle(self, now: float, status: int, finish: str, used: Usage, counted_by: str) -> None:
        """Book the request, once, before its last byte leaves. `now` is on the loop's clock."""
        assert not self.settled
        self.settled = True
        context, call = self._context, self._call
        context.metrics.in_flight -= 1
        operation = call.operation.name
        context.metrics.served(operation, status, finish, used, now - self.arrived)
        if not self.opened_us:
            return
        key, endpoint_id = self._key, self.endpoint.id
        context.activity.ended(endpoint_id)
        context.spool.close(
            CloseRecord(
                self.request_id, key.id, key.project_id, endpoint_id, self.replica_id, operation,
                self.opened_us, time.time_ns() // 1000, status, finish, counted_by,
                used.input, used.cached, used.output,
            )
        )  # fmt: skip
