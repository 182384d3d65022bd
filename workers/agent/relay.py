"""The node's listener on the private network: gateways in, engines' sockets behind.

TLS 1.3 under the region's authority. The caller must show a certificate of that authority which
says that it is a gateway of this region; the name it asks for (SNI) selects the replica. Bytes
pass both ways untouched, and a slow reader slows the writer down.
"""

import asyncio
import logging
import ssl
import tempfile
from collections.abc import Callable
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives import serialization

from workers.agent.credential import Identity

log = logging.getLogger("stoa.agent")

SUFFIX = ".replica.stoa"
HANDSHAKE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
_BLOCK = 1 << 16


def server_name(replica_id: str) -> str:
    """The name under which the relay knows a replica."""
    return replica_id.replace("_", "-") + SUFFIX


class Relay:
    """`socket_of` gives the unix socket of a replica of this node, or None."""

    def __init__(self, identity: Identity, socket_of: Callable[[str], str | None]) -> None:
        self._socket_of = socket_of
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
        # OpenSSL takes a chain from a file alone; this one is gone when it has read it.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600
            file.write(identity.key_pem())
            file.write(identity.certificate.public_bytes(serialization.Encoding.PEM))
            file.flush()
            self._context.load_cert_chain(file.name)

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
            engine = await self._engine(writer)
            if engine is not None:
                await _join((reader, writer), engine)
        except OSError as error:
            log.info("relay: %s", error)
        except asyncio.CancelledError:
            pass  # the relay stops; a callback has nobody to tell
        finally:
            self._open.discard(task)
            writer.close()

    async def _engine(
        self, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the engine that this caller may reach."""
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        if not self._gateway(connection):
            log.warning("relay: refused a caller that is no gateway of this region")
            return None
        name = self._names.get(connection, "")
        replica_id = name.removesuffix(SUFFIX).replace("-", "_")
        path = self._socket_of(replica_id) if name.endswith(SUFFIX) else None
        if path is None:
            return None
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_unix_connection(path, limit=_BLOCK)

    def _gateway(self, connection: ssl.SSLObject) -> bool:
        certificate = connection.getpeercert() or {}
        names = certificate.get("subjectAltName", ())
        return any(
            len(entry) == 2 and entry[0] == "URI" and str(entry[1]).startswith(self._role)
            for entry in names
        )


async def _join(
    caller: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    engine: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
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
