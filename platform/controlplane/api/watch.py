"""Agents' long polls: each waits for its own node, and one look serves all who wait.

A look is one statement for every node of which news came since the last one, and every few
seconds for all that wait, because news can be lost with the connection that carries it. A poll
that waits is a future and an entry in a table: no thread, no database connection.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from django.db import Error

from controlplane.api import listener
from controlplane.api.threads import on_thread
from controlplane.fleet import services

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 5.0


class Poll(listener.Waiter):
    """One poll: its answer is the node's version, or None where it was removed."""

    def __init__(self, watch: "Watch", node_id: str, have: int) -> None:
        super().__init__()
        self.watch, self.node_id, self.have = watch, node_id, have
        self.answer: asyncio.Future[int | None] = watch.loop.create_future()

    def wake(self) -> None:
        self.watch.look([self.node_id])

    async def differs(self, within_s: float) -> int | None:
        """The version of the node's wish list once it is not `have`; after `within_s` whatever it
        is; None where the node was removed. Raises django.db.Error."""
        done, _ = await asyncio.wait([self.answer], timeout=within_s)
        return self.answer.result() if done else self.have


class Watch:
    """All polls of this process's event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._polls: defaultdict[str, set[Poll]] = defaultdict(set)
        self._fresh: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def polling(self, node_id: str, have: int) -> AsyncGenerator[Poll]:
        """Who reads the version within hears of each change after it, and need not look again."""
        poll = Poll(self, node_id, have)
        async with listener.current().waiting([node_id], poll):
            self._polls[node_id].add(poll)
            self._look_again()
            try:
                yield poll
            finally:
                self._polls[node_id].discard(poll)
                if not self._polls[node_id]:
                    del self._polls[node_id]
                if poll.answer.done() and not poll.answer.cancelled():
                    poll.answer.exception()  # whoever does not wait for it is not told of it

    def look(self, node_ids: Iterable[str]) -> None:
        """Soon: what comes while a look is under way is for the next one."""
        self._fresh.update(node_ids)
        if self._looking is None:
            self._looking = self.loop.create_task(self._look(), name="stoa-watch")

    async def _look(self) -> None:
        try:
            while self._fresh:
                ids, self._fresh = self._fresh, set()
                try:
                    versions = await on_thread(services.versions, ids)
                except Error as error:
                    self._fail(ids, error)
                    continue
                for id in ids:
                    self._tell(id, versions.get(id))
        finally:
            self._looking = None

    def _tell(self, node_id: str, version: int | None) -> None:
        for poll in self._polls.get(node_id, ()):
            if version != poll.have and not poll.answer.done():
                poll.answer.set_result(version)

    def _fail(self, node_ids: Iterable[str], error: Exception) -> None:
        for id in node_ids:
            for poll in self._polls.get(id, ()):
                if not poll.answer.done():
                    poll.answer.set_exception(error)

    def _look_again(self) -> None:
        """While anybody waits."""
        if self._again is None and self._polls:
            self._again = self.loop.call_later(LOOK_AGAIN_S, self._due)

    def _due(self) -> None:
        self._again = None
        self.look(self._polls)
        self._look_again()


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()


def current() -> Watch:
    """The running event loop's."""
    loop = asyncio.get_running_loop()
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = Watch()
    return watch
