"""Looks after replicas between requests: who fell silent, and whether who failed is back.

Where no request can tell, it sends the smallest inference itself: an engine may answer its health
page, and whoever waits for a whole answer cannot see whether it still works.
"""

import asyncio
import logging

from gateway import operations, tasks
from gateway.keeper import Keeper
from gateway.outages import Outages
from gateway.outliers import LOST, REFUSED
from gateway.pools import Pool, Pools
from gateway.router import Lane
from gateway.upstream import Engines, Unreachable, Upstream, post

log = logging.getLogger(__name__)

_NAME = b"x-request-id: probe\r\n"
_ASK = b'{"model":"%b","prompt":"a","max_tokens":1}'


class Probe:
    """One token from one replica. Over, however it ends, when its ticket is."""

    def __init__(self, engines: Engines, pool: Pool, lane: Lane) -> None:
        self._engines = engines
        self._pool = pool
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._upstream: Upstream | None = None
        self._status = 0
        self.over = False
        self._ticket = pool.probing(lane, self._loop.time())
        self._ticket.owner = self

    async def send(self) -> None:
        lane, endpoint_id = self._lane, self._lane.replica.endpoint_id
        try:
            upstream = await self._engines.connect(lane.replica, new=True)
        except Unreachable:
            self._failed()
            return
        if self.over:
            upstream.abandon()
            return
        self._upstream = upstream
        path = operations.COMPLETIONS.path
        upstream.send(self, post(path, _NAME, _ASK % endpoint_id.encode()))

    def engine_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status

    def engine_data(self, data: bytes, done: bool) -> None:
        self._lane.heard = True
        if not done:
            return
        self._upstream = None
        if self._status >= 500 and self._status != 503:
            self._failed(REFUSED)
            return
        # It may be no engine that generates text: then only real requests can tell.
        self._lane.mute = 400 <= self._status < 500 and self._status != 429
        self._end(served=self._status == 200)

    def engine_lost(self, why: str) -> None:
        self._failed()

    def engine_silent(self) -> None:
        self.close()

    def close(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abandon()
        self._end(served=False)

    def _end(self, *, served: bool) -> None:
        if not self.over:
            self.over = True
            self._lane.end(self._ticket, self._loop.time(), served=served)

    def _failed(self, limit: int = LOST) -> None:
        if not self.over:
            self.over = True
            self._pool.failed(self._ticket, self._loop.time(), limit)


class Patrol:
    def __init__(self, pools: Pools, engines: Engines, keeper: Keeper, outages: Outages) -> None:
        self._pools = pools
        self._outages = outages
        self._engines = engines
        self._keeper = keeper
        self._probes: dict[asyncio.Task[None], Probe] = {}

    def round(self, now: float) -> None:
        self._pools.keep(self._keeper.current)
        for pool in self._pools.all():
            for ticket in pool.patrol(now):
                if ticket.owner is not None:
                    ticket.owner.engine_silent()
            for lane in pool.doubtful(now):
                probe = Probe(self._engines, pool, lane)
                self._probes[asyncio.create_task(probe.send())] = probe
        self._outages.round(self._pools.all(), now)
        for task, probe in list(self._probes.items()):
            if not task.done():
                continue
            if (error := task.exception()) is not None:
                log.error("a probe failed", exc_info=error)
                probe.close()
            if probe.over:
                del self._probes[task]

    async def stop(self) -> None:
        for probe in self._probes.values():
            probe.close()
        await tasks.end(*self._probes)
        self._probes.clear()
