"""What agents may ask. Thin: prove who calls, decode strictly, call one verb, answer.

The database is used on threads that give both thread and connection back before the answer is
made: a long poll that waits holds neither.
"""

import functools
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from controlplane.api import problems, threads, watch
from controlplane.api.agent_handler import MAX_BODY_BYTES
from controlplane.api.agents_tls import PEER
from controlplane.endpoints import (
    assignments,
    decommissioning,
    gangs,
    hearing,
    image_secrets,
    model_facts,
    node_records,
    preflight,
    reports,
    source_grants,
    uploads,
)
from controlplane.endpoints import logs as engine_logs
from controlplane.fleet import (
    agent_rollouts,
    authority,
    bundle,
    credentials,
    errors,
    findings,
    node_events,
    older_wire,
    services,
    wire,
)
from controlplane.fleet.models import Node, Region

log = logging.getLogger(__name__)

T = TypeVar("T")
View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

_PIECE = 1 << 20  # of a file, read and sent at once
MAX_WAIT_S = 25.0  # below the idle time-outs of common proxies

_STATUS: tuple[tuple[type[errors.FleetError], int], ...] = (
    (errors.CredentialError, 401),
    (errors.InvalidToken, 401),
    (errors.UsedToken, 401),
    (errors.ExpiredToken, 401),
    (errors.RemovedNode, 410),
    (errors.FleetError, 400),
)


class _Refusal(Exception):
    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code = status, code


def _door(method: str) -> Callable[[View], View]:
    """One method, no cookies, and problem details for whatever is refused."""

    def around(view: View) -> View:
        @csrf_exempt
        @functools.wraps(view)
        async def answer(request: HttpRequest, **place: Any) -> HttpResponseBase:
            response: HttpResponseBase
            try:
                if request.method != method:
                    raise _Refusal(405, "method_not_allowed", f"Use {method} here.")
                response = await view(request, **place)
            except _Refusal as refusal:
                response = problems.response(refusal.status, refusal.code, str(refusal))
            except errors.FleetError as error:
                status = next(status for kind, status in _STATUS if isinstance(error, kind))
                response = problems.response(status, error.code, str(error))
            except (OperationalError, InterfaceError):
                log.warning("no database for %s", request.path, exc_info=True)
                response = problems.response(503, "unavailable", "No database: try again later.")
            if response.status_code == 405:
                response["allow"] = method
            response["cache-control"] = "no-store"
            response[wire.VERSION_HEADER] = str(wire.VERSION)
            return response

        return answer

    return around


@_door("GET")
async def authority_file(request: HttpRequest, sha256: str) -> HttpResponse:
    """A region's authority, to who has its hash from elsewhere and so can tell that it is it."""
    found = await threads.on_thread(_authority, sha256)
    if found is None:
        raise _Refusal(404, "not_found", "No region's authority has this hash.")
    return HttpResponse(found, content_type="application/x-pem-file")


@_door("GET")
async def join_script(request: HttpRequest) -> HttpResponse:
    """To anybody: the join command holds its hash."""
    return HttpResponse(await threads.on_thread(bundle.script), content_type="text/x-python")


@_door("GET")
async def agent_bundle(request: HttpRequest) -> HttpResponse:
    """The agent that belongs to this control plane; nothing of it is secret."""
    packed = await threads.on_thread(bundle.current)
    answer = HttpResponse(packed.content, content_type="application/gzip")
    answer[bundle.HEADER] = packed.digest
    return answer


@_door("GET")
async def agent_release(request: HttpRequest, sha256: str) -> HttpResponse:
    """What a node that was told to update itself fetches."""
    await threads.on_thread(_proved, _call(request))
    content = await threads.on_thread(agent_rollouts.content, sha256)
    if content is None:
        raise _Refusal(404, "not_found", "There is no such release of the agent.")
    answer = HttpResponse(content, content_type="application/gzip")
    answer[bundle.HEADER] = sha256
    return answer


@_door("POST")
async def enroll(request: HttpRequest) -> HttpResponse:
    _shown(request)
    message = _decoded(_body(request), wire.EnrollRequest)
    return _answer(request, await threads.on_thread(_enroll, message))


@_door("POST")
async def renew(request: HttpRequest) -> HttpResponse:
    return _answer(request, await threads.on_thread(_renew, _call(request)))


@_door("GET")
async def desired(request: HttpRequest) -> HttpResponse:
    """At once when the node's wish list is not the one it has, else when it changes, or in time.

    An unequal version and not a greater one: a restored database may have gone back.
    """
    call = _call(request)
    have = int(_number(request, "have", int))
    wait_s = min(_number(request, "wait", float), MAX_WAIT_S)
    node_id = credentials.claimed(call) or (await threads.on_thread(_proved, call)).id
    async with watch.current().polling(node_id, have) as poll:
        node = await threads.on_thread(_proved, call)  # which holds that it is this one
        version: int | None = node.desired_version
        if version == have and wait_s > 0:
            version = await poll.differs(wait_s)
    if version is None:
        node = await threads.on_thread(_proved, call)  # which says why
        version = node.desired_version
    if version == have:
        return _answer(request, assignments.unchanged(version))
    return _answer(request, await threads.on_thread(assignments.desired, node, timezone.now()))


@_door("POST")
async def report(request: HttpRequest) -> HttpResponse:
    return _answer(request, await threads.on_thread(_report, _call(request)))


@_door("POST")
async def logs(request: HttpRequest) -> HttpResponse:
    await threads.on_thread(_logs, _call(request))
    return HttpResponse(status=204)


@_door("POST")
async def erased(request: HttpRequest) -> HttpResponse:
    await threads.on_thread(_erased, _call(request))
    return HttpResponse(status=204)


@_door("POST")
async def source(request: HttpRequest) -> HttpResponse:
    return _answer(request, await threads.on_thread(_source, _call(request)))


@_door("POST")
async def secrets(request: HttpRequest) -> HttpResponse:
    return _answer(request, await threads.on_thread(_secrets, _call(request)))


@_door("GET")
async def upload(request: HttpRequest, upload_id: str, number: int) -> StreamingHttpResponse:
    """A file of a tenant's own model, from the byte that is asked for on."""
    path, size = await threads.on_thread(_upload, _call(request), upload_id, number)
    asked = re.fullmatch(r"bytes=(\d{1,18})-", request.headers.get("range", ""))
    start = min(int(asked[1]), size) if asked else 0

    async def body() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            while chunk := await threads.on_thread(file.read, _PIECE):
                yield chunk

    answer = StreamingHttpResponse(
        body(), status=206 if asked else 200, content_type="application/octet-stream"
    )
    answer["content-length"] = str(size - start)
    if asked:
        answer["content-range"] = f"bytes {start}-{size - 1}/{size}"
    return answer


# --- On a thread, with the database -----------------------------------------------------


def _authority(sha256: str) -> str | None:
    found = Region.objects.values_list("ca_certificate", flat=True)
    return next((pem for pem in found if authority.pin(pem) == f"sha256:{sha256}"), None)


def _enroll(message: wire.EnrollRequest) -> wire.Credential:
    _, credential = services.enroll(
        token=message.token,
        csr_pem=message.csr_pem,
        name=message.name,
        agent_version=message.agent_version,
        now=timezone.now(),
    )
    return credential


def _renew(call: credentials.Call) -> wire.Credential:
    now = timezone.now()
    proof = credentials.verify(call, now=now)
    _, credential = services.renew(
        node=proof.node,
        csr_pem=_decoded(call.body, wire.RenewRequest).csr_pem,
        presented_sha256=proof.certificate_sha256,
        now=now,
    )
    return credential


def _proved(call: credentials.Call) -> Node:
    return credentials.verify(call, now=timezone.now()).node


def _report(call: credentials.Call) -> wire.ReportReply:
    now = timezone.now()
    caller, signed_at = credentials.signer(call, now=now)
    message = _decoded(call.body, wire.Report)
    heard = hearing.hear(caller, message, signed_at=signed_at, now=now)
    if heard is not None:
        expires_at = heard.certificate_expires_at
    else:
        expires_at = _heard_at_length(call, message, now).certificate_expires_at
    node_records.note(caller.node_id, message.meter, now)
    return wire.ReportReply(
        lease_s=settings.NODE_LEASE_S,
        renew=services.renewal_due(expires_at, now),
        at=timezone.now().timestamp(),
    )


def _heard_at_length(call: credentials.Call, message: wire.Report, now: datetime) -> Node:
    proof = credentials.verify(call, now=now)
    node = proof.node
    # Of a report that came late too, and first: a start is measured against its model's facts.
    preflight.renew(model_facts.note(node, message.models, now), now)
    if services.heartbeat(node=node, report=message, signed_at=proof.signed_at, now=now):
        findings.note(node, message.findings, now)
        reports.apply(node, message, now)
        if node.in_gangs:
            gangs.hear(node, message, now)
    # Of a report that came late too: an event is no level, and this one's answer ends it.
    node_events.note(node=node, events=message.events, now=now)
    return node


def _logs(call: credentials.Call) -> None:
    now = timezone.now()
    proof = credentials.verify(call, now=now)
    engine_logs.append(proof.node, _decoded(call.body, wire.LogChunk), now)


def _erased(call: credentials.Call) -> None:
    now = timezone.now()
    node = credentials.verify(call, now=now).node
    decommissioning.confirm(node=node, erased=_decoded(call.body, wire.Erased), now=now)


def _source(call: credentials.Call) -> wire.Source:
    now = timezone.now()
    node = credentials.verify(call, now=now).node
    try:
        return source_grants.grant(node, _decoded(call.body, wire.SourceRequest), now)
    except source_grants.Refused as refusal:
        raise _Refusal(409, refusal.reason, str(refusal)) from refusal


def _secrets(call: credentials.Call) -> wire.Secrets:
    now = timezone.now()
    node = credentials.verify(call, now=now).node
    try:
        return image_secrets.grant(node, _decoded(call.body, wire.SecretsRequest), now)
    except source_grants.Refused as refusal:
        raise _Refusal(409, refusal.reason, str(refusal)) from refusal


def _upload(call: credentials.Call, upload_id: str, number: int) -> tuple[Path, int]:
    node = credentials.verify(call, now=timezone.now()).node
    try:
        file = source_grants.uploaded_file(node, upload_id, number)
    except source_grants.Refused as refusal:
        raise _Refusal(404, refusal.reason, str(refusal)) from refusal
    return uploads.place(file), file.size_bytes


# --- Reading and writing ----------------------------------------------------------------


def _call(request: HttpRequest) -> credentials.Call:
    query = request.META.get("QUERY_STRING", "")
    path = f"{request.path}?{query}" if query else request.path
    shown = _shown(request)
    return credentials.Call(request.method or "", path, request.headers, _body(request), shown)


def _shown(request: HttpRequest) -> str | None:
    """The certificate of the connection. Agents of wire version 1 know no door of their own."""
    scope: dict[str, Any] = getattr(request, "scope", {})
    if PEER in scope:
        return str(scope[PEER])
    if _spoken(request) > 1:
        raise _Refusal(403, "agents_door", "Agents call the agents' door, not the web process.")
    return None


def _body(request: HttpRequest) -> bytes:
    """The body, up to MAX_BODY_BYTES. Not `request.body`: its limit is the browsers'."""
    body = request.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise _Refusal(413, "too_large", f"A body has at most {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def _decoded(body: bytes, message: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Refusal(400, "invalid_message", f"The body is not as expected: {error}.") from error


def _number(request: HttpRequest, name: str, kind: Callable[[str], int | float]) -> int | float:
    try:
        value = kind(request.GET.get(name, "0"))
    except ValueError:
        value = -1
    if not (math.isfinite(value) and 0 <= value < 1 << 63):
        raise _Refusal(400, "invalid_query", f"{name} is no number of ours.")
    return value


def _answer(request: HttpRequest, message: wire.Message) -> HttpResponse:
    """In the words that this agent knows."""
    said = older_wire.encode(message, _spoken(request))
    return HttpResponse(said, content_type="application/json")


def _spoken(request: HttpRequest) -> int:
    said = request.headers.get(wire.VERSION_HEADER, "1")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 6 else 1
