"""The engine's side: HTTP/1.1 connections to replicas, kept alive between requests.

A replica is reached over a unix socket on this host, or through its node's relay: TLS under the
region's CA, where the server name says which replica is meant and the relay pipes the bytes.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast
from weakref import WeakValueDictionary

import httptools

from gateway import nodes
from gateway.config import Config
from gateway.directory import Replica
from gateway.limits import Limits
from gateway.tls import ClientTls

DIALS = 4  # handshakes at a time with a relay
HOST_SILENT_S = 15  # what is sent to a node and not acknowledged for so long is lost


class Unreachable(Exception):
    """No connection to the replica could be made."""


def post(path: str, lines: bytes, body: bytes) -> bytes:
    """The bytes of a request. `lines` are header lines with their ends."""
    return (
        b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
        b"%bcontent-length: %d\r\n\r\n%b"
    ) % (path.encode(), lines, len(body), body)


class Listener(Protocol):
    """Who asked the engine. Called in order: head, data until `done`; or `lost` at any time."""

    def engine_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def engine_data(self, data: bytes, done: bool) -> None: ...
    def engine_lost(self, why: str) -> None: ...


class Source(Protocol):
    """What sends a request's body piece by piece. Its connection is not used a second time."""

    def engine_slow(self) -> None: ...
    def engine_ready(self) -> None: ...
    def detach(self) -> None: ...


class Owner(Protocol):
    """Who has the connection between two requests."""

    def keep(self, upstream: "Upstream") -> None: ...
    def forget(self, upstream: "Upstream") -> None: ...


class Upstream(asyncio.Protocol):
    """One connection to one replica, serving one request at a time."""

    __slots__ = (
        "_ended", "_framed", "_head", "_headers", "_lasting", "_owner", "_parser", "_paused",
        "_pieces", "_status", "address", "context", "idle_since", "listener", "replica_id",
        "reused", "shown", "source", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, owner: Owner, replica_id: str, address: str) -> None:
        self._owner = owner
        self.replica_id = replica_id
        self.address = address
        self.listener: Listener | None = None
        self.source: Source | None = None
        self.reused = False
        self.idle_since = 0.0
        self.shown = nodes.NOBODY  # whose relay it leads to
        self.context: ssl.SSLContext | None = None  # with our certificate, where it is a relay's
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._status = 0
        self._head = self._ended = self._framed = self._lasting = self._paused = False

    def send(self, listener: Listener, data: bytes) -> None:
        """Send a whole request; the answer goes to `listener`."""
        self.listener = listener
        self._ended = self._head = False
        self.transport.write(data)

    def write(self, data: bytes) -> None:
        """More of a request whose body comes in pieces."""
        self.transport.write(data)

    def abandon(self) -> None:
        """Give the answer up: the closed connection is what makes an engine stop generating."""
        self.listener = None
        self._detach()
        self.transport.abort()

    def cut(self, why: str) -> None:
        """Its node's certificate counts no more, and nothing that it says from now on does."""
        self._lose(f"the node's certificate {why}")

    def pause(self) -> None:
        """Read no more for now: the client takes nothing. The engine's kernel holds it back."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    # --- asyncio ----------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        listener = self.listener
        if listener is None:
            self.transport.abort()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lose("it does not speak HTTP")
            return
        if self._head:
            self._head = False
            listener.engine_head(self._status, self._headers)
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        else:
            body = b""
        if self._ended:
            self._finish(listener, body)
        elif body and self.listener is listener:
            listener.engine_data(body, False)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.forget(self)
        listener = self.listener
        if listener is None:
            return
        if self._status and not self._framed and error is None and not self._ended:
            # An answer without a length ends with its connection.
            self._finish(listener, b"")
        else:
            self._lose("the connection was closed")

    def pause_writing(self) -> None:
        if self.source is not None:
            self.source.engine_slow()

    def resume_writing(self) -> None:
        if self.source is not None:
            self.source.engine_ready()

    # --- httptools --------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._ended:
            raise ValueError("a second answer")  # the parser turns it into its own error
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        headers = self._headers
        self._framed = b"content-length" in headers or b"transfer-encoding" in headers
        self._lasting = self._framed and self._parser.should_keep_alive()
        self._head = self._status >= 200

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        self._ended = self._status >= 200

    # --- ends -------------------------------------------------------------------------
    def _finish(self, listener: Listener, body: bytes) -> None:
        if self.listener is not listener:
            return  # it gave up while it was told of the head
        self.listener = None
        self._status = 0
        self.resume()
        if self._lasting and not self._detach() and not self.transport.is_closing():
            self._owner.keep(self)
        else:
            self.transport.close()
        listener.engine_data(body, True)

    def _detach(self) -> bool:
        """Whether there was a body in pieces, of which some may not have been sent."""
        source, self.source = self.source, None
        if source is not None:
            source.detach()
        return source is not None

    def _lose(self, why: str) -> None:
        listener, self.listener = self.listener, None
        self._detach()
        self.transport.abort()
        if listener is not None:
            listener.engine_lost(why)


def _watch(transport: asyncio.Transport) -> None:
    """A host that is cut off or dead says nothing: lose it within seconds, so that whoever waits
    for it is answered by another."""
    plain: socket.socket = transport.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 5),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 2),
        (socket.TCP_USER_TIMEOUT, HOST_SILENT_S * 1000),
    ):
        plain.setsockopt(socket.IPPROTO_TCP, option, value)


class Engines:
    """Connections to all replicas that this process talks to."""

    def __init__(
        self,
        config: Config,
        limits: Limits,
        revoked: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """`revoked`: what the directory says of nodes' certificates, now."""
        self._limits = limits
        self._revoked = revoked
        self._far: set[Upstream] = set()  # every connection to a relay
        self._sockets = config.sockets.resolve() if config.sockets else None
        self._idle: dict[str, list[Upstream]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._loop = asyncio.get_running_loop()  # asking for it is a system call each time
        self._tls = ClientTls(config)

    def take(self, replica: Replica) -> Upstream | None:
        """An idle connection to the replica, the one used last."""
        idle = self._idle.get(replica.id)
        while idle:
            upstream = idle.pop()
            if upstream.address == replica.address and self._usable(upstream):
                upstream.reused = True
                return upstream
            upstream.transport.abort()
        return None

    def _usable(self, upstream: Upstream) -> bool:
        """To a relay with certificates, of both sides, that are good now: it cuts what was open
        under one of ours that has ended."""
        if upstream.context is not None and (
            upstream.context is not self._tls.shown or upstream.shown.ends_at <= time.time()
        ):
            return False
        return not upstream.transport.is_closing()

    async def connect(self, replica: Replica, *, new: bool = False) -> Upstream:
        """A new connection; to a relay, unless it must be `new`, also one that comes free first.
        Raises Unreachable."""
        kind, _, where = replica.address.partition(":")
        try:
            async with asyncio.timeout(self._limits.connect_s):
                if kind == "unix":
                    self._check_socket(replica, where)
                    made = partial(Upstream, self, replica.id, replica.address)
                    _, upstream = await self._loop.create_unix_connection(made, where)
                    return upstream
                context = self._tls.context() if kind == "relay" else None
                if context is None:
                    raise Unreachable(f"{replica.id} at {kind}: this gateway has no certificate")
                async with self._turn(replica):
                    freed = None if new else self.take(replica)
                    return freed or await self._dial(replica, where, context)
        except (OSError, TimeoutError, ValueError) as error:
            raise Unreachable(f"{replica.id}: {error}") from error

    def _turn(self, replica: Replica) -> asyncio.Semaphore:
        """A handshake costs more than a request: after a stall, one for each that waits would be
        the next stall, while what they wait for comes free."""
        turn = self._turns.get(replica.id)
        return turn or self._turns.setdefault(replica.id, asyncio.Semaphore(DIALS))

    async def _dial(self, replica: Replica, where: str, context: ssl.SSLContext) -> Upstream:
        host, _, port = where.rpartition(":")
        _, upstream = await self._loop.create_connection(
            partial(Upstream, self, replica.id, replica.address),
            host.strip("[]"),
            int(port),
            ssl=context,
            server_hostname=f"{replica.id.replace('_', '-')}.replica.stoa",
        )
        _watch(upstream.transport)
        upstream.context = context
        self._admit(upstream)
        return upstream

    def _admit(self, upstream: Upstream) -> None:
        """Raises Unreachable for a relay whose certificate was revoked."""
        upstream.shown = nodes.shown(upstream.transport)
        if upstream.shown.revoked(self._revoked()):
            upstream.transport.abort()
            raise Unreachable(f"{upstream.replica_id}: its node's certificate was revoked")
        if not upstream.transport.is_closing():
            self._far.add(upstream)

    def revoke(self, revoked: Mapping[str, float]) -> None:
        """Cut what is open to the relays of nodes whose certificates count no more."""
        for upstream in [one for one in self._far if one.shown.revoked(revoked)]:
            upstream.cut("was revoked")

    def _check_socket(self, replica: Replica, path: str) -> None:
        if self._sockets is None or self._sockets not in Path(path).resolve().parents:
            raise Unreachable(f"{replica.id}: {path} is not below STOA_GATEWAY_SOCKETS")

    def keep(self, upstream: Upstream) -> None:
        upstream.idle_since = self._loop.time()
        self._idle.setdefault(upstream.replica_id, []).append(upstream)

    def forget(self, upstream: Upstream) -> None:
        self._far.discard(upstream)
        idle = self._idle.get(upstream.replica_id)
        if idle and upstream in idle:
            idle.remove(upstream)

    def sweep(self, now: float) -> None:
        """Close what has been idle for so long that the engine may close it at any moment, cut what
        has outlived its node's certificate too long, and look whether ours was renewed."""
        with contextlib.suppress(OSError):  # who connects hears of it
            self._tls.context()
        ended = time.time() - self._limits.expired_s
        for upstream in [one for one in self._far if one.shown.ends_at < ended]:
            upstream.cut("ended, and was not renewed in time for this answer")
        before = now - self._limits.engine_idle_s
        for replica_id, idle in list(self._idle.items()):
            # Oldest first: connections are taken from the end.
            while idle and idle[0].idle_since < before:
                idle.pop(0).transport.close()
            if not idle:
                del self._idle[replica_id]

    def close(self) -> None:
        for idle in self._idle.values():
            for upstream in list(idle):
                upstream.transport.abort()
        self._idle.clear()
