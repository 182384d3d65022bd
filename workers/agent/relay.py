"""The node's listener on the private network: gateways in, engines' sockets behind.

TLS 1.3 under the region's authority. The caller must show a certificate of that authority which
says that it is a gateway of this region; the name it asks for (SNI) selects the replica. Bytes
pass both ways untouched, and a slow reader slows the writer down.

Other nodes of the region call here too, for a gang's network (gang.py), and get nothing else.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import cast
from weakref import WeakKeyDictionary

from controlplane.fleet import wire
from workers.agent import gang, peers, tls
from workers.agent.credential import Identity
from workers.agent.peers import Peer

log = logging.getLogger("stoa.agent")

SUFFIX = ".replica.stoa"
HANDSHAKE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
LINGER_S = 600.0  # what an answer under way may take when its caller's certificate has ended
_BLOCK = 1 << 18


def server_name(replica_id: str) -> str:
    """The name under which the relay knows a replica."""
    return replica_id.replace("_", "-") + SUFFIX


# (name, node id, stream): a call of another node to one of this node's gangs
Admit = Callable[[str, str, gang.Stream], Awaitable[None]]


class Relay:
    """`socket_of` gives the unix socket of a replica of this node, or None; `admit` takes calls
    of other nodes."""

    def __init__(
        self,
        identity: Identity,
        socket_of: Callable[[str], str | None],
        admit: Admit | None = None,
    ) -> None:
        self._socket_of, self._admit = socket_of, admit
        self._names: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()
        self._role = ""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(cadata=identity.credential.ca_pem)
        self._context.sni_callback = self._named
        self._server: asyncio.Server | None = None
        self._callers: set[_Caller] = set()
        self._revoked: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.use(identity)

    def use(self, identity: Identity) -> None:
        """Show this certificate from the next connection on."""
        self._region = identity.credential.region
        self._role = f"spiffe://stoa/region/{identity.credential.region}/gateway/"
        self._node_role = f"spiffe://stoa/region/{identity.credential.region}/node/"
        self._calls = _calling(identity)
        tls.show(self._context, identity)

    def revoke(self, revoked: Iterable[wire.Revoked]) -> None:
        """Admit these no more, and cut what they have open."""
        self._revoked = peers.names(self._region, revoked)
        for caller in list(self._callers):
            if caller.peer is not None and caller.peer.revoked(self._revoked):
                log.warning("relay: cut %s, whose certificate was revoked", caller.peer)
                caller.transport.abort()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Caller(self._called, self._gone),
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
        )
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def call(self, host: str, port: int, name: str, node_id: str) -> gang.Stream:
        """A connection to the relay of that very node. Raises OSError."""
        reader, protocol = _reading()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            lambda: protocol, host, port, ssl=self._calls, server_hostname=name
        )
        peer = peers.of(transport.get_extra_info("ssl_object"))
        known = self._peer(transport, self._node_role)
        if known != node_id or peer is None or peer.revoked(self._revoked):
            transport.abort()
            raise OSError(f"{host} port {port} is not the node {node_id}")
        return reader, _Writer(transport, protocol, reader, loop)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for caller in list(self._callers):
            caller.transport.abort()

    def _named(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> int | None:
        if isinstance(connection, ssl.SSLObject) and name is not None:
            self._names[connection] = name
            return None
        return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    def _called(self, caller: "_Caller") -> None:
        """By somebody whose certificate is of our authority; whose, is still to be seen."""
        caller.peer = peers.of(caller.transport.get_extra_info("ssl_object"))
        if caller.peer is None or caller.peer.revoked(self._revoked):
            log.warning("relay: refused %s", caller.peer or "a caller without a name of ours")
            caller.transport.abort()
            return
        end_s = peers.left_s(caller.peer) + LINGER_S
        caller.ending = asyncio.get_running_loop().call_later(end_s, caller.transport.abort)
        self._callers.add(caller)
        gang.watch(caller.transport)
        task = asyncio.create_task(self._admit_or_refuse(caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _gone(self, caller: "_Caller") -> None:
        self._callers.discard(caller)
        if caller.ending is not None:
            caller.ending.cancel()

    async def _admit_or_refuse(self, caller: "_Caller") -> None:
        transport, joined = caller.transport, False
        name = self._names.get(transport.get_extra_info("ssl_object"), "")
        try:
            if self._admit is not None and name.endswith(gang.SUFFIX):
                if node_id := self._peer(transport, self._node_role):
                    await self._admit(name, node_id, caller.as_stream())
            elif path := self._engine(name, transport):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await caller.join(path)
                joined = True
        except OSError as error:  # TimeoutError too
            log.info("relay: %s", error)
        finally:
            if not joined:
                self._gone(caller)
                transport.close()

    def _engine(self, name: str, transport: asyncio.Transport) -> str | None:
        """The socket of the engine that this caller may reach."""
        if not self._peer(transport, self._role):
            log.warning("relay: refused a caller that is no gateway of this region")
            return None
        replica_id = name.removesuffix(SUFFIX).replace("-", "_")
        return self._socket_of(replica_id) if name.endswith(SUFFIX) else None

    def _peer(self, transport: asyncio.BaseTransport, role: str) -> str:
        """The id that the other side's certificate gives it in that role; empty if none."""
        certificate = transport.get_extra_info("ssl_object").getpeercert() or {}
        for entry in certificate.get("subjectAltName", ()):
            if len(entry) == 2 and entry[0] == "URI" and str(entry[1]).startswith(role):
                return str(entry[1]).removeprefix(role)
        return ""


def _calling(identity: Identity) -> ssl.SSLContext:
    """For calls to other nodes: who answers is known by the id in its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.credential.ca_pem)
    tls.show(context, identity)
    return context


class _End(asyncio.Protocol):
    """One end of a pipe: what comes in here leaves at the other end. When one end is closed so is
    the other, so that an engine sees a caller's departure; who cannot take more slows the other
    down."""

    transport: asyncio.Transport
    other: "_End | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class _Caller(_End):
    """Who has called. Nothing is read from it before it is known where that goes."""

    peer: Peer | None = None
    ending: asyncio.TimerHandle | None = None

    def __init__(
        self, called: "Callable[[_Caller], None]", gone: "Callable[[_Caller], None]"
    ) -> None:
        self._called, self._gone = called, gone
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._called(self)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)  # was read with the end of the handshake
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._gone(self)

    async def join(self, path: str) -> None:
        """Pipe to and from the unix socket at `path`. Raises OSError."""
        engine = _End()
        engine.other = self
        await asyncio.get_running_loop().create_unix_connection(lambda: engine, path)
        self.other = engine
        engine.transport.writelines(self._early)
        if self.transport.is_closing():
            engine.transport.close()
        else:
            self.transport.resume_reading()

    def as_stream(self) -> gang.Stream:
        """From now on it is read and written as a stream."""
        reader, protocol = _reading()
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        for data in self._early:
            reader.feed_data(data)
        self.transport.resume_reading()
        return reader, _Writer(self.transport, protocol, reader, asyncio.get_running_loop())


class _Writer(asyncio.StreamWriter):
    """A TLS transport that is gone says that it is not closing; asyncio's own writer would then
    complain, when it is collected, that nobody had closed it."""

    def __del__(self) -> None:
        pass


def _reading() -> tuple[asyncio.StreamReader, asyncio.StreamReaderProtocol]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_BLOCK, loop=loop)
    return reader, asyncio.StreamReaderProtocol(reader, loop=loop)
