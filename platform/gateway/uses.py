"""When each secret of a key was used last: noted in memory, told to PostgreSQL in batches.

Nothing depends on it but what people see before they drop an old secret, so a crash may lose the
last few seconds of it.
"""

import asyncio
import itertools
import logging

import msgspec
import psycopg

from gateway import store, tasks

log = logging.getLogger(__name__)

_PIECE = 2000

# In one order everywhere: two gateways that tell of the same secrets must not lock crosswise.
_INSERT = """
INSERT INTO tenancy_secretuse (secret_id, gateway_id, used_at)
SELECT u ->> 0, %s, to_timestamp((u ->> 1)::float8) FROM jsonb_array_elements(%s::jsonb) u
"""


class Uses:
    """`noted[secret_id] = now` (Unix seconds) is all that a request does."""

    def __init__(self, store: store.Store, gateway_id: str, every_s: float) -> None:
        self.noted: dict[str, float] = {}
        self._store = store
        self._gateway_id = gateway_id
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Tell the rest if PostgreSQL is there."""
        await tasks.end(self._task)
        self._task = None
        try:
            async with asyncio.timeout(1.0):
                await self._tell()
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("the last uses of keys were not told: %s", type(error).__name__)

    async def _run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._tell()
                failing = False
            except Exception as error:  # the next round tells them too
                if not failing:
                    log.warning("uses of keys wait: %s", type(error).__name__)
                failing = True

    async def _tell(self) -> None:
        """A piece at a time: of many thousand secrets, the event loop gets its turn in between."""
        told, self.noted = self.noted, {}
        try:
            while told:
                piece = {id: told[id] for id in itertools.islice(told, _PIECE)}
                rows = msgspec.json.encode(sorted(piece.items())).decode()
                async with self._store.connection() as connection:
                    await connection.execute(_INSERT, (self._gateway_id, rows))
                for id in piece:
                    del told[id]
        except BaseException:
            for id, at in told.items():
                self.noted.setdefault(id, at)
            raise
