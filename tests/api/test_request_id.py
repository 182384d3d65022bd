"""`x-request-id`: taken over if it is fit for a log, else drawn; the audit log knows it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import ResolverMatch
from pytest_django import Settings

from compliance import context, ids
from controlplane.api.request_id import RequestIdMiddleware

Seen = list[context.RequestContext | None]


def serve(seen: Seen, **headers: str) -> HttpResponse:
    """One request through the middleware; the view notes the context that it runs in."""

    def view(request: HttpRequest) -> HttpResponse:
        request.resolver_match = ResolverMatch(view, (), {}, route="api/v1/endpoints/<str:id>")
        seen.append(context.current())
        return HttpResponse()

    request = RequestFactory().post("/api/v1/endpoints/ep_1", headers=headers)
    response = RequestIdMiddleware(view)(request)
    assert isinstance(response, HttpResponse)
    return response


def test_the_clients_id_is_kept_and_echoed() -> None:
    seen: Seen = []
    response = serve(seen, **{"x-request-id": "abc-1", "user-agent": "curl/8"})
    assert response["x-request-id"] == "abc-1"
    assert seen == [
        context.RequestContext(
            "abc-1", "POST", "api/v1/endpoints/<str:id>", ip="127.0.0.1", user_agent="curl/8"
        )
    ]
    assert context.current() is None


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "a;b", "<script>"])
def test_an_id_that_is_unfit_for_a_log_is_replaced(offered: str) -> None:
    response = serve([], **{"x-request-id": offered})
    assert ids.valid(response["x-request-id"], "req")


def test_a_forwarded_address_counts_only_behind_our_own_proxy(settings: Settings) -> None:
    """The last one: those before it are what the client says of itself."""
    seen: Seen = []
    headers = {"x-forwarded-for": "6.6.6.6, 192.0.2.7"}
    serve(seen, **headers)
    settings.TLS = True
    serve(seen, **headers)
    assert [one.ip for one in seen if one] == ["127.0.0.1", "192.0.2.7"]


def test_the_context_ends_with_a_request_that_failed() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise LookupError

    with pytest.raises(LookupError):
        RequestIdMiddleware(view)(RequestFactory().get("/"))
    assert context.current() is None


def test_requests_served_at_once_do_not_mix() -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        for _ in range(3):
            await asyncio.sleep(0)
        current = context.current()
        return HttpResponse(current.id if current else "")

    middleware: Callable[..., Any] = RequestIdMiddleware(view)
    assert iscoroutinefunction(middleware)

    async def all_at_once() -> list[HttpResponse]:
        factory = RequestFactory()
        wanted = [factory.get("/", headers={"x-request-id": f"r{n}"}) for n in range(5)]
        return list(await asyncio.gather(*map(middleware, wanted)))

    for number, response in enumerate(asyncio.run(all_at_once())):
        assert response.content.decode() == response["x-request-id"] == f"r{number}"
