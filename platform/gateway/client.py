"""The client's side: HTTP/1.1 requests read from one connection, answered one after another.

What is read is bounded in size and time, and reading goes on while an answer is under way: the
end of the connection is how a client says that it no longer wants it.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import httptools

from gateway import addresses, errors, framing, reply, spare, timing
from gateway.access_log import Line
from gateway.context import Context
from gateway.directory import Directory, Key
from gateway.errors import ApiError
from gateway.intake import Intake
from gateway.operations import Operation, Shape
from gateway.running import Onward, Running
from gateway.timing import Timing

log = logging.getLogger(__name__)

_DISCARD_BYTES = 64 << 20  # of a refused body; then the connection is cut
_TLS_BUFFER = 64 << 10
_AHEAD = 32  # requests that a client may send before the first is answered
_OFFER = (b"upgrade", b"http2-settings")
PROBE = "probe"  # what a balancer asks every second


class Request:
    """One request. `refusal` is set as soon as it is clear that it will be refused."""

    __slots__ = (
        "alias", "base", "directory", "entry_id", "expects", "headers", "id", "keep_alive", "key",
        "method", "old", "onward", "operation", "path", "pieces", "query", "refusal", "size",
        "timing", "upload",
    )  # fmt: skip

    def __init__(self, arrived: float, id: str) -> None:
        self.timing = Timing(arrived)
        self.id = id
        self.entry_id = id  # in the books
        self.alias = ""  # the name that stands for several endpoints
        self.onward: Onward | None = None  # … and the way along them
        self.method = ""
        self.path = ""  # without the query, nor the endpoint's own base
        self.query = b""  # with its question mark
        self.base = ""  # the endpoint whose own base URL was used
        self.operation: Operation | None = None
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = 0
        self.key: Key | None = None
        self.directory: Directory | None = None  # where the key was found
        self.refusal: ApiError | None = None
        self.keep_alive = False
        self.old = False  # HTTP/1.0: no chunks
        self.expects = False  # waits for 100 Continue
        self.upload: Intake | None = None  # takes the body as it comes, in the pieces' place

    @property
    def anthropic(self) -> bool:
        """Whether it is of Anthropic's API: its errors have that shape."""
        return self.operation is not None and self.operation.shape is Shape.MESSAGES

    def sent(self) -> None:
        """An engine has the body: only another attempt could still need it."""
        if self.onward is None:
            self.pieces.clear()

    def passed_on(self, error: ApiError, *, booked: bool) -> bool:
        """Whether another endpoint has taken it over, after an attempt that ended in `error`."""
        return self.onward is not None and self.onward.next(error, booked=booked)

    def body(self) -> bytes:
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


Screen = Callable[["Client", Request], None]  # sets key or refusal, when the headers are there
Serve = Callable[["Client", Request], None]  # answers, now or later


class Client(asyncio.Protocol):
    __slots__ = (
        "_context", "_deaf", "_discarded", "_fatal", "_grew", "_in_body", "_parser",
        "_queue", "_reading", "_screen", "_serve", "_target", "_unread", "_upgrading", "busy",
        "deadline", "loop", "paused", "running", "seen", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, context: Context, screen: Screen, serve: Serve) -> None:
        self._context = context
        self._screen = screen
        self._serve = serve
        self.loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._reading: Request | None = None  # begun, not yet complete
        self._target = b""
        self._in_body = False  # the head is complete
        self._unread = 0  # bytes in which neither a head nor a piece of a body ended
        self._grew = False  # one did in the piece at hand
        self._queue: deque[Request] = deque()  # complete, behind the one that is being answered
        self._fatal: ApiError | None = None
        self._deaf = self._upgrading = False
        self._discarded = 0
        self.busy = False  # a request is being answered
        self.running: Running | None = None  # … by this
        self.paused = False
        self.deadline = 0.0
        # Who sent the last request: the header that said so, and in which directory it was found.
        self.seen: tuple[bytes, Directory, Key] | None = None

    # --- asyncio ----------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if transport.get_extra_info("sslcontext") is not None:
            self.transport.set_write_buffer_limits(_TLS_BUFFER)  # as without TLS; else it is 512 KB
        self.touch(self._context.limits.idle_s)
        self._context.clients.add(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discarded += len(data)
            if self._discarded > _DISCARD_BYTES:
                self.transport.abort()
            return
        begun, self._grew = self._reading, False
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._fatal is None:
                    data = self._without_offer(data[upgrade.args[0] :])
                    begun = None
                    continue
            except httptools.HttpParserError as error:
                self._fatal = self._fatal or errors.malformed_http(str(error) or "unreadable")
            break
        # What is neither a body nor understood yet (headers, trailers) piles up in the parser. If
        # it began in this piece, it is bounded by it; what comes on top is counted.
        if begun is not None and begun is self._reading and not self._grew:
            self._unread += len(data)
            if self._unread > self._context.limits.header_bytes:
                self._fatal = errors.headers_too_large(self._context.limits.header_bytes)
        if self._fatal is not None:
            self._refuse(self._fatal)

    def eof_received(self) -> bool:
        self._gone()
        return False  # close

    def connection_lost(self, error: Exception | None) -> None:
        self._context.clients.discard(self)
        self._deaf = True
        self._gone()

    def pause_writing(self) -> None:
        self.paused = True
        self.touch(self._context.limits.write_s)
        if self.running is not None:
            self.running.client_slow()

    def resume_writing(self) -> None:
        self.paused = False
        self.touch(self._context.limits.engine_s if self.busy else self._context.limits.idle_s)
        if self.running is not None:
            self.running.client_ready()
        elif self._queue and not self.busy and not self.transport.is_closing():
            self._next()

    # --- httptools --------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._fatal is not None:
            return  # nothing behind what was refused counts
        self._reading = Request(time.monotonic(), self._context.ids.new())
        self._target = b""
        self._in_body = False
        self._unread = 0
        if not self.busy:
            self.touch(self._context.limits.header_s)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._reading
        if request is None or self._in_body:
            return  # a trailer: nobody asked for it
        name = name.lower()
        known = request.headers.get(name)
        request.headers[name] = value if known is None else known + b", " + value
        request.size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        request, limits = self._reading, self._context.limits
        if request is None or self._fatal is not None:
            return
        if request.size + len(self._target) > limits.header_bytes:
            self._fatal = errors.headers_too_large(limits.header_bytes)
            return
        self._in_body = self._grew = True
        self._unread = 0
        request.size = 0
        parser, headers, target = self._parser, request.headers, self._target
        request.method = method = parser.get_method().decode()
        version = parser.get_http_version()
        if not target.startswith(b"/"):
            target = framing.local(method, target)
        path, mark, query = target.partition(b"?")
        request.path, request.query = path.decode("ascii", "replace"), mark + query
        request.keep_alive = parser.should_keep_alive()
        request.old = version != "1.1"
        self._screen(self, request)
        self._fatal = framing.refusal(method, target, version, headers, self._limit(request))
        if self._fatal is not None:
            return
        if parser.should_upgrade():
            self._upgrading = True
            return
        if headers.get(b"expect", b"").lower() == b"100-continue" and not request.old:
            request.expects = True
            if not self.busy:
                self._answer_expectation(request)
        if not self.busy:
            self.touch(limits.body_s)

    def on_body(self, data: bytes) -> None:
        request = self._reading
        if request is None or self._fatal is not None:
            return
        self._grew = True
        self._unread = 0
        request.size += len(data)
        limit = self._limit(request)
        if request.size > limit:
            self._fatal = errors.body_too_large(limit)
        elif request.upload is not None:
            try:
                if request.upload.take(data, free=self._free):
                    self._begin(request)
            except ApiError as error:
                self._fatal = error
        elif request.refusal is None:
            request.pieces.append(data)

    def on_message_complete(self) -> None:
        request, closing = self._reading, self.transport.is_closing()
        if self._upgrading or self._fatal is not None or request is None or closing:
            return
        self._reading = None
        if request.upload is not None and request.upload.whole():
            return
        if self.busy or self.paused:
            if len(self._queue) == _AHEAD:
                self._fatal = errors.too_far_ahead(_AHEAD)
                return
            self._queue.append(request)
            self.transport.pause_reading()  # one ahead is enough
            return
        self._begin(request)

    # --- reading ----------------------------------------------------------------------
    def _limit(self, request: Request) -> int:
        limits, upload = self._context.limits, request.upload
        return limits.body_bytes if upload is None else upload.limit

    @property
    def _free(self) -> bool:
        return not (self.busy or self.paused or self._queue)

    def _answer_expectation(self, request: Request) -> None:
        """The client waits: tell it to send the body, or at once why it need not."""
        if not request.expects:
            return
        request.expects = False
        if request.refusal is not None:
            self._fatal = request.refusal
        else:
            self.transport.write(reply.CONTINUE)

    def _without_offer(self, rest: bytes) -> bytes:
        """The client offers another protocol (HTTP/2, by default in Java). We stay with this one.

        The parser has skipped the body, so a new one reads the request again without the offer.
        """
        request = self._reading
        if request is None:
            return b""
        lines = [
            name + b": " + value for name, value in request.headers.items() if name not in _OFFER
        ]
        version = self._parser.get_http_version().encode()
        head = b"%b %b HTTP/%b" % (request.method.encode(), self._target, version)
        self._upgrading = False
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([head, *lines, b"", rest])

    # --- answering --------------------------------------------------------------------
    def _begin(self, request: Request) -> None:
        self.busy = True
        self.deadline = 0.0
        request.timing.read = time.monotonic()
        try:
            self._serve(self, request)
        except Exception:
            # A fault of ours must not leave a client waiting for ever.
            log.exception("%s failed", request.id)
            if self.running is None:
                self.refuse(request, errors.internal())
            else:
                self._gone()
                self.abort()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def touch(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds

    def count(
        self, request: Request, operation: str, status: int, error: ApiError | None = None
    ) -> None:
        """A request that no endpoint was asked for."""
        context, key, moments = self._context, request.key, request.timing
        context.metrics.answered(operation, status, error)
        if context.access is None or (operation == PROBE and error is None):
            return
        now = time.monotonic()
        context.access.add(
            Line(
                time=time.time(),
                request=request.id,
                operation=operation,
                status=status,
                ms=(now - moments.arrived) * 1000,
                code=(error.code or "") if error is not None else "",
                organization=key.organization_id if key is not None else "",
                project=key.project_id if key is not None else "",
                key=key.id if key is not None else "",
                gateway_ms=(now - moments.read) * 1000,
            )
        )

    def refuse(self, request: Request, error: ApiError, lines: tuple[bytes, ...] = ()) -> None:
        """A complete answer: the error in OpenAI's shape."""
        keep = request.keep_alive and not self._context.draining
        self.answer(request, _refusal(request, error, lines, keep), keep)

    def answer(self, request: Request, whole: bytes, keep_alive: bool) -> None:
        """A complete answer, head and body."""
        if request.method == "HEAD":
            whole = whole[: whole.index(b"\r\n\r\n") + 4]
        self.write(whole)
        self.finish(keep_alive)

    def finish(self, keep_alive: bool) -> None:
        """The answer is complete; go on with the next request, or close."""
        self.busy = False
        self.running = None
        if self.transport.is_closing():
            return
        if not keep_alive or self._context.draining:
            self.transport.close()
            return
        limits = self._context.limits
        if self._queue:
            if not self.paused:  # who takes no answer gets no other: see resume_writing
                self._next()
        elif self._fatal is not None:
            self._refuse(self._fatal)
        elif self._reading is not None:
            self.touch(limits.body_s)
            self._answer_expectation(self._reading)
            upload = self._reading.upload
            if upload is not None and upload.starts(free=self._free):
                self._begin(self._reading)
            if self._fatal is not None:
                self._refuse(self._fatal)
        else:
            self.touch(limits.idle_s)

    def _next(self) -> None:
        request = self._queue.popleft()
        self.busy = True  # nothing may overtake it
        self.loop.call_soon(self._begin, request)
        if not self._queue:
            self.transport.resume_reading()

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be read to its end, and go on reading so that the answer arrives.

        A connection closed with unread bytes is reset, and a client that is still sending then
        never sees why.
        """
        self._deaf = True
        reading = self._reading
        if reading is not None and reading.upload is not None and reading.upload.begun:
            reading.upload.spoil(error)
            if not self.busy:
                self.transport.abort()  # it was answered before its body was complete
            return
        if self.busy or self._queue:
            return  # what came before is answered first
        request = self._reading or Request(time.monotonic(), self._context.ids.new())
        self._reading = None
        self.count(request, "unreadable", error.status, error)
        self.write(_refusal(request, error, (), False))
        self.touch(self._context.limits.linger_s)
        with contextlib.suppress(OSError, NotImplementedError):
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def line_key(self, directory: Directory, secret: bytes, now: float) -> Key | None:
        """Of a line of a batch; closed where this gateway takes no batches."""
        config = self._context.config
        return spare.key_of(directory, config.pass_key, secret, now) if config.house_url else None

    def address(self, headers: Mapping[bytes, bytes]) -> str:
        """Where a request with these headers comes from."""
        peer = self.transport.get_extra_info("peername")
        host = peer[0] if isinstance(peer, tuple) else ""  # a unix socket's peer has none
        forwarded = headers.get(b"x-forwarded-for", b"")
        return addresses.origin(host, forwarded, self._context.config.trusted_proxies)

    @property
    def spare(self) -> bool:
        return not (self.busy or self._queue or (self._reading is not None and self._in_body))

    @property
    def asking(self) -> bool:
        return self._reading is not None

    # --- ends -------------------------------------------------------------------------
    def _gone(self) -> None:
        running, self.running = self.running, None
        if running is not None:
            running.client_gone()

    def sweep(self, now: float) -> None:
        """Called about once a second."""
        if not self.deadline or now < self.deadline:
            return
        self.deadline = 0.0
        if self.running is not None:
            self.running.timed_out()
        elif self._deaf or self._reading is None or self.busy or self.paused:
            self.transport.abort()
        else:
            self._refuse(errors.too_slow())

    def drain(self) -> None:
        """Close if nothing is under way; else the answer under way is the last."""
        if not self.busy and self._reading is None:
            self.transport.close()

    def cut(self) -> None:
        """The process ends: end the answer under way with an error."""
        if self.running is not None:
            self.running.gateway_leaves()
        else:
            self.abort()

    def abort(self) -> None:
        self.transport.abort()


def _refusal(
    request: Request, error: ApiError, lines: tuple[bytes, ...], keep_alive: bool
) -> bytes:
    given = request.headers.get(b"x-request-id")
    identity = reply.identity(request.id, given, anthropic=request.anthropic)
    spent = timing.header(request.timing.split(time.monotonic()))
    return reply.refusal(
        error,
        request.id,
        (identity, spent, *lines),
        keep_alive=keep_alive,
        anthropic=request.anthropic,
    )
