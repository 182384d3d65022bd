"""Tells PostgreSQL which replicas this gateway has come to route to: the end of each start.

Who tells it first of all gateways counts the start in its metrics. Nothing depends on it but what
people see of starts, so what is not told once is not told again.
"""

import asyncio
import logging

import psycopg

from gateway import tasks
from gateway.directory import Directory
from gateway.metrics import Metrics
from gateway.store import Store

log = logging.getLogger(__name__)

_TELL = "SELECT tier, seconds, missed FROM endpoints_note_routed(%s)"


class Routed:
    """`changed` is a keeper's watcher."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._known: set[str] = set()
        self._new: set[str] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def changed(self, before: Directory, after: Directory) -> None:
        now = {one.id for endpoint in after.every_endpoint() for one in endpoint.replicas}
        if new := now - self._known:
            self._new |= new
            self._news.set()
        self._known = now

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        await tasks.end(self._task)
        self._task = None

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            told, self._new = self._new, set()
            try:
                async with self._store.connection() as connection:
                    rows = await connection.execute(_TELL, (sorted(told),))
                    for tier, seconds, missed in await rows.fetchall():
                        self._metrics.started(str(tier), float(str(seconds)), bool(missed))
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.info("nobody was told of %d replicas: %s", len(told), type(error).__name__)
