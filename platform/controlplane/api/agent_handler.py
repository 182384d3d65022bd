"""Django for agents: without what browsers need, and without a thread for each request.

Django gives a request a thread of its own for as long as it lasts, on which its synchronous
middleware runs. A long poll lasts half a minute and each node always has one, so their door has
a short chain that never leaves the event loop: the request id, then the view. There are no
cookies here, so there is nothing for sessions, CSRF or CSP to protect.
"""

from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from typing import Any, TypeAlias

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response

from controlplane.api.request_id import RequestIdMiddleware

MAX_BODY_BYTES = 4 * 1024 * 1024

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]


class AgentHandler(ASGIHandler):
    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        view = convert_exception_to_response(self._get_response_async)  # type: ignore[attr-defined]
        self._middleware_chain = convert_exception_to_response(RequestIdMiddleware(view))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await self.handle(scope, receive, send)

    async def read_body(self, receive: Receive) -> BytesIO:
        """The body in memory; of one that is too long, just enough for the view to see that."""
        body = BytesIO()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestAborted
            body.write(message.get("body", b"")[: MAX_BODY_BYTES + 1 - body.tell()])
            if not message.get("more_body", False):
                body.seek(0)
                return body
