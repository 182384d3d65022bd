"""When a replica's adapters are looked at: at once when the wish changes, and now and then."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from controlplane.fleet import wire
from controlplane.fleet.wire import AdapterReport, AdapterState
from workers.agent import threads
from workers.agent.records import Record, Store
from workers.agent.runner import Runner

log = logging.getLogger("stoa.agent")

LOOK_S = 30.0  # between two looks while all is well: the engine may have lost one
RETRY_S = 5.0  # after a failure, doubled with each further one in a row
RETRY_MAX_S = 60.0
# A replica that starts is routable with its adapters, unless these take longer.
FIRST_S = 30.0


class Adapting:
    """One replica's. Its work runs beside what drives the replica, and never fails it."""

    def __init__(
        self,
        record: Record,
        *,
        store: Store,
        runner: Runner,
        clock: Callable[[], float],
        changed: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._record, self._store, self._runner = record, store, runner
        self._clock, self._changed, self._cancelled = clock, changed, cancelled
        self._due = 0.0
        self._failures = 0  # looks in a row that left something undone
        self._task: asyncio.Future[list[AdapterReport]] | None = None
        self._asked: list[wire.Adapter] = []  # what the task was given

    def wish(self, adapters: list[wire.Adapter]) -> None:
        """What the engine should have from now on. The same again changes nothing."""
        record = self._record
        if adapters == record.spec.adapters:
            return
        known = {one.id: one for one in record.adapters}
        record.spec.adapters = adapters
        record.adapters = [known.get(one.id) or _loading(one) for one in adapters]
        self._due, self._failures = 0.0, 0
        self._store.save(record)
        self._changed()

    async def first(self) -> None:
        """Before the replica is routable. Returns when all was tried, or after a while."""
        self.tick()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=FIRST_S)
            self.tick()

    def tick(self) -> None:
        """Take in what came of a look that is over, and begin one that is due. Never waits."""
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            self._over(task)
        running, spec = self._record.running, self._record.spec
        if running is None or not (running.adapters or spec.adapters) or self._clock() < self._due:
            return
        self._asked = spec.adapters
        call = threads.call(self._runner.adapt, running, spec, self._cancelled)
        self._task = asyncio.ensure_future(call)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _over(self, task: asyncio.Future[list[AdapterReport]]) -> None:
        try:
            reports = task.result()
        except Exception as error:  # the engine is busy, or on its way out
            log.info("%s: its adapters were not looked at: %s", self._record.spec.replica_id, error)
            self._later(well=False)
            return
        if self._asked is not self._record.spec.adapters:
            self._due = 0.0  # the wish has changed meanwhile
            return
        self._later(well=all(one.state is AdapterState.LOADED for one in reports))
        if reports != self._record.adapters:
            for one in reports:
                log.info(
                    "%s: adapter %s: %s %s",
                    self._record.spec.replica_id,
                    one.id,
                    one.state,
                    one.detail,
                )
            self._record.adapters = reports
            with contextlib.suppress(OSError):  # a full disk: the next look says it again
                self._store.save(self._record)
            self._changed()

    def _later(self, *, well: bool) -> None:
        self._failures = 0 if well else self._failures + 1
        wait_s = min(RETRY_MAX_S, RETRY_S * 2.0 ** min(self._failures - 1, 10))
        self._due = self._clock() + (LOOK_S if well else wait_s)


def _loading(one: wire.Adapter) -> AdapterReport:
    return AdapterReport(id=one.id, state=AdapterState.LOADING)
