"""Files and batches: requests that the control plane answers, passed on piece by piece.

The caller's key is good by the gateway's own rules before anything leaves; the key itself stays
here, and a pass for exactly this request goes in its place. Neither a body nor an answer is ever
whole in memory: who is slow, on either side, stops the other.
"""

import asyncio
import re
import ssl
import time
from urllib.parse import urlsplit

from billing import passes
from gateway import errors, reply, timing
from gateway.client import Client, Request
from gateway.context import Context
from gateway.errors import ApiError
from gateway.intake import Untouched
from gateway.upstream import Unreachable, Upstream

_PATH = re.compile(r"/v1/(files|batches)(/[A-Za-z0-9_-]{1,64}){0,2}")
_LABEL = "batches"  # in metrics and the access log
_PREFIX = b"/gateway"
_PASSED_ON = (b"content-type", b"content-disposition", b"content-length", b"retry-after")
_AGAIN_S = 2


def named(path: str) -> bool:
    return path.startswith(("/v1/files", "/v1/batches")) and _PATH.fullmatch(path) is not None


class Cargo(Untouched):
    """What somebody sends to the control plane: of the size of a file."""

    def __init__(self, client: Client, request: Request, context: Context) -> None:
        super().__init__(client, request, context.limits)
        self.limit = context.limits.file_bytes


class House:
    """Where the control plane is. `connect` makes a connection for one request."""

    def __init__(self, url: str, connect_s: float) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        self._connect_s = connect_s
        self.name = parts.netloc.rpartition("@")[2].encode()
        self.base = parts.path.rstrip("/").encode()

    async def connect(self) -> Upstream:
        """Raises Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, upstream = await loop.create_connection(
                    lambda: Upstream(self, "control plane", ""),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"the control plane: {error}") from error
        return upstream

    def keep(self, upstream: Upstream) -> None:
        """Another request may need another one: uploads end theirs."""
        upstream.transport.close()

    def forget(self, upstream: Upstream) -> None: ...


class Passage:
    """One request and its answer. What has begun to leave is never replaced by an error."""

    def __init__(self, context: Context, client: Client, request: Request, house: House) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._house = house
        self._upstream: Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._paused = self._over = self._begun = self._chunked = False
        self._status = 0

    def start(self) -> None:
        self._client.running = self
        cargo = self._request.upload
        assert cargo is not None
        cargo.failed = self._fail
        self._task = self._client.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream = await self._house.connect()
        except Unreachable:
            self._context.metrics.upstream_errors["unreachable"] += 1
            self._fail(errors.house_unreachable(_AGAIN_S))
            return
        if self._over:
            upstream.abandon()
            return
        self._upstream = upstream
        cargo = self._request.upload
        assert cargo is not None
        self._client.touch(self._context.limits.engine_s)
        upstream.send(self, self._head(body=self._request.method == "POST"))
        if self._request.method == "POST":
            cargo.attach(upstream)

    def _head(self, *, body: bool) -> bytes:
        asked, house = self._request, self._house
        key = asked.key
        assert key is not None
        target = asked.path.encode("ascii", "replace") + asked.query
        claims = {"key": key.id, "for": f"{asked.method} {target.decode('ascii', 'replace')}"}
        secret = passes.key(self._context.config.pepper, passes.TO_HOUSE)
        shown = passes.issue(secret, claims, now=time.time())
        lines = [
            b"%b %b%b%b HTTP/1.1" % (asked.method.encode(), house.base, _PREFIX, target),
            b"host: %b" % house.name,
            b"x-request-id: %b" % asked.id.encode(),
            b"x-stoa-pass: %b" % shown.encode(),
        ]
        if (kind := asked.headers.get(b"content-type")) is not None:
            lines.append(b"content-type: %b" % kind)
        if body:
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join([*lines, b"", b""])

    # --- from the control plane -----------------------------------------------------------
    def engine_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status
        asked = self._request
        keep = self._keep_alive
        self._chunked = b"content-length" not in headers and not asked.old
        lines = [b"%b: %b\r\n" % (name, headers[name]) for name in _PASSED_ON if name in headers]
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not keep:
            lines.append(b"connection: close\r\n")
        lines.append(reply.identity(asked.id, asked.headers.get(b"x-request-id")))
        lines.append(timing.header(asked.timing.split(time.monotonic())))
        self._begun = True
        self._client.write(reply.status_line(status) + b"".join(lines) + b"\r\n")

    @property
    def _keep_alive(self) -> bool:
        """Not where the answer came before the whole of the body did."""
        asked = self._request
        whole = asked.upload is not None and asked.upload.complete
        return asked.keep_alive and whole and not asked.old and not self._context.draining

    def engine_data(self, data: bytes, done: bool) -> None:
        if data:
            self._client.write(reply.chunk(data) if self._chunked else data)
            self._client.touch(self._context.limits.engine_s)
        if done:
            keep = self._keep_alive
            self._upstream = None
            if self._chunked:
                self._client.write(reply.LAST_CHUNK)
            self._end(self._status)
            self._client.finish(keep)

    def engine_lost(self, why: str) -> None:
        self._upstream = None
        self._context.metrics.upstream_errors["lost"] += 1
        self._fail(errors.house_unreachable(_AGAIN_S))

    # --- ends -----------------------------------------------------------------------------
    def _end(self, status: int, error: ApiError | None = None) -> None:
        self._over = True
        if self._request.upload is not None:
            self._request.upload.close()
        self._client.count(self._request, _LABEL, status, error)

    def _fail(self, error: ApiError) -> None:
        if self._over:
            return
        self._leave()
        self._end(error.status, error)
        if self._begun:
            self._client.abort()
        else:
            self._client.refuse(self._request, error)

    def _leave(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abandon()

    # --- from the client ------------------------------------------------------------------
    def client_gone(self) -> None:
        if not self._over:
            self._leave()
            self._end(499)

    def client_slow(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def client_ready(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def gateway_leaves(self) -> None:
        self._fail(errors.draining())

    def timed_out(self) -> None:
        cargo = self._request.upload
        late = cargo is not None and cargo.awaited
        self._fail(errors.too_slow() if late else errors.house_unreachable(_AGAIN_S))
