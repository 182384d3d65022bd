"""One gateway process: its listeners, its clock, and an orderly end."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from typing import Any

from gateway import crowd, gauges, reply
from gateway.access_log import AccessLog
from gateway.activity import Activity
from gateway.admission import Admission
from gateway.brake import Brake
from gateway.channel import Line
from gateway.client import Client
from gateway.config import Config
from gateway.context import Context
from gateway.cuts import Cuts
from gateway.demand import Demands
from gateway.directory import Directory
from gateway.gate import Gate
from gateway.host import Host
from gateway.inherited import Inherited
from gateway.keeper import Keeper
from gateway.limits import Limits
from gateway.outages import Outages
from gateway.patrol import Patrol
from gateway.pools import Pools
from gateway.routes import Routes
from gateway.runs import Runs
from gateway.salts import Salts
from gateway.spare import Spare
from gateway.spool import Spool
from gateway.stops import Stops
from gateway.suspects import Suspects
from gateway.tracer import Tracer
from gateway.upstream import Engines
from gateway.uses import Uses

log = logging.getLogger(__name__)

_BACKLOG = 4096
_SWEEP_S = 0.5
_DRAIN_LOOK_S = 0.05
_IDLE_S = 2.0  # a relieved worker's idle connections may bring one more request for so long
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def context(
    config: Config,
    limits: Limits,
    keeper: Keeper,
    spool: Spool,
    activity: Activity,
    uses: Uses,
    gate: Gate,
    stops: Stops,
    host: Host,
) -> Context:
    pools = Pools(limits.silent_s)
    engines = Engines(config, limits, lambda: keeper.current.revoked)
    keeper.watchers.append(lambda old, new: _revoke(engines, old, new))
    admission = Admission(keeper, activity, pools, limits, host.loads)
    cuts = Cuts(host.loads, time.monotonic)
    spare = Spare(admission, limits.spare_share, cuts)
    activity.demands = Demands(admission.loads, pools, admission.places, spare.load)
    return Context(
        config=config,
        limits=limits,
        keeper=keeper,
        spool=spool,
        activity=activity,
        uses=uses,
        engines=engines,
        admission=admission,
        salts=Salts(config.pepper),
        gate=gate,
        runs=Runs(config.pepper),
        pools=pools,
        stops=stops,
        host=host,
        brake=Brake(host.runs),
        suspects=Suspects(host.suspects),
        spare=spare,
        access=AccessLog() if config.access_log else None,
        tracer=Tracer(config.traces) if config.traces is not None else None,
    )


def _revoke(engines: Engines, old: Directory, new: Directory) -> None:
    if new.revoked != old.revoked:
        engines.revoke(new.revoked)


class Server:
    """Serves what `context` knows. `port` and `metrics_port` hold what was bound."""

    def __init__(
        self,
        context: Context,
        inherited: Inherited | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.context = context
        self._tls = tls
        self._inherited = inherited or Inherited()
        self._line: Line | None = None
        self.port = 0
        self.metrics_port = 0
        self._routes = Routes(context)
        self._patrol = Patrol(
            context.pools, context.engines, context.keeper, Outages(context.host.loads)
        )
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError when a port is taken."""
        config, loop = self.context.config, asyncio.get_running_loop()
        context, routes, most = self.context, self._routes, self.context.limits.connections

        def accept() -> asyncio.Protocol:
            if crowd.admit(context.clients, most):
                return Client(context, routes.screen, routes.serve)
            context.metrics.turned_away += 1
            return crowd.Refused()

        ours = self._inherited
        if ours.channel is not None:
            self._line = Line(ours.channel, self.figures)
            await self._line.start()
        limits = self.context.limits
        how: dict[str, Any] = {"backlog": _BACKLOG, "ssl": self._tls}
        if self._tls is not None:
            how["ssl_handshake_timeout"] = limits.header_s
            how["ssl_shutdown_timeout"] = limits.linger_s
        for listener in ours.listeners:
            sock = socket.socket(fileno=listener)
            self._listeners.append(await loop.create_server(accept, sock=sock, **how))
        if not ours.listeners:
            server = await loop.create_server(accept, config.host, config.port, **how)
            self._listeners.append(server)
        self.port = self._listeners[0].sockets[0].getsockname()[1]
        if figures := await self._start_metrics():
            self._listeners.append(figures)
            self.metrics_port = figures.sockets[0].getsockname()[1]
        self._sweeper = asyncio.create_task(self._sweep())
        if self.context.access is not None:
            self.context.access.start()
        if self.context.tracer is not None:
            self.context.tracer.start()
        if self._line is not None:
            self._line.ready()

    async def _start_metrics(self) -> asyncio.Server | None:
        config = self.context.config
        if self._inherited.metrics is not None:
            sock = socket.socket(fileno=self._inherited.metrics)
            return await asyncio.start_server(self._answer_figures, sock=sock)
        if self._inherited.channel is not None or not config.metrics_port:
            return None
        return await asyncio.start_server(
            self._answer_figures, config.metrics_host, config.metrics_port
        )

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Accept nothing new, let what runs end for up to `drain_s`, then cut and settle it.

        With `hurry`, others accept in our place: a client whose connection is idle may be about
        to use it, and is given a moment to do so, until `hurry` is set.
        """
        context = self.context
        context.draining = True
        for listener in self._listeners:
            listener.close()
        if hurry is not None and context.clients:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), min(_IDLE_S, context.limits.drain_s / 2))
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
        await self._patrol.stop()
        context.engines.close()
        if context.access is not None:
            await context.access.stop()
        if context.tracer is not None:
            await asyncio.to_thread(context.tracer.stop)
        if self._line is not None:
            await self._line.stop()

    async def _sweep(self) -> None:
        loop, directory = asyncio.get_running_loop(), self.context.keeper.current
        while True:
            await asyncio.sleep(_SWEEP_S)
            if self.context.keeper.current is not directory:
                directory = self.context.keeper.current
                self.context.metrics.forget(directory.has)
            self.context.gate.forget(directory)
            now = loop.time()
            self._sweep_clients(now)
            self.context.engines.sweep(now)
            self.context.activity.look()
            self._patrol.round(now)

    def _sweep_clients(self, now: float) -> None:
        """In a frame of its own: it would keep the last one, and its directory, until the next."""
        for connection in list(self.context.clients):
            connection.sweep(now)

    def figures(self) -> bytes:
        """Our own, in Prometheus' text."""
        context = self.context
        context.metrics.forget(context.keeper.current.has)
        return context.metrics.text(gauges.of(context))

    async def _answer_figures(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """GET anything: the metrics. On a listener of its own, so that it stays off the net."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
                body = self.figures() if self._line is None else await self._line.total()
                writer.write(reply.whole(200, _METRICS_TYPE, body, keep_alive=False))
                await writer.drain()
        writer.close()
