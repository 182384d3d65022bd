"""Models to be in the cache before a replica needs them: one at a time, beside everything else."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from controlplane.fleet import wire
from workers.agent import threads
from workers.agent.runner import CannotStart, Runner

log = logging.getLogger("stoa.agent")

FETCH_FAILED = "fetch_failed"  # endpoints.states.Reason


class Pulls:
    """Follows the wish list. Nothing is kept over a restart: the wish comes again, and what is
    here already is found at once."""

    def __init__(self, runner: Runner, changed: Callable[[], None]) -> None:
        self._runner, self._changed = runner, changed
        self._reports: dict[str, wire.PullReport] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(1)

    def apply(self, wished: Sequence[wire.Pull]) -> None:
        listed = {pull.pull_id: pull for pull in wished}
        for gone in self._reports.keys() - listed.keys():
            self._tasks.pop(gone).cancel()
            del self._reports[gone]
        for pull in listed.values():
            if pull.pull_id not in self._reports:
                self._reports[pull.pull_id] = wire.PullReport(pull_id=pull.pull_id)
                self._tasks[pull.pull_id] = asyncio.create_task(self._run(pull), name=pull.pull_id)

    def reports(self) -> list[wire.PullReport]:
        return list(self._reports.values())

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _run(self, pull: wire.Pull) -> None:
        report = self._reports[pull.pull_id]
        over = False

        def progress(text: str, done: int = 0, total: int = 0) -> None:
            report.bytes_done, report.bytes_total = done, total

        async with self._turn:
            report.state = wire.PullState.FETCHING
            self._changed()
            try:
                fetched = threads.call(self._runner.pull, pull, progress, lambda: over)
                report.revision = await fetched
                report.state = wire.PullState.READY
            except CannotStart as error:
                report.reason, report.detail = error.reason, str(error)[:500]
                report.state = wire.PullState.FAILED
            except Exception as error:
                log.exception("%s: the pull did not work", pull.pull_id)
                report.reason, report.detail = FETCH_FAILED, type(error).__name__
                report.state = wire.PullState.FAILED
            finally:
                over = True
            self._changed()
