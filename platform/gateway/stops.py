"""Runs that were stopped: what runs of them ends at once on every worker and host, and nothing
more of them is served for a day, or until they are resumed.

A run is named by its project and its reference, so that nobody stops another project's. Requests
without a run cost nothing here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import psycopg

from gateway import errors, store, tasks
from gateway.budgets import Run
from gateway.directory import Directory, StoppedRun

log = logging.getLogger(__name__)

TTL_S = 86_400.0  # as view gateway.stopped_runs has it
_FORGET_AT = 10_000
_AGAIN_S = 1.0
_INSERT = """
INSERT INTO billing_runstop (project_id, run, key_id, gateway_id, stopped)
SELECT t ->> 0, t ->> 1, t ->> 2, %s, (t ->> 3)::boolean
FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS a (t, n) ORDER BY n
"""


class Stoppable(Protocol):
    """An answer under way."""

    def belongs(self, project_id: str, ref: str) -> bool: ...
    def stopped(self) -> None: ...


class Stops:
    """One process's. `clock`: Unix seconds."""

    def __init__(
        self, store: store.Store, gateway_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.running: set[Stoppable] = set()  # what belongs to a run
        self._store = store
        self._gateway_id = gateway_id
        self._clock = clock
        self._known: dict[tuple[str, str], StoppedRun] = {}  # resumed ones too: the last word
        self._untold: list[tuple[str, str, str, bool]] = []
        self._due = asyncio.Event()
        self._telling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def check(self, project_id: str, run: Run) -> None:
        """Raises 403 for a run that is stopped, or is below one."""
        known = self._known
        if not known:
            return
        for ref in run.refs:
            found = known.get((project_id, ref))
            if found is not None and found.stopped and found.at + TTL_S > self._clock():
                raise errors.run_stopped()

    # --- here ---------------------------------------------------------------------------
    def stop(self, project_id: str, ref: str) -> int:
        """On this worker, at once. How many answers it ended."""
        self._note(project_id, ref, stopped=True)
        return self._abort(project_id, ref)

    def resume(self, project_id: str, ref: str) -> None:
        self._note(project_id, ref, stopped=False)

    def _note(self, project_id: str, ref: str, *, stopped: bool) -> None:
        before = self._known.get((project_id, ref))
        # Its row has no number yet: what is newer than the last known one replaces it.
        number = before.id if before is not None else 0
        self._keep(StoppedRun(project_id, ref, number, self._clock(), stopped))

    def _keep(self, one: StoppedRun) -> None:
        if len(self._known) >= _FORGET_AT:
            now = self._clock()
            self._known = {at: old for at, old in self._known.items() if old.at + TTL_S > now}
        self._known[one.project_id, one.run] = one

    def _abort(self, project_id: str, ref: str) -> int:
        found = [one for one in self.running if one.belongs(project_id, ref)]
        for one in found:
            one.stopped()
        return len(found)

    # --- from elsewhere -----------------------------------------------------------------
    def heard(self, payload: str) -> None:
        """`<project> <run> <number> <Unix seconds> <t or f>`, from the table's trigger."""
        try:
            project_id, ref, number, at, stopped = payload.split(" ")
            told = StoppedRun(project_id, ref, int(number), float(at), stopped == "t")
        except ValueError:
            log.warning("a run's stop was not understood")
            return
        self._learn([told])

    def read(self, _: Directory, directory: Directory) -> None:
        """What was told while nobody listened here."""
        self._learn(directory.stopped_runs)

    def _learn(self, told: Iterable[StoppedRun]) -> None:
        for one in told:
            before = self._known.get((one.project_id, one.run))
            if before is not None and before.id >= one.id:
                continue
            self._keep(one)
            if one.stopped and one.at + TTL_S > self._clock():
                self._abort(one.project_id, one.run)

    # --- to the others ------------------------------------------------------------------
    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop_telling(self) -> None:
        await tasks.end(self._task)
        self._task = None

    async def tell(
        self, project_id: str, ref: str, key_id: str, *, stopped: bool, within_s: float
    ) -> bool:
        """Whether the others could be told in time; if not, it is tried until they are."""
        self._untold.append((project_id, ref, key_id, stopped))
        try:
            async with asyncio.timeout(within_s):
                await self._tell()
        except (*store.AWAY, psycopg.Error) as error:
            log.warning("a run's stop was not told: %s", type(error).__name__)
            self._due.set()
            return False
        return True

    def announce(self, project_id: str, ref: str, key_id: str) -> None:
        """Stop it here, and tell the others when there is time."""
        self.stop(project_id, ref)
        self._untold.append((project_id, ref, key_id, True))
        self._due.set()

    async def _tell(self) -> None:
        async with self._telling:
            told = self._untold[:]
            if not told:
                return
            rows = msgspec.json.encode(told).decode()
            async with self._store.connection() as connection:
                await connection.execute(_INSERT, (self._gateway_id, rows))
            del self._untold[: len(told)]

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._tell()
            except Exception:  # it was said above: the next try may do better
                self._due.set()
                await asyncio.sleep(_AGAIN_S)
