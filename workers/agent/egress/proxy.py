"""The proxy: it listens, and cuts off what is no longer allowed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from workers.agent.egress import SOCKET
from workers.agent.egress.counts import Counts
from workers.agent.egress.exchange import Exchange, Limits
from workers.agent.egress.policy import Policy, Resolve


class Proxy:
    def __init__(
        self,
        directory: Path,
        *,
        limits: Limits | None = None,
        resolve: Resolve | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._directory, self._limits, self._now = directory, limits or Limits(), now
        self.policy = Policy(directory, resolve)
        self.counts = Counts(directory, now)
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[asyncio.Task[None], tuple[str, int]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        path = self._directory / SOCKET
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._accept, path, limit=self._limits.head_bytes
        )
        self.policy.refresh()
        self.counts.save()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.counts.save()

    def tend(self) -> None:
        """About once a second: what is no longer allowed ends, and the counts are told."""
        self.policy.refresh()
        for task, (host, port) in list(self._under_way.items()):
            if not self.policy.permits(host, port):
                task.cancel()
        self.counts.save()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        exchange = Exchange(self.policy, self.counts, reader, writer, self._limits, self._now)
        exchange.reaches = lambda host, port: self._reaches(task, host, port)
        try:
            await exchange.run(busy=len(self._tasks) > self._limits.connections)
        except asyncio.CancelledError:
            pass  # it was cut off, and nobody waits for it
        finally:
            self._tasks.discard(task)
            self._under_way.pop(task, None)

    def _reaches(self, task: "asyncio.Task[None]", host: str, port: int) -> None:
        self._under_way[task] = (host, port)
