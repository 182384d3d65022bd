"""Telling PostgreSQL what was gathered, in rounds; in an outage it waits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import psycopg

from gateway import tasks

log = logging.getLogger(__name__)


class Telling:
    """Calls `tell` every so many seconds; what that fails to tell, it keeps for the next round."""

    def __init__(self, what: str, tell: Callable[[], Awaitable[None]], every_s: float) -> None:
        self._what = what  # in a log: "uses of keys"
        self._tell = tell
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Tell the rest if PostgreSQL is there."""
        await tasks.end(self._task)
        self._task = None
        try:
            async with asyncio.timeout(1.0):
                await self._tell()
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("the last %s were not told: %s", self._what, type(error).__name__)

    async def _run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._tell()
                failing = False
            except Exception as error:  # the next round tells them too
                if not failing:
                    log.warning("%s wait: %s", self._what, type(error).__name__)
                failing = True
