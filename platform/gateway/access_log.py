"""One line of JSON on standard output for each request: ids and figures, no content.

What a client names itself, its `user`, `metadata`, run and agent, is personal data and stays out.
Lines are written by a thread, many at once: a full pipe never stops the event loop, and
what does not fit in memory any more is dropped and counted.
"""

import asyncio
import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable

import msgspec

_EVERY_S = 0.1
_PENDING = 20_000  # lines
_STOP_S = 2.0
# A pipe takes so much as one: lines of several processes do not get mixed up.
_PIECE = select.PIPE_BUF


class Line(msgspec.Struct, gc=False, omit_defaults=True):
    """Times in milliseconds, `time` in Unix seconds. What is empty is left out."""

    time: float
    request: str
    operation: str  # one of gateway.operations, or a page's name
    status: int
    ms: float  # all of it
    code: str = ""  # of a refusal, or of the error that cut the answer
    organization: str = ""
    project: str = ""
    key: str = ""
    model: str = ""  # an endpoint of the directory, as it was asked for
    endpoint: str = ""
    replica: str = ""
    stream: bool = False
    finish: str = ""
    counted_by: str = ""
    input: int = 0
    cached: int = 0
    output: int = 0
    queue_ms: float = 0.0
    wake_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float | None = None
    gateway_ms: float = 0.0


def to_stdout(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


class AccessLog:
    """`add` in the event loop that called `start`."""

    def __init__(self, write: Callable[[bytes], None] = to_stdout) -> None:
        self.dropped = 0
        self._write = write
        self._encoder = msgspec.json.Encoder()
        self._lines = bytearray()
        self._count = 0  # lines in it
        self._batches: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        self._handed = 0  # lines, to the thread
        self._done = 0  # … by the thread
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Returns when all is written, or standard output takes no more."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._flush()
        self._batches.put(None)
        await asyncio.to_thread(thread.join, _STOP_S)

    def add(self, line: Line) -> None:
        if self._handed - self._done + self._count >= _PENDING:
            self.dropped += 1
            return
        # At once, while all of it is in the processor's cache: later it takes twice as long.
        self._encoder.encode_into(line, self._lines, -1)
        self._lines += b"\n"
        self._count += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            batch = self._lines, self._count
            self._lines, self._count = bytearray(), 0
            self._handed += batch[1]
            self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            data, count = bytes(batch[0]), batch[1]
            with contextlib.suppress(OSError):  # nobody reads it, or the disk is full
                at = 0
                while at < len(data):
                    end = data.rfind(b"\n", at, at + _PIECE) + 1 or data.find(b"\n", at) + 1
                    self._write(data[at:end])
                    at = end
            self._done += count
