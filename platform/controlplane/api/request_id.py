"""`x-request-id`: taken over or drawn, echoed, and known to every audit event of the request."""

import re
from collections.abc import Awaitable, Callable
from typing import ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from compliance import context, ids

HEADER = "x-request-id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")

_Answer = HttpResponseBase | Awaitable[HttpResponseBase]


class RequestIdMiddleware:
    """Sets the request context (`compliance.context`) around the rest of the chain."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: Callable[[HttpRequest], _Answer]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> _Answer:
        if self.is_async:
            return self._answer_async(request)
        request_id = identify(request)
        token = context.enter(lambda: describe(request, request_id))
        try:
            response = self.get_response(request)
        finally:
            context.leave(token)
        assert isinstance(response, HttpResponseBase)
        response[HEADER] = request_id
        return response

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        request_id = identify(request)
        token = context.enter(lambda: describe(request, request_id))
        try:
            response = self.get_response(request)
            assert not isinstance(response, HttpResponseBase)
            answer = await response
        finally:
            context.leave(token)
        answer[HEADER] = request_id
        return answer


def identify(request: HttpRequest) -> str:
    """The client's id if it is one that can stand in logs, else a fresh `req_…`."""
    offered = request.headers.get(HEADER, "")
    return offered if _ACCEPTED.fullmatch(offered) else ids.new("req")


def describe(request: HttpRequest, request_id: str) -> context.RequestContext:
    match = request.resolver_match
    return context.RequestContext(
        id=request_id,
        method=request.method or "",
        route=match.route if match else "",
        ip=_client(request),
        user_agent=request.headers.get("user-agent", "")[:500],
    )


def _client(request: HttpRequest) -> str:
    """The peer; behind our own TLS proxy, the peer that the proxy saw (the last it appended)."""
    forwarded = str(request.headers.get("x-forwarded-for", "")) if settings.TLS else ""
    return (forwarded.rsplit(",", 1)[-1].strip() or str(request.META.get("REMOTE_ADDR", "")))[:64]
