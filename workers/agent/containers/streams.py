"""Bytes between two connections, both ways, as they come."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

_EARLY_BYTES = 1 << 16  # what may come before the other side is there


class Side(asyncio.Protocol):
    """One of two ends. A slow reader slows the writer down; the end of one is the end of both, so
    that an engine sees that its caller has left."""

    def __init__(self) -> None:
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._onward is not None:
            self._onward.write(data)
            return
        self._early += data
        if len(self._early) > _EARLY_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._onward is not None:
            self._onward.close()

    def pause_writing(self) -> None:
        if self._onward is not None:
            self._onward.pause_reading()

    def resume_writing(self) -> None:
        if self._onward is not None:
            self._onward.resume_reading()

    def join(self, other: "Side") -> None:
        """Two ends become a pair; what this one has said meanwhile goes first."""
        assert self.transport is not None and other.transport is not None
        self.other, other.other = other, self
        if self.transport.is_closing():
            other.transport.close()
            return
        if len(self._early) > _EARLY_BYTES:
            self.transport.resume_reading()
        if self._early:
            other.transport.write(bytes(self._early))
            self._early.clear()

    @property
    def _onward(self) -> asyncio.Transport | None:
        return self.other.transport if self.other is not None else None


class Caller(Side):
    """A connection that came in. `reach` makes its other side and joins the two; OSError: nobody
    is there, and the caller sees its connection closed without an answer."""

    def __init__(
        self, reach: Callable[[Side], Awaitable[None]], tasks: set[asyncio.Task[None]]
    ) -> None:
        super().__init__()
        self._reach, self._tasks = reach, tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        task = asyncio.create_task(self._join())
        self._tasks.add(task)  # a loop holds its tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _join(self) -> None:
        try:
            await self._reach(self)
        except OSError:
            assert self.transport is not None
            self.transport.abort()
