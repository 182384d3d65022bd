"""One gateway process: its listeners, its clock, and an orderly end."""

import asyncio
import contextlib
import logging
import time

from gateway import reply
from gateway.activity import Activity
from gateway.client import Client
from gateway.config import Config
from gateway.context import Context
from gateway.hold import Hold
from gateway.keeper import Keeper
from gateway.limits import Limits
from gateway.routes import Routes
from gateway.salts import Salts
from gateway.spool import Spool
from gateway.upstream import Engines

log = logging.getLogger(__name__)

_BACKLOG = 4096
_SWEEP_S = 0.5
_DRAIN_LOOK_S = 0.05
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def context(
    config: Config, limits: Limits, keeper: Keeper, spool: Spool, activity: Activity
) -> Context:
    return Context(
        config=config,
        limits=limits,
        keeper=keeper,
        spool=spool,
        activity=activity,
        engines=Engines(config, limits),
        hold=Hold(keeper, activity, limits.held_per_endpoint),
        salts=Salts(config.pepper),
    )


class Server:
    """Serves what `context` knows. `port` and `metrics_port` hold what was bound."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.port = 0
        self.metrics_port = 0
        self._routes = Routes(context)
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError when a port is taken."""
        config, loop = self.context.config, asyncio.get_running_loop()
        routes = self._routes

        def accept() -> Client:
            return Client(self.context, routes.screen, routes.serve)

        server = await loop.create_server(accept, config.host, config.port, backlog=_BACKLOG)
        self._listeners.append(server)
        self.port = server.sockets[0].getsockname()[1]
        if config.metrics_port:
            figures = await asyncio.start_server(
                self._figures, config.metrics_host, config.metrics_port
            )
            self._listeners.append(figures)
            self.metrics_port = figures.sockets[0].getsockname()[1]
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self) -> None:
        """Accept nothing new, let what runs end for up to `drain_s`, then cut and settle it."""
        context = self.context
        context.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(context.clients):
            connection.drain()
        deadline = time.monotonic() + context.limits.drain_s
        while context.clients and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_LOOK_S)
        if context.clients:
            log.warning("cutting %d connections that did not end in time", len(context.clients))
            for connection in list(context.clients):
                connection.cut()
            await asyncio.sleep(_DRAIN_LOOK_S)  # the errors leave
        for connection in list(context.clients):
            connection.abort()
        await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        context.engines.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = loop.time()
            for connection in list(self.context.clients):
                connection.sweep(now)
            self.context.engines.sweep(now)

    async def _figures(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """GET anything: the metrics. On a listener of its own, so that it stays off the net."""
        context = self.context
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
                gauges = {
                    "connections": float(len(context.clients)),
                    "held": float(context.hold.count),
                    "directory_generation": float(context.keeper.current.generation),
                    "directory_age_seconds": max(0.0, time.time() - context.keeper.contact_at),
                    "spool_healthy": float(context.spool.healthy),
                    "spool_open": float(context.spool.in_flight),
                    "spool_backlog": float(context.spool.backlog),
                }
                body = context.metrics.text(gauges)
                writer.write(reply.whole(200, _METRICS_TYPE, body, keep_alive=False))
                await writer.drain()
        writer.close()
