"""Brings close records from the spool to PostgreSQL, each exactly once by its request id.

The gateway's role may insert into the inbox and read nothing, so there is no look-up: a record
that is there already is passed over. What PostgreSQL can never take (a field too long, a NUL) is
put aside in `refused.jsonl` for a person, so that it does not hold up what comes behind it.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import psycopg

from gateway import recovery, store, tasks
from gateway.epochs import Epochs
from gateway.records import CloseRecord
from gateway.spool import Spool

log = logging.getLogger(__name__)

BATCH = 500
_GATHER_S = 0.1
_LOOK_FOR_ORPHANS_S = 30.0
_STOP_S = 3.0

_INSERT = """
INSERT INTO billing_usageinbox (
    request_id, gateway_id, key_id, project_id, endpoint_id, replica_id, operation,
    opened_at, closed_at, status, finish, counted_by,
    input_tokens, cached_tokens, output_tokens, charges, nano_eur, run, agent,
    first_us, decode_us)
SELECT r ->> 1, %s, r ->> 2, r ->> 3, r ->> 4, r ->> 5, r ->> 6,
    'epoch'::timestamptz + (r ->> 7)::int8 * interval '1 microsecond',
    'epoch'::timestamptz + (r ->> 8)::int8 * interval '1 microsecond',
    (r ->> 9)::int4, r ->> 10, r ->> 11,
    (r ->> 12)::int8, (r ->> 13)::int8, (r ->> 14)::int8,
    r -> 15, (r ->> 16)::int8, r ->> 17, r ->> 18,
    nullif((r ->> 19)::int8, 0), nullif((r ->> 20)::int8, 0)
FROM jsonb_array_elements(%s::jsonb) r
ON CONFLICT DO NOTHING
"""


Bury = Callable[[str, Sequence[CloseRecord]], None]


class Source(Protocol):
    """Where closes come from: the live spool, or what a dead process left."""

    async def take(self, limit: int) -> list[CloseRecord]: ...

    def acknowledge(self) -> None: ...


class Shipper:
    def __init__(
        self,
        spool: Spool,
        store: store.Store,
        folder: Path,
        gateway_id: str,
        bury: Bury = lambda name, cut_off: None,
        epochs: Epochs | None = None,
    ) -> None:
        """`folder` is the spool's, in which the folders of dead processes are looked for; `bury`
        is told of each, with what it left open."""
        self.shipped = 0  # records that PostgreSQL has, since the start
        self.refused = 0
        self.connected = False  # whether the last try went through
        self._spool = spool
        self._store = store
        self._folder = folder
        self._gateway_id = gateway_id
        self._orphans: list[recovery.Orphan] = []
        self._bury = bury
        self._buried: set[str] = set()
        self._epochs = epochs
        self._looked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ship what there is, for at most three seconds; the rest is shipped by the next start."""
        await tasks.end(self._task)
        self._task = None
        try:
            async with asyncio.timeout(_STOP_S):
                await self._drain()
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("some usage is left for the next start: %s", type(error).__name__)
        for orphan in self._orphans:
            orphan.release()
        self._orphans = []

    async def _run(self) -> None:
        backoff = store.Backoff()
        failing = False
        while True:
            try:
                self._look_for_orphans()
                await self._drain()
                if self._epochs is not None and await self._epochs.close_older(self._store):
                    self._epochs = None
                if failing:
                    log.info("usage reaches PostgreSQL again")
                failing = False
                backoff.reset()
            except store.AWAY as error:
                if not failing:
                    log.warning("usage waits in the spool: %s", type(error).__name__)
                failing = True
            except Exception:  # whatever it is: what is not shipped is not billed
                if not failing:
                    log.exception("usage waits in the spool")
                failing = True
            self.connected = not failing
            if failing:
                await asyncio.sleep(backoff.next())
            else:
                await self._gather()

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_FOR_ORPHANS_S):
                await self._spool.arrived.wait()
        except TimeoutError:
            return
        if self._spool.backlog < BATCH:
            await asyncio.sleep(_GATHER_S)

    def _look_for_orphans(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= _LOOK_FOR_ORPHANS_S:
            self._orphans += recovery.orphans(self._folder)
            self._looked_at = now

    async def _drain(self) -> None:
        """Ship until nothing is left, taking turns, so that an old backlog delays nobody."""
        self._spool.arrived.clear()
        while True:
            more = await self._ship(self._spool)
            for orphan in list(self._orphans):
                if await self._ship_orphan(orphan):
                    more = True
                else:
                    self._orphans.remove(orphan)
                    self._buried.discard(orphan.name)
                    await asyncio.to_thread(orphan.remove)
            if not more:
                return

    async def _ship_orphan(self, orphan: recovery.Orphan) -> bool:
        await orphan.take(0)
        if orphan.name not in self._buried and orphan.cut_off is not None:
            self._buried.add(orphan.name)
            self._bury(orphan.name, orphan.cut_off)
        return await self._ship(orphan)

    async def _ship(self, source: Source) -> bool:
        """Ship one batch; False when there was nothing. Raises psycopg.Error, OSError."""
        batch = await source.take(BATCH)
        if not batch:
            return False
        await self._insert(batch)
        source.acknowledge()
        self.shipped += len(batch)
        return len(batch) == BATCH or source is not self._spool

    async def _insert(self, batch: list[CloseRecord]) -> None:
        rows = msgspec.json.encode(batch).decode()
        try:
            async with self._store.connection() as connection:
                await connection.execute(_INSERT, (self._gateway_id, rows))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(batch) == 1:
                await asyncio.to_thread(self._put_aside, batch[0], error)
                return
            middle = len(batch) // 2
            await self._insert(batch[:middle])
            await self._insert(batch[middle:])

    def _put_aside(self, record: CloseRecord, error: psycopg.Error) -> None:
        log.error(
            "PostgreSQL refuses the usage of %s (%s); it is kept in refused.jsonl",
            ascii(record.request_id),
            type(error).__name__,
        )
        path = self._folder / "refused.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, msgspec.json.encode(record) + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        self.refused += 1
