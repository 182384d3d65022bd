"""What a client follows: an endpoint's progress and an engine's log, as server-sent events.

Plain asynchronous views: a follower holds neither a thread nor a database connection. Who may
follow is asked again each minute, so that a revoked key or an ended session hears no more.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from django.contrib import auth
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, NotAuthenticated
from rest_framework.request import Request
from rest_framework.utils.encoders import JSONEncoder

from controlplane.api import endpoint_views, listener, problems
from controlplane.api.authentication import ApiKeyAuthentication, principal
from controlplane.api.threads import on_thread
from controlplane.endpoints import access, logs
from controlplane.endpoints.models import Endpoint, Replica, Transition
from controlplane.endpoints.states import LIVE
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Forbidden, NotFound

LOOK_AGAIN_S = 5.0  # news may be lost with a connection
ALLOWED_FOR_LOOKS = 12
DEFAULT_LINES = 100


async def endpoint_events(request: HttpRequest, pk: str) -> HttpResponseBase:
    """GET: `transition` and `status` events, from the newest replica's beginning on."""
    found = await on_thread(_allowed, request, _endpoint, pk)
    if isinstance(found, JsonResponse):
        return found
    seen = _Seen(request.headers.get("last-event-id", ""))
    return _stream(request, pk, _endpoint, seen.news)


async def replica_logs(request: HttpRequest, pk: str) -> HttpResponseBase:
    """GET: the last `lines` lines as a list; with `follow=true` also all that come, as events."""
    found = await on_thread(_allowed, request, _replica, pk)
    if isinstance(found, JsonResponse):
        return found
    count = request.GET.get("lines", str(DEFAULT_LINES))
    if not count.isdecimal() or len(count) > 9 or int(count) > logs.KEEP_LINES:
        return problems.response(422, "invalid", f"lines: 0 to {logs.KEEP_LINES}", field="lines")
    if request.GET.get("follow", "").lower() not in ("1", "true"):
        data = await on_thread(endpoint_views.log_lines, found, int(count))
        return JsonResponse({"object": "list", "data": data})
    lines = _Lines(int(count), request.headers.get("last-event-id", ""))
    return _stream(request, pk, _replica, lines.news)


def _endpoint(request: Request, pk: str) -> Endpoint:
    return access.endpoint(principal(request), pk, Permission.READ)


def _replica(request: Request, pk: str) -> Replica:
    return access.replica(principal(request), pk, Permission.READ)


_Lookup = Callable[[Request, str], Any]


def _allowed(request: HttpRequest, lookup: _Lookup, pk: str) -> Any:
    """The thing, or the problem that says why not."""
    asked = Request(request, authenticators=[ApiKeyAuthentication(), SessionAuthentication()])
    try:
        if asked.user is None or not asked.user.is_authenticated:
            raise NotAuthenticated
        return lookup(asked, pk)
    except (NotAuthenticated, AuthenticationFailed) as error:
        return problems.response(401, "not_authenticated", str(error.detail))
    except APIException as error:
        return problems.response(error.status_code, "refused", str(error.detail))
    except NotFound as error:
        return problems.response(404, error.code, str(error))
    except Forbidden as error:
        return problems.response(403, error.code, str(error))


def _still_allowed(request: HttpRequest, lookup: _Lookup, pk: str) -> Any:
    """The same for who began to follow a while ago, and may have signed out since."""
    if request.session.session_key:
        request.session = type(request.session)(request.session.session_key)
        request.user = auth.get_user(request)
    return _allowed(request, lookup, pk)


def _stream(
    request: HttpRequest, pk: str, lookup: _Lookup, news: Callable[[Any], list[bytes]]
) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[bytes]:
        async with listener.waiting([pk]) as waiter:
            while True:
                found = await on_thread(_still_allowed, request, lookup, pk)
                if isinstance(found, JsonResponse):
                    return
                for _ in range(ALLOWED_FOR_LOOKS):
                    events = await on_thread(news, found)
                    yield b"".join(events) or b": still here\n\n"
                    await waiter.wait(LOOK_AGAIN_S)

    reply = StreamingHttpResponse(body(), content_type="text/event-stream")
    reply["cache-control"] = "no-store"
    reply["x-accel-buffering"] = "no"
    return reply


class _Seen:
    """What one follower of an endpoint has been told."""

    def __init__(self, last_id: str) -> None:
        self._last_id = last_id
        self._told: set[str] = set()
        self._old: set[str] | None = None  # replicas that were over before it came
        self._status = ""

    def news(self, endpoint: Endpoint) -> list[bytes]:
        fresh = Endpoint.objects.select_related("project", "pool").get(pk=endpoint.pk)
        # Before the transitions: what led to a status is told before it, or with it.
        said = endpoint_views.EndpointView(fresh).data
        replicas = endpoint_views.recent_replicas(fresh)
        if self._old is None:  # at first: those that live, and the newest
            shown = [r for r in replicas if r.state in LIVE] or replicas[:1]
            # Who comes back, and says what it heard last, missed no end of any of them.
            self._old = set() if self._last_id else {r.id for r in replicas if r not in shown}
        replicas = [r for r in replicas if r.id not in self._old]
        rows = Transition.objects.filter(replica__in=replicas, id__gt=self._last_id)
        events = []
        for row in rows.exclude(id__in=self._told).select_related("replica").order_by("id"):
            self._told.add(row.id)
            events.append(_event("transition", endpoint_views.TransitionView(row).data, row.id))
        if said["status"] != self._status:
            self._status = said["status"]
            events.append(_event("status", {name: said[name] for name in ("status", "message")}))
        return events


class _Lines:
    """How far one follower of a log has read."""

    def __init__(self, count: int, last_id: str) -> None:
        self._count = count
        self._number = int(last_id) if last_id.isdecimal() and len(last_id) < 19 else -1

    def news(self, replica: Replica) -> list[bytes]:
        if self._number < 0:
            lines = logs.tail(replica, self._count)
            self._number = 0
        else:
            lines = logs.after(replica, self._number)
        events = [
            _event("line", {"number": n.number, "text": n.text}, str(n.number)) for n in lines
        ]
        if lines:
            self._number = lines[-1].number
        return events


def _event(name: str, data: Any, event_id: str = "") -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    text = json.dumps(data, cls=JSONEncoder)
    return f"{head}event: {name}\ndata: {text}\n\n".encode()
