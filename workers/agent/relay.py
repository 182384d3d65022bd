"""The node's listener on the private network: gateways in, engines' sockets behind.

TLS 1.3 under the region's authority. The caller must show a certificate of that authority which
says that it is a gateway of this region; the name it asks for (SNI) selects the replica. Bytes
pass both ways untouched, and a slow reader slows the writer down.

Other nodes of the region call here too, for a gang's network (gang.py), and get nothing else.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from workers.agent import gang, tls
from workers.agent.credential import Identity

log = logging.getLogger("stoa.agent")

SUFFIX = ".replica.stoa"
HANDSHAKE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
_BLOCK = 1 << 16


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
        self._open: set[asyncio.Task[None]] = set()
        self.use(identity)

    def use(self, identity: Identity) -> None:
        """Show this certificate from the next connection on."""
        self._role = f"spiffe://stoa/region/{identity.credential.region}/gateway/"
        self._node_role = f"spiffe://stoa/region/{identity.credential.region}/node/"
        self._calls = _calling(identity)
        tls.show(self._context, identity)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        self._server = await asyncio.start_server(
            self._serve,
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            limit=_BLOCK,
        )
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def call(self, host: str, port: int, name: str, node_id: str) -> gang.Stream:
        """A connection to the relay of that very node. Raises OSError."""
        stream = await asyncio.open_connection(
            host, port, ssl=self._calls, server_hostname=name, limit=1 << 18
        )
        if self._peer(stream[1], self._node_role) != node_id:
            stream[1].close()
            raise OSError(f"{host} port {port} is not the node {node_id}")
        return stream

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _named(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> int | None:
        if isinstance(connection, ssl.SSLObject) and name is not None:
            self._names[connection] = name
            return None
        return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            name = self._names.get(writer.get_extra_info("ssl_object"), "")
            if self._admit is not None and name.endswith(gang.SUFFIX):
                if node_id := self._peer(writer, self._node_role):
                    await self._admit(name, node_id, (reader, writer))
            elif (engine := await self._engine(name, writer)) is not None:
                await _join((reader, writer), engine)
        except OSError as error:
            log.info("relay: %s", error)
        except asyncio.CancelledError:
            pass  # the relay stops; a callback has nobody to tell
        finally:
            self._open.discard(task)
            writer.close()

    async def _engine(self, name: str, writer: asyncio.StreamWriter) -> gang.Stream | None:
        """A connection to the engine that this caller may reach."""
        if not self._peer(writer, self._role):
            log.warning("relay: refused a caller that is no gateway of this region")
            return None
        replica_id = name.removesuffix(SUFFIX).replace("-", "_")
        path = self._socket_of(replica_id) if name.endswith(SUFFIX) else None
        if path is None:
            return None
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_unix_connection(path, limit=_BLOCK)

    def _peer(self, writer: asyncio.StreamWriter, role: str) -> str:
        """The id that the other side's certificate gives it in that role; empty if none."""
        certificate = writer.get_extra_info("ssl_object").getpeercert() or {}
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


async def _join(caller: gang.Stream, engine: gang.Stream) -> None:
    """Pipe until either side ends; then both do, so that the engine sees a caller's departure."""
    up = asyncio.create_task(_pipe(caller[0], engine[1]))
    down = asyncio.create_task(_pipe(engine[0], caller[1]))
    try:
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        engine[1].close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()
