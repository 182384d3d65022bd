"""The metering journal within the agent's loop: one step at a time, and none that holds it up."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from controlplane.fleet.meter_wire import MeterBatch
from workers.agent import threads
from workers.agent.meter import Journal
from workers.agent.records import Record

log = logging.getLogger("stoa.agent")


class Metering:
    """`save` puts a record of a replica on disk."""

    def __init__(self, journal: Journal, save: Callable[[Record], None]) -> None:
        self._journal, self._save = journal, save
        self._turn = asyncio.Lock()
        self._failing = False

    async def keep(self, records: Collection[Record]) -> bool:
        """Have all that is due of these, which are all there are, in the journal.

        False where the disk did not take it: it stays due, and nothing else waits for that.
        """
        async with self._turn:
            pieces = self._journal.due(records)
            if not pieces:
                return True
            ids = {record.spec.replica_id for record in records}
            try:
                await threads.finish(self._journal.write, pieces, ids)
                self._journal.settle(records, self._save)
            except OSError as error:
                if not self._failing:
                    log.error("the metering journal cannot be written: %s", error)
                self._failing = True
                return False
            self._failing = False
            return True

    async def waiting(self) -> list[tuple[Path, MeterBatch]]:
        """What the next report should carry; costs nothing where there is nothing."""
        if not self._journal.news:
            return []
        async with self._turn:
            return await threads.call(self._journal.waiting)

    async def taken(self, sent: Iterable[tuple[Path, MeterBatch]]) -> None:
        """A report that carried these was answered."""
        if paths := [path for path, _ in sent]:
            async with self._turn:
                self._journal.taken(paths)
