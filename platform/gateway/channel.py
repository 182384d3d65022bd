"""The line between a worker and its master: a stream of short frames.

A worker says that it is READY, gives its FIGURES when it is asked for them and when it ends, and
asks for everybody's TOTAL, because it is a worker that answers whoever comes for the metrics.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

READY, FIGURES, TOTAL = b"R", b"F", b"T"
_HEAD = struct.Struct("<cI")
_ASK_S = 3.0


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def frames(buffer: bytearray) -> list[tuple[bytes, bytes]]:
    """The complete frames, which are taken out of `buffer`."""
    found = []
    while len(buffer) >= _HEAD.size:
        kind, length = _HEAD.unpack_from(buffer)
        end = _HEAD.size + length
        if len(buffer) < end:
            break
        found.append((kind, bytes(buffer[_HEAD.size : end])))
        del buffer[:end]
    return found


class Line:
    """A worker's end. Use it in one event loop."""

    def __init__(self, descriptor: int, figures: Callable[[], bytes]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._figures = figures
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked: list[asyncio.Future[bytes]] = []

    async def start(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        self._task = asyncio.create_task(self._listen(reader))

    def ready(self) -> None:
        self._send(READY)

    async def total(self) -> bytes:
        """Everybody's figures; our own when the master does not answer."""
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked.append(waiting)
        self._send(TOTAL)
        try:
            async with asyncio.timeout(_ASK_S):
                return await waiting
        except TimeoutError:
            return self._figures()
        finally:
            self._asked.remove(waiting)

    async def stop(self) -> None:
        """Leave the last figures with the master."""
        if self._writer is None or self._task is None:
            return
        self._send(FIGURES, self._figures())
        with contextlib.suppress(OSError):
            await self._writer.drain()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _send(self, kind: bytes, payload: bytes = b"") -> None:
        assert self._writer is not None
        self._writer.write(frame(kind, payload))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        while data := await reader.read(65536):
            buffer += data
            for kind, payload in frames(buffer):
                if kind == FIGURES:
                    self._send(FIGURES, self._figures())
                elif kind == TOTAL:
                    for waiting in self._asked:
                        if not waiting.done():
                            waiting.set_result(payload)
