"""An image with an API of its own, as the gateway meets it: HTTP on a unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Heard:
    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = False

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]


@dataclass
class FakeImage:
    """`heard`: what came. `hold`: /held answers once it is set, and then in pieces."""

    path: Path
    heard: list[Heard] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    @property
    def adapters(self) -> tuple[str, ...]:
        return ()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._one(reader, writer)
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        pairs = [one.partition(":") for one in lines]
        heard = Heard(line, [(name.lower(), value.strip()) for name, _, value in pairs])
        self.heard.append(heard)
        path = line.split(" ")[1].partition("?")[0]
        if path == "/both-ways":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        async for piece in _body(reader, heard):
            heard.body += piece
            if path == "/both-ways":
                writer.write(_chunk(piece.upper()))
                await writer.drain()
        heard.whole = True
        await self._answer(path, heard, writer)

    async def _answer(self, path: str, heard: Heard, writer: asyncio.StreamWriter) -> None:
        if path == "/both-ways":
            writer.write(b"0\r\n\r\n")
        elif path == "/die":
            return
        elif path == "/die-late":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        elif path == "/held":
            await self.hold.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            for number in range(3):
                writer.write(b"data: %d\n\n" % number)
                await writer.drain()
        elif path == "/nothing":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif path == "/odd":
            writer.write(
                b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 3\r\nset-cookie: a=b\r\n"
                b"x-stoa-cost: 0\r\nstrict-transport-security: max-age=1\r\nx-own: yes\r\n"
                b"connection: x-hop\r\nx-hop: 1\r\nx-request-id: mine\r\n\r\ntea"
            )
        elif path == "/broken":
            writer.write(b"HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\noops")
        else:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n"
            body = heard.body or b"12345"
            writer.write(head % len(body) + (b"" if heard.line.startswith("HEAD ") else body))
        await writer.drain()


async def _body(reader: asyncio.StreamReader, heard: Heard) -> AsyncIterator[bytes]:
    if heard.all("transfer-encoding") == ["chunked"]:
        while size := int(await reader.readline(), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return
    left = int((heard.all("content-length") or ["0"])[0])
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
