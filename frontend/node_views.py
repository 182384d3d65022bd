"""The operator's machines. To anybody else this page does not exist."""

from collections import Counter
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from compliance import ids
from controlplane.api.fleet_views import NodeView
from controlplane.fleet import findings, joining, revoking, services
from controlplane.fleet.errors import FleetError
from controlplane.fleet.models import Device, Node, Pool
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from frontend import rollout_views
from frontend.visits import Request, Visit, page, show

GONE = 50  # that have left, and are shown
_VERBS = {
    "cordon": (services.cordon, "takes no new replicas"),
    "uncordon": (services.uncordon, "takes replicas again"),
    "drain": (services.drain, "is being drained"),
    "revoke": (revoking.revoke_node, "is cut off until a token for it lets it in again"),
}


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    access.operator(visit.principal)
    if request.htmx:
        return show(request, visit, "_nodes.html", _listed(visit))
    return show(request, visit, "nodes.html", _whole(visit))


@require_POST
@page
def act(request: Request, visit: Visit, id: str, verb: str) -> HttpResponseBase:
    """Cordon, uncordon or drain one node, or revoke its certificate."""
    access.operator(visit.principal)
    found = Node.objects.select_related("pool").filter(pk=id, removed_at=None)
    node = found.first() if ids.valid(id, "node") else None
    if node is None or verb not in _VERBS:
        raise NotFound("node")
    do, done = _VERBS[verb]
    try:
        do(node=node, actor=visit.principal.actor, now=visit.now)
    except FleetError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{node.name} {done}.")
    if request.POST.get("from") == "node":
        return redirect("frontend:node", id=node.id)
    return redirect("frontend:nodes")


@require_POST
@page
def enrol(request: Request, visit: Visit) -> HttpResponseBase:
    """A single-use token for a pool, in the command that uses it: shown in this answer alone."""
    access.operator(visit.principal)
    wanted = request.POST.get("pool", "")
    pool = (
        Pool.objects.select_related("region").filter(pk=wanted).first()
        if ids.valid(wanted, "pool")
        else None
    )
    if pool is None:
        raise NotFound("pool")
    token, secret = services.issue_enrollment_token(
        pool=pool, actor=visit.principal.actor, now=visit.now
    )
    context = {
        **_whole(visit),
        "command": joining.command(pool.region, secret),
        "token": token,
    }
    return show(request, visit, "nodes.html", context)


def _whole(visit: Visit) -> dict[str, Any]:
    gone = Node.objects.select_related("pool").exclude(removed_at=None).order_by("-removed_at")
    return {
        **_listed(visit),
        "rollouts": rollout_views.listed(visit.now),
        "gone": gone.prefetch_related("decommissions")[:GONE],
    }


def _listed(visit: Visit) -> dict[str, Any]:
    nodes = list(Node.objects.select_related("pool__region").filter(removed_at=None))
    devices = Device.objects.filter(node__in=nodes)
    counted = devices.values_list("node_id", "kind", "healthy").annotate(
        held=Count("deviceclaim__device", distinct=True), there=Count("id", distinct=True)
    )
    offers: dict[str, list[dict[str, Any]]] = {node.id: [] for node in nodes}
    for node_id, kind, healthy, held, there in counted.order_by("kind", "-healthy"):
        offers[node_id].append({"kind": kind, "healthy": healthy, "held": held, "there": there})
    wrong = findings.open_of(nodes)
    shown = NodeView(nodes, many=True, context={"now": visit.now, "findings": wrong}).data
    rows = [
        {
            "node": node,
            "status": data["status"],
            "unwell": findings.unwell(node, wrong[node.id], visit.now),
            "devices": offers[node.id],
            **_walls(node),
        }
        for node, data in zip(nodes, shown, strict=True)
    ]
    return {
        "rows": rows,
        "tally": sorted(Counter(row["status"] for row in rows).items()),
        "pools": Pool.objects.select_related("region", "organization").order_by("region", "name"),
    }


def _walls(node: Node) -> dict[str, Any]:
    """What separates engines on it; a node that has not reported yet has said nothing."""
    missing: dict[str, str] = node.inventory.get("missing_walls") or {}
    return {
        "walls": node.inventory.get("walls") or [],
        "missing": sorted(missing.items()),
        "reported": bool(node.inventory),
    }
