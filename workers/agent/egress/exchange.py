"""One connection of a container to the proxy: a tunnel, or one plain request.

h11 reads what the container sends and what servers answer, so a plain request is framed anew on
its way: nothing that the two sides could read differently passes. TLS goes through as it is, to
an address that was resolved here; which name is asked for within it, nobody sees.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime

import h11

from controlplane.fleet import destinations
from workers.agent.egress.counts import Counts, Line, Tally
from workers.agent.egress.policy import Denied, Outcome, Policy

_PIECE = 64 << 10
_HEAD_PIECE = 4 << 10  # so that a head is bounded by head_bytes and little more
_STATUS = {
    Outcome.NOT_ALLOWED: 403,
    Outcome.PRIVATE: 403,
    Outcome.UNRESOLVED: 502,
    Outcome.UNREACHABLE: 502,
    Outcome.MALFORMED: 400,
    Outcome.BUSY: 503,
}
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#@\\]+)([/?][^#]*)?")
# Of one hop (RFC 9110, 7.6.1), for proxies, or said anew.
_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"expect", b"host"}
    | {b"proxy-connection", b"proxy-authorization", b"proxy-authenticate"}
)
_CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Limits:
    head_bytes: int = 32 << 10
    head_s: float = 10.0
    connect_s: float = 10.0
    idle_s: float = 600.0  # nothing moved in either direction
    connections: int = 256  # at once


@dataclass(frozen=True)
class _Target:
    host: str
    port: int
    path: bytes = b""

    def __str__(self) -> str:
        return str(destinations.Destination(self.host, self.port))


class Exchange:
    """`reaches` is told where it goes, once it may."""

    reaches: Callable[[str, int], None]

    def __init__(
        self,
        policy: Policy,
        counts: Counts,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        now: Callable[[], datetime],
    ) -> None:
        self._policy, self._counts = policy, counts
        self._reader, self._writer = reader, writer
        self._limits, self._now = limits, now
        self._client = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._began = self._moved = time.monotonic()
        self._out = self._in = 0
        self._address = ""

    async def run(self, *, busy: bool) -> None:
        """To its end, however that comes; counted and told."""
        destination = "-"  # nobody could read it
        try:
            if (request := await self._request()) is None:
                return
            target = _target(request)
            destination = str(target)
            if busy:
                raise Denied(Outcome.BUSY, "too many connections at once")
            self._policy.refresh()
            addresses = await self._policy.addresses(target.host, target.port)
            self.reaches(target.host, target.port)
            reader, writer = await self._connect(target, addresses)
        except Denied as denied:
            tally = self._counts.begin(destination, denied.outcome)
            self._tell(tally, destination)
            await self._deny(denied)
        except (OSError, TimeoutError):
            pass  # it went before it had said what it wanted
        else:
            tally = self._counts.begin(destination, Outcome.REACHED)
            try:
                await self._serve(request, target, tally, reader, writer)
            finally:
                writer.close()
                self._tell(tally, destination)
        finally:
            self._writer.close()

    # --- what is asked --------------------------------------------------------------------
    async def _request(self) -> h11.Request | None:
        """None where nothing was asked. Raises Denied, TimeoutError."""
        async with asyncio.timeout(self._limits.head_s):
            while True:
                try:
                    event = self._client.next_event()
                except h11.RemoteProtocolError as error:
                    raise Denied(Outcome.MALFORMED, f"this is a proxy for HTTP: {error}") from None
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                self._client.receive_data(await self._reader.read(_HEAD_PIECE))

    async def _connect(
        self, target: _Target, addresses: Iterable[str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the first address that answers. Raises Denied."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.connect_s):
                for address in addresses:
                    with contextlib.suppress(OSError):
                        streams = await asyncio.open_connection(address, target.port)
                        self._address = address
                        return streams
        raise Denied(Outcome.UNREACHABLE, f"{target} does not answer")

    async def _deny(self, denied: Denied) -> None:
        body = f"{denied}\n".encode(errors="replace")
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            _CLOSE,
        ]
        with contextlib.suppress(OSError, TimeoutError, h11.LocalProtocolError):
            head = h11.Response(status_code=_STATUS[denied.outcome], headers=headers)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self._writer.write(self._client.send(event) or b"")
            async with asyncio.timeout(self._limits.head_s):
                await self._writer.drain()

    # --- what passes ----------------------------------------------------------------------
    async def _serve(
        self,
        request: h11.Request,
        target: _Target,
        tally: Tally,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        passing = _Passing(self, tally, reader, writer)
        with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
            if request.method == b"CONNECT":
                await passing.tunnel()
            else:
                await passing.forward(request, target)

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """The next piece. Raises TimeoutError when nothing has moved either way for long."""
        while True:
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + self._limits.idle_s
                ):
                    return await reader.read(_PIECE)
            except TimeoutError:
                if time.monotonic() - self._moved >= self._limits.idle_s:
                    raise

    async def drain(self, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._limits.idle_s):
            await writer.drain()

    def moved(self, tally: Tally, *, out: int = 0, in_: int = 0) -> None:
        self._moved = time.monotonic()
        self._out += out
        self._in += in_
        tally.bytes_out += out
        tally.bytes_in += in_

    @property
    def client(self) -> tuple[h11.Connection, asyncio.StreamReader, asyncio.StreamWriter]:
        return self._client, self._reader, self._writer

    def _tell(self, tally: Tally, destination: str) -> None:
        rules = self._policy.rules
        line = Line(
            at=self._now().isoformat(timespec="milliseconds"),
            replica=rules.replica,
            organization=rules.organization,
            destination=destination,
            address=self._address,
            outcome=tally.outcome,
            bytes_out=self._out,
            bytes_in=self._in,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self._counts.tell(line)


class _Passing:
    """What goes both ways once the server is reached. Raises OSError, TimeoutError and h11's."""

    def __init__(
        self,
        exchange: Exchange,
        tally: Tally,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._exchange, self._tally = exchange, tally
        self._reader, self._writer = reader, writer
        self._client, self._asking, self._answering = exchange.client

    async def tunnel(self) -> None:
        if not isinstance(self._client.next_event(), h11.EndOfMessage):
            return  # `_target` has refused a CONNECT with a body
        self._client.next_event()
        head = h11.Response(status_code=200, headers=[], reason=b"Connection established")
        self._answering.write(self._client.send(head) or b"")
        early = self._client.trailing_data[0]
        if early:
            await self._out(early)
        await _both(self._pipe_out(), self._pipe_in())

    async def _pipe_out(self) -> None:
        while data := await self._exchange.read(self._asking):
            await self._out(data)
        self._writer.write_eof()

    async def _pipe_in(self) -> None:
        while data := await self._exchange.read(self._reader):
            self._exchange.moved(self._tally, in_=len(data))
            self._answering.write(data)
            await self._exchange.drain(self._answering)
        self._answering.write_eof()

    async def forward(self, request: h11.Request, target: _Target) -> None:
        server = h11.Connection(h11.CLIENT)
        headers = [(b"host", _host(target)), *_passed(request.headers), _CLOSE]
        path = target.path if target.path.startswith(b"/") else b"/" + target.path
        asked = h11.Request(method=request.method, target=path, headers=headers)
        await self._out(server.send(asked) or b"")
        body = asyncio.create_task(self._body(server))
        try:
            await self._answer(server)
        finally:
            body.cancel()
            with contextlib.suppress(
                asyncio.CancelledError, OSError, TimeoutError, h11.ProtocolError
            ):
                await body

    async def _body(self, server: h11.Connection) -> None:
        if self._client.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            self._answering.write(self._client.send(go_on) or b"")
        while True:
            event = self._client.next_event()
            if event is h11.NEED_DATA:
                self._client.receive_data(await self._exchange.read(self._asking))
            elif isinstance(event, h11.Data):
                await self._out(server.send(event) or b"")
            else:
                if isinstance(event, h11.EndOfMessage):
                    await self._out(server.send(h11.EndOfMessage()) or b"")
                return

    async def _answer(self, server: h11.Connection) -> None:
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                data = await self._exchange.read(self._reader)
                self._exchange.moved(self._tally, in_=len(data))
                server.receive_data(data)
                continue
            if isinstance(event, h11.Response):
                headers = [*_passed(event.headers), _CLOSE]
                event = h11.Response(
                    status_code=event.status_code, headers=headers, reason=event.reason
                )
            elif isinstance(event, h11.EndOfMessage):
                event = h11.EndOfMessage()
            elif not isinstance(event, h11.Data):
                if isinstance(event, h11.InformationalResponse):
                    continue
                return
            self._answering.write(self._client.send(event) or b"")
            await self._exchange.drain(self._answering)
            if isinstance(event, h11.EndOfMessage):
                return

    async def _out(self, data: bytes) -> None:
        self._exchange.moved(self._tally, out=len(data))
        self._writer.write(data)
        await self._exchange.drain(self._writer)


def _target(request: h11.Request) -> _Target:
    """Where a request wants to go. Raises Denied."""
    if request.method == b"CONNECT":
        framed = {b"content-length", b"transfer-encoding"}
        if any(name in framed for name, _ in request.headers):
            raise Denied(Outcome.MALFORMED, "a CONNECT has no body")
        return _parsed(bytes(request.target), b"")
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None:
        message = "this is a proxy: ask for http://host/…, and for https by CONNECT"
        raise Denied(Outcome.MALFORMED, message)
    authority, path = found[1], found[2] or b"/"
    if not re.search(rb":[0-9]+\Z", authority):
        authority = authority.removesuffix(b":") + b":80"
    return _parsed(authority, path)


def _parsed(authority: bytes, path: bytes) -> _Target:
    try:
        found = destinations.parse(authority.decode("ascii"))
    except ValueError as error:
        raise Denied(Outcome.MALFORMED, f"no host and port: {error}") from None
    if found.below:
        raise Denied(Outcome.MALFORMED, "no host and port: a pattern")
    return _Target(found.host, found.port, path)


def _host(target: _Target) -> bytes:
    return str(target).removesuffix(":80").encode()


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Without what is of one hop, or named so by `Connection`."""
    given = list(headers)
    named = {
        one.strip().lower()
        for name, value in given
        if name == b"connection"
        for one in value.split(b",")
    } - {b"content-length", b"transfer-encoding"}
    return [(name, value) for name, value in given if name not in _HOP | named]


async def _both(*ways: Coroutine[None, None, None]) -> None:
    """Until both have ended, or one has failed."""
    tasks = [asyncio.create_task(one) for one in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
