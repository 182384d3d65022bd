"""Requests for an image's own API: any method and any path below /e/NAME/, as they come.

The image sees neither the caller's key nor what is between the caller and us; the caller sees of
its headers what cannot reach beyond this one answer. Bodies go both ways piece by piece. Nothing
is tried a second time once an image may have heard of it: who knows what it does.
"""

import logging
import re
import time

from gateway import errors, timing
from gateway.client import Client, Request
from gateway.context import Context
from gateway.directory import Endpoint, Key, Replica
from gateway.errors import ApiError
from gateway.gate import Ask
from gateway.intake import Untouched
from gateway.operations import RAW
from gateway.reply import LAST_CHUNK, chunk, status_line
from gateway.request import Call
from gateway.sizes import Size
from gateway.spool import SpoolFull
from gateway.upload_exchange import UploadExchange
from gateway.usage import NONE

log = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PATH = re.compile(r"/[!-~]*")
# Of one hop (RFC 9110, 7.6.1), or said anew by us.
_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"} | {
    b"proxy-connection",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"content-length",
}
# What says who asks, and from where. A cookie of this host is another endpoint's, too.
_NOT_IN = _HOP | (
    {b"host", b"expect", b"authorization", b"x-api-key", b"api-key", b"cookie", b"http2-settings"}
    | {b"forwarded", b"via", b"x-real-ip", b"x-request-id", b"traceparent", b"tracestate"}
)
# What would hold for all that this host serves.
_NOT_OUT = _HOP | (
    {b"set-cookie", b"strict-transport-security", b"alt-svc", b"clear-site-data", b"server"}
    | {b"service-worker-allowed", b"x-request-id", b"server-timing", b"public-key-pins"}
)
_PREFIXES = (b"x-stoa-", b"x-forwarded-")
_BODILESS = (204, 304)


class RawBody(Untouched):
    """A body as it comes, framed as it came."""

    __slots__ = ("_length", "_there")

    def __init__(self, client: Client, request: Request, context: Context) -> None:
        super().__init__(client, request, context.limits)
        self._length = request.headers.get(b"content-length")
        self._there = self._length is not None or b"transfer-encoding" in request.headers

    @property
    def framing(self) -> bytes:
        """The header line that says where it ends; empty where there is none."""
        if self._length is not None:
            return b"content-length: %b\r\n" % self._length
        return b"transfer-encoding: chunked\r\n" if self._there else b""

    def _framed(self, piece: bytes) -> bytes:
        if self._length is not None or not self._there:
            return piece
        return chunk(piece) if piece else LAST_CHUNK


def call(asked: Request, endpoint: Endpoint) -> Call:
    """What the books know of it. Raises ApiError for what goes to no image."""
    if asked.method not in METHODS:
        raise errors.wrong_method(asked.method, asked.path)
    if not _PATH.fullmatch(asked.path):
        raise errors.bad_request("invalid_path", "The path is not plain ASCII: encode it.")
    return Call(
        operation=RAW, model=endpoint.name, stream=False, wants_usage=False,
        wants_running_usage=False, choices=1, several=False, size=0, fields={},
    )  # fmt: skip


class RawExchange(UploadExchange):
    __slots__ = ("_bodied", "_chunked", "_keep")

    def __init__(
        self, context: Context, client: Client, request: Request, key: Key, call: Call,
        endpoint: Endpoint, engine_model: str, need: Size, ask: Ask,
    ) -> None:  # fmt: skip
        super().__init__(context, client, request, key, call, endpoint, engine_model, need, ask)
        self._way.cannot_tell()
        self._bodied = self._chunked = self._keep = False

    def _open(self, replica: Replica) -> None:
        """Raises ApiError."""
        try:
            self._entry.open(replica.id)
        except SpoolFull:
            raise errors.spool_full() from None
        asked, body = self._request, self._upload
        assert isinstance(body, RawBody)
        lines = _passed(asked.headers, _NOT_IN)
        self._wire = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b%b%b\r\n" % (
            asked.method.encode(), asked.path.encode(), asked.query, self._call.model.encode(),
            lines, self._entry.identity(), body.framing,
        )  # fmt: skip

    # --- from the image -------------------------------------------------------------------
    def engine_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status
        asked, now = self._request, time.monotonic()
        moments = self._entry.timing
        moments.first = moments.first or now
        head = asked.method == "HEAD"
        self._bodied = not head and status not in _BODILESS
        length = None if b"transfer-encoding" in headers else headers.get(b"content-length")
        self._chunked = self._bodied and length is None and not asked.old
        framed = self._chunked or not self._bodied or length is not None
        whole = self._upload.complete
        self._keep = asked.keep_alive and whole and framed and not self._context.draining
        lines = [_passed(headers, _NOT_OUT)]
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif length is not None and status not in _BODILESS:
            lines.append(b"content-length: %b\r\n" % length)
        if not self._keep:
            lines.append(b"connection: close\r\n")
        lines.append(b"x-request-id: %b\r\n" % asked.id.encode())
        lines.append(timing.header(moments.split(now)))
        lines += (self._way.lines(), self._entry.lines())
        self._answer.started = self._sent = True  # none of it can be taken back
        self._wire = b""
        if status < 500:
            self._way.answered()
        self._client.write(status_line(status) + b"".join(lines) + b"\r\n")
        if head:
            self._abandon()  # a length without its bytes is all that follows
            self._complete(b"")

    def engine_data(self, data: bytes, done: bool) -> None:
        if done:
            self._upstream = None
        if not self._paused:
            self._client.touch(self._context.limits.engine_s)
        self._way.heard()
        if done:
            self._complete(data)
        elif data and self._bodied:
            self._client.write(chunk(data) if self._chunked else data)

    def _complete(self, rest: bytes) -> None:
        self._entry.timing.last = time.monotonic()
        if not self._entry.settled:
            finish = "engine_error" if self._status >= 500 else "complete"
            self._settle(self._status, finish, NONE, "engine")
        if rest and self._bodied:
            self._client.write(chunk(rest) if self._chunked else rest)
        if self._chunked:
            self._client.write(LAST_CHUNK)
        self._client.finish(self._keep)

    def engine_lost(self, why: str, kind: str = "lost") -> None:
        self._upstream = None
        log.warning("%s was lost by %s: %s", self._request.id, self._entry.replica_id, why)
        self._context.metrics.upstream_errors[kind] += 1
        self._way.failed()
        self._broken(errors.engine_unavailable(self._call.model), "engine_gone")

    def engine_silent(self) -> None:
        if not self._sent and not self._entry.settled:
            self._abandon()
            self._broken(errors.engine_silent(), "engine_timeout")

    def _broken(self, error: ApiError, finish: str) -> None:
        if self._sent:
            self._cut(error, finish)
        else:
            self._fail(error, finish)


def _passed(headers: dict[bytes, bytes], without: frozenset[bytes] | set[bytes]) -> bytes:
    """As header lines, without these and without what `Connection` names."""
    named = {one.strip().lower() for one in headers.get(b"connection", b"").split(b",")}
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, value in headers.items()
        if name not in without and name not in named and not name.startswith(_PREFIXES)
    )
