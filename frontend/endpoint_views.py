"""The list of endpoints, and one endpoint: how it is, how it started, what it says."""

import json
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from controlplane.api.endpoint_views import recent_replicas
from controlplane.endpoints import (
    access,
    conditions,
    engine_outlook,
    engine_versions,
    images,
    logs,
    preflight,
    rollout_rows,
    services,
)
from controlplane.endpoints import starts as start_times
from controlplane.endpoints.conditions import ADVICE, Status
from controlplane.endpoints.models import Endpoint, Replica, Transition
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from frontend import quote_panel, rates, starts
from frontend.visits import Request, Visit, page, show

LOG_LINES = 200
TRANSITIONS = 40
# How soon a page looks again by itself, in seconds; events hasten it.
SOON_S, LATER_S = 1, 3
_MOVING = {Status.PENDING, Status.STARTING, Status.STOPPING, Status.UPDATING}


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """All endpoints of the project; its table asks for itself again."""
    if visit.project is None:
        return show(request, visit, "nowhere.html")
    template = "_endpoint_rows.html" if request.htmx else "endpoints.html"
    return show(request, visit, template, _listed(visit))


@require_safe
@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(visit, id, Permission.READ)
    visit.enter(request, endpoint.project)
    context = _live(visit, endpoint)
    chosen = _chosen(endpoint, context["replicas"], request.GET.get("replica", ""))
    return show(
        request,
        visit,
        "endpoint.html",
        {
            **context,
            **_logged(chosen, context["replicas"], pinned="replica" in request.GET),
            "token_prices": rates.token_prices(
                endpoint.device_kind,
                account=endpoint.project.organization.account,
                now=visit.now,
            ),
            "upload": access.uploads(visit.principal).filter(id=endpoint.model).first(),
            "warnings": engine_outlook.warnings(endpoint, engine_versions.unsupported()),
            "fit": preflight.of(endpoint),
            "outlook": preflight.kept(endpoint),
            "quoted": quote_panel.facts(endpoint),
            "arguments": sorted(endpoint.engine_args.items()),
            "pinned_image": images.pinned(endpoint),
            "raw_url": _raw_url(endpoint),
            "base_url": f"{settings.GATEWAY_URL.rstrip('/')}/v1",
            "body": json.dumps(
                {"model": endpoint.name, "messages": [{"role": "user", "content": "Hello"}]}
            ),
        },
    )


def _raw_url(endpoint: Endpoint) -> str:
    """Where an image with an API of its own is called; empty for all else."""
    if endpoint.image is None or endpoint.image["openai"]:
        return ""
    return f"{settings.GATEWAY_URL.rstrip('/')}/e/{endpoint.name}"


@require_safe
@page
def live(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """The part of an endpoint's page that changes."""
    return show(
        request, visit, "_endpoint_live.html", _live(visit, _endpoint(visit, id, Permission.READ))
    )


@require_safe
@page
def log(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """The last lines of one replica's engine, by default of the newest."""
    endpoint = _endpoint(visit, id, Permission.READ)
    replicas = recent_replicas(endpoint)
    chosen = _chosen(endpoint, replicas, request.GET.get("replica", ""))
    context = {"endpoint": endpoint, **_logged(chosen, replicas, pinned=False)}
    return show(request, visit, "_endpoint_log.html", context)


@require_POST
@page
def start(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(visit, id, Permission.MANAGE_ENDPOINTS)
    services.start(actor=visit.principal.actor, endpoint=endpoint, now=visit.now)
    messages.success(request, f"{endpoint.name} is asked to start.")
    return redirect("frontend:endpoint", id=id)


@require_POST
@page
def stop(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(visit, id, Permission.MANAGE_ENDPOINTS)
    services.stop(actor=visit.principal.actor, endpoint=endpoint, now=visit.now)
    messages.success(request, f"{endpoint.name} is asked to stop. What it serves is finished.")
    return redirect("frontend:endpoint", id=id)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Asks for the name first: nothing brings an endpoint back."""
    endpoint = _endpoint(visit, id, Permission.MANAGE_ENDPOINTS)
    typed = request.POST.get("name", "").strip()
    if request.method == "POST" and typed == endpoint.name:
        services.delete(actor=visit.principal.actor, endpoint=endpoint, now=visit.now)
        messages.success(request, f"{endpoint.name} is deleted. Its record and its costs stay.")
        return redirect("frontend:endpoints")
    asked = request.method == "POST"
    error = f"Type the name exactly: {endpoint.name}" if asked else ""
    context = {"endpoint": endpoint, "typed": typed, "error": error}
    return show(request, visit, "endpoint_delete.html", context, status=422 if asked else 200)


def _endpoint(visit: Visit, id: str, need: Permission) -> Endpoint:
    return access.endpoint(visit.principal, id, need)


def _listed(visit: Visit) -> dict[str, Any]:
    """Every endpoint of the project with its summary and its rate, in a fixed number of queries."""
    _, project = visit.here()
    endpoints = list(access.endpoints(visit.principal).filter(project=project))
    mine = Replica.objects.filter(endpoint__in=endpoints)
    replicas: dict[str, list[Replica]] = {endpoint.id: [] for endpoint in endpoints}
    over = mine.exclude(state__in=LIVE).order_by("endpoint_id", "-state_at")
    for replica in [*mine.filter(state__in=LIVE), *over.distinct("endpoint_id")]:
        replicas[replica.endpoint_id].append(replica)
    summaries = {one.id: conditions.summarize(one, replicas[one.id]) for one in endpoints}
    ready = {id: summary.ready_replicas for id, summary in summaries.items()}
    priced = rates.of(project, endpoints, ready, now=visit.now)
    rows = [(one, summaries[one.id], priced[one.id]) for one in endpoints]
    moving = any(summary.status in _MOVING for summary in summaries.values())
    return {"rows": rows, "every_s": SOON_S if moving else LATER_S}


def _live(visit: Visit, endpoint: Endpoint) -> dict[str, Any]:
    replicas = recent_replicas(endpoint)
    rollout = rollout_rows.newest(endpoint)
    summary = conditions.summarize(endpoint, replicas, rollout)
    newest = starts.newest(replicas)
    rows = list(
        Transition.objects.filter(replica__in=replicas)
        .select_related("replica")
        .order_by("-id")[:TRANSITIONS]
    )
    measured = None
    if newest is not None:
        measured = starts.measure(newest, list(newest.transitions.order_by("id")), visit.now)
    return {
        "endpoint": endpoint,
        "summary": summary,
        "rollout": rollout,
        "rate": rates.of(
            endpoint.project, [endpoint], {endpoint.id: summary.ready_replicas}, now=visit.now
        )[endpoint.id],
        "replicas": replicas,
        "alive": [replica for replica in replicas if replica.state in LIVE],
        "nodes_named": visit.principal.is_operator
        or endpoint.pool.organization_id == endpoint.project.organization_id,
        "start": measured,
        "transitions": rows,
        "failed": _failure(endpoint, replicas),
        "newest": newest,
        "underway": start_times.underway(replicas, visit.now),
        "measured": start_times.measured(endpoint),
        "phase_names": start_times.PHASES,
        "every_s": SOON_S if summary.status in _MOVING else LATER_S,
        "startable": endpoint.stopped_at is not None
        or summary.status in (Status.SCALED_TO_ZERO, Status.ASLEEP, Status.FAILED),
    }


def _failure(endpoint: Endpoint, replicas: Sequence[Replica]) -> dict[str, Any] | None:
    """The last failed start, until one succeeds."""
    over = [replica for replica in replicas if replica.state not in LIVE]
    last = max(over, key=lambda replica: replica.state_at, default=None)
    if last is None or last.state != State.FAILED or not endpoint.failures:
        return None
    return {
        "replica": last,
        "advice": ADVICE.get(Reason(last.reason), ""),
        "lines": last.log_tail,
    }


def _chosen(endpoint: Endpoint, replicas: Sequence[Replica], wanted: str) -> Replica | None:
    """The replica whose log is shown: one of this endpoint's, or it does not exist."""
    if not wanted:
        return starts.newest(replicas)
    found = endpoint.replicas.filter(id=wanted).first()
    if found is None:
        raise NotFound("replica")
    return found


def _logged(replica: Replica | None, replicas: Sequence[Replica], *, pinned: bool) -> Any:
    lines = logs.tail(replica, LOG_LINES) if replica else []
    return {
        "logged": replica,
        "lines": lines,
        "last": lines[-1].number if lines else 0,
        "pinned": pinned,
        "log_choices": replicas,
        "log_lines": LOG_LINES,
    }
