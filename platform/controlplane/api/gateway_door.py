"""The gateways' door: OpenAI's files and batches, for callers whom a gateway has authenticated.

Beside Django's own handlers, because content is never to lie on this disk or in memory as a whole:
Django would spool a long body to a temporary file, in the clear. Each request has a thread while
it lasts, which pulls the body piece by piece and pushes the answer likewise; a database connection
it has only for each statement.

A request without a gateway's pass for exactly its method and target does not exist.
"""

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, TypeVar

from django.conf import settings
from django.db import connection
from django.utils import timezone

from billing import passes
from compliance import context
from compliance.context import RequestContext
from controlplane.api import openai_api
from controlplane.api.openai_api import Answer, Asked, Refused
from controlplane.tenancy import keys

log = logging.getLogger(__name__)

PREFIX = "/gateway"
THREADS = 32
AT_ONCE = 8  # requests of one project at one process, …
UPLOADS_MAX = 4  # … and those of them that bring files
_PIECE_S = 120.0  # a body or a reader that does not move for so long is given up

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
T = TypeVar("T")


class Gone(Exception):
    """The gateway went away, or does not move."""


class Body:
    """A request's body as a file that is read forward, from a thread."""

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._loop = loop
        self._rest = b""
        self._more = True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end; all of it for a negative one. Raises Gone."""
        while self._more and (size < 0 or not self._rest):
            message = _pull(self._receive(), self._loop)
            if message["type"] == "http.disconnect":
                raise Gone
            self._rest += message.get("body", b"")
            self._more = bool(message.get("more_body", False))
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class GatewayDoor:
    """An ASGI application."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "gateway-door")
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()  # by project; uploads once more under their own

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        body = Body(receive, loop)

        def push(message: Mapping[str, Any]) -> None:
            _pull(send(message), loop)

        await loop.run_in_executor(self._threads, self._serve, scope, headers, body, push)

    def _serve(
        self,
        scope: dict[str, Any],
        headers: Mapping[str, str],
        body: Body,
        push: Callable[[Mapping[str, Any]], None],
    ) -> None:
        asked_id = headers.get("x-request-id", "")[:64]
        token = context.enter(lambda: RequestContext(asked_id, scope["method"], "gateway door"))
        try:
            with ExitStack() as until_written:
                answer = self._safely(scope, headers, body, asked_id, until_written)
                connection.close()  # back to the pool
                _write(answer, push)
        except (Gone, OSError):
            return
        finally:
            connection.close()
            context.leave(token)

    def _safely(
        self,
        scope: dict[str, Any],
        headers: Mapping[str, str],
        body: Body,
        asked_id: str,
        until_written: ExitStack,
    ) -> Answer:
        """Raises Gone."""
        try:
            return self._answer(scope, headers, body, until_written)
        except Refused as refused:
            return refused.answer()
        except Gone:
            raise
        except Exception:
            log.exception("%s failed", asked_id)
            return Refused(500, "internal_error", "The control plane failed.").answer()

    def _answer(
        self,
        scope: dict[str, Any],
        headers: Mapping[str, str],
        body: Body,
        until_written: ExitStack,
    ) -> Answer:
        path = scope["raw_path"].decode("latin-1").removeprefix(scope.get("root_path", "") + PREFIX)
        query = scope["query_string"].decode("latin-1")
        target = f"{path}?{query}" if query else path
        said = _admitted(headers.get("x-stoa-pass", ""), scope["method"], target)
        key = keys.usable_key(said["key"], timezone.now())
        if key is None:
            raise Refused(401, "invalid_api_key", "The API key is not valid any more.")
        asked = Asked(scope["method"], path, query, headers, body, key)
        until_written.enter_context(self._one_of(key.project_id, AT_ONCE))
        if openai_api.uploads(asked):
            until_written.enter_context(self._one_of(f"{key.project_id} uploads", UPLOADS_MAX))
        return openai_api.answer(asked)

    @contextmanager
    def _one_of(self, name: str, most: int) -> Iterator[None]:
        """A slow client has a thread for long: no project may have all of them. Raises Refused."""
        with self._lock:
            if self._under_way[name] >= most:
                message = f"At most {most} of these requests of a project are taken at once."
                raise Refused(429, "too_many_requests", message, headers={"retry-after": "2"})
            self._under_way[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[name] -= 1
                if not self._under_way[name]:
                    del self._under_way[name]


def _admitted(given: str, method: str, target: str) -> dict[str, Any]:
    """Raises Refused for a pass that is none, or is for something else."""
    secret = passes.key(settings.KEY_PEPPER, passes.TO_HOUSE)
    said = passes.claims(secret, given.encode("latin-1"), now=time.time())
    if said is None or said["for"] != f"{method} {target}":
        raise Refused(404, "unknown_url", "There is nothing here.")
    return said


def _write(answer: Answer, push: Callable[[Mapping[str, Any]], None]) -> None:
    content = answer.content
    if isinstance(content, dict):
        content = [json.dumps(content, separators=(",", ":")).encode()]
        answer.headers["content-length"] = str(len(content[0]))
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    push({"type": "http.response.start", "status": answer.status, "headers": pairs})
    for piece in content:
        connection.close()  # a slow reader holds none
        push({"type": "http.response.body", "body": piece, "more_body": True})
    push({"type": "http.response.body", "body": b""})


def _pull(work: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    """Let the event loop do it, and wait. Raises Gone."""

    async def bounded() -> T:
        async with asyncio.timeout(_PIECE_S):
            return await work

    coroutine: Coroutine[Any, Any, T] = bounded()
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    except TimeoutError:
        raise Gone from None
