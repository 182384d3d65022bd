"""Releases of the agent on their way to nodes: a part of the operator's page of nodes."""

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from compliance import ids
from controlplane.fleet import agent_rollouts
from controlplane.fleet.errors import FleetError
from controlplane.fleet.models import AgentRollout, Pool
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from frontend.visits import Request, Visit, page

_SHOWN = 10
_VERBS = {
    "resume": (agent_rollouts.resume, "goes on"),
    "abort": (agent_rollouts.abort, "ends here"),
}


def listed(now: datetime) -> list[dict[str, Any]]:
    """The newest rollouts, and how far each is."""
    rows = AgentRollout.objects.select_related("pool", "release").defer("release__content")
    return [{"rollout": row, **agent_rollouts.counts(row, now)} for row in rows[:_SHOWN]]


@require_POST
@page
def begin(request: Request, visit: Visit) -> HttpResponseBase:
    """This control plane's agent, to the nodes of a pool."""
    access.operator(visit.principal)
    wanted = request.POST.get("pool", "")
    pool = Pool.objects.filter(pk=wanted).first() if ids.valid(wanted, "pool") else None
    if pool is None:
        raise NotFound("pool")
    try:
        made = agent_rollouts.begin(
            pool=pool,
            release=agent_rollouts.release(visit.now),
            actor=visit.principal.actor,
            now=visit.now,
        )
    except FleetError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{made.release.version} goes to {pool.name}, canaries first.")
    return redirect("frontend:nodes")


@require_POST
@page
def act(request: Request, visit: Visit, id: str, verb: str) -> HttpResponseBase:
    """Resume or abort a rollout."""
    access.operator(visit.principal)
    row = AgentRollout.objects.filter(pk=id).first() if ids.valid(id, "aro") else None
    if row is None or verb not in _VERBS:
        raise NotFound("rollout")
    do, done = _VERBS[verb]
    try:
        do(rollout=row, actor=visit.principal.actor, now=visit.now)
    except FleetError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"The rollout {done}.")
    return redirect("frontend:nodes")
