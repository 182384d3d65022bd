"""A proxy in this process, servers that remember what they were sent, and names for them."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from workers.agent import egress
from workers.agent.egress.counts import Line
from workers.agent.egress.exchange import Limits
from workers.agent.egress.proxy import Proxy


class Server:
    """Answers every connection with `answer` once it has seen the end of a head, or echoes."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer, self.port = answer, 0
        self.connections = 0
        self.heard = b""
        self.body_bytes = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65536):
                self.heard += data
                if not self.answer:
                    writer.write(data)
                    await writer.drain()
                elif self._whole():
                    writer.write(self.answer)
                    break
            if not self.answer:
                writer.write_eof()
        except OSError:
            pass
        finally:
            writer.close()

    def _whole(self) -> bool:
        head, mark, body = self.heard.partition(b"\r\n\r\n")
        if b"chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        return bool(mark) and len(body) >= self.body_bytes

    def close(self) -> None:
        self._server.close()


class Stand:
    """`names`: host name to the addresses that it resolves to."""

    def __init__(self, server: Server | None = None, limits: Limits | None = None) -> None:
        # Short: a unix socket's path has 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="eg-", dir="/tmp")
        self.directory = Path(self._folder.name)
        self.server = server or Server()
        self.names: dict[str, Sequence[str]] = {"inside.example": ["127.0.0.1"]}
        self.proxy = Proxy(self.directory, limits=limits, resolve=self._resolve)

    async def __aenter__(self) -> "Stand":
        await self.server.start()
        await self.proxy.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.proxy.close()
        self.server.close()
        self._folder.cleanup()

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        if host not in self.names:
            raise OSError(host)
        return self.names[host]

    def allow(self, *destinations: str, networks: Sequence[str] = ("127.0.0.0/8",)) -> None:
        rules = egress.Rules("rep_1", "org_1", destinations, tuple(networks))
        (self.directory / "new").write_bytes(msgspec.json.encode(rules))
        (self.directory / "new").replace(self.directory / egress.RULES)

    @property
    def place(self) -> str:
        return f"inside.example:{self.server.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.directory / egress.SOCKET)

    async def ask(self, data: bytes, *, eof: bool = False) -> bytes:
        """Everything that is answered to `data`."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            if eof:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()

    def outcomes(self) -> dict[tuple[str, str], int]:
        counts = self.proxy.counts.all()
        return {(one.destination, one.outcome): one.connections for one in counts}

    def lines(self) -> list[Line]:
        path = self.directory / egress.CONNECTIONS
        text = path.read_bytes() if path.exists() else b""
        return [msgspec.json.decode(one, type=Line) for one in text.splitlines()]


def connect_to(place: str) -> bytes:
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
