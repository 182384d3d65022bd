"""The client's side of an exchange: one reply, in one piece or in parts of unknown number."""

from gateway import reply, timing
from gateway.client import Client, Request
from gateway.context import Context
from gateway.errors import ApiError
from gateway.timing import Split

_TRAILER = b"trailer: server-timing\r\n"


class Answer:
    """`started`: a head has left, so that the status cannot be taken back any more."""

    __slots__ = ("_chunked", "_client", "_context", "_request", "started", "trails")

    def __init__(self, context: Context, client: Client, request: Request) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._chunked = not request.old
        # Whether a reply in parts may tell at its end, in a trailer, how long it took.
        self.trails = self._chunked and b"trailers" in request.headers.get(b"te", b"").lower()
        self.started = False

    @property
    def keep_alive(self) -> bool:
        """A body without a length or chunks ends with its connection."""
        framed = self._chunked or not self.started
        return self._request.keep_alive and framed and not self._context.draining

    def identity(self) -> bytes:
        request = self._request
        given = request.headers.get(b"x-request-id")
        return reply.identity(request.id, given, anthropic=request.anthropic)

    def refuse(self, error: ApiError, lines: tuple[bytes, ...] = ()) -> None:
        self._client.refuse(self._request, error, lines)

    def whole(self, kind: bytes, body: bytes, lines: tuple[bytes, ...]) -> None:
        keep = self.keep_alive
        whole = reply.whole(200, kind, body, (self.identity(), *lines), keep_alive=keep)
        self._client.answer(self._request, whole, keep)

    def begin(self, kind: bytes, lines: tuple[bytes, ...], first: bytes) -> None:
        """The head of a reply in parts, and the first of them."""
        chunked, keep = self._chunked, self.keep_alive
        self.started = True
        lines = (self.identity(), *lines, _TRAILER) if self.trails else (self.identity(), *lines)
        head = reply.opening(200, kind, lines, chunked=chunked, keep_alive=keep)
        self._client.write(head + reply.chunk(first) if chunked else head + first)

    def part(self, data: bytes) -> None:
        """`data` is not empty: an empty chunk would end the body."""
        self._client.write(reply.chunk(data) if self._chunked else data)

    def end(self, split: Split | None, *, keep_alive: bool = True) -> None:
        if self.trails and split is not None:
            self._client.write(b"0\r\n%b\r\n" % timing.header(split))
        elif self._chunked:
            self._client.write(reply.LAST_CHUNK)
        self._client.finish(keep_alive and self.keep_alive)
