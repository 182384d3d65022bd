"""A pool's health policy: what is done about what is found wrong with its nodes. The operator's."""

from typing import Any

from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from compliance import ids
from controlplane.fleet import health
from controlplane.fleet.errors import FleetError, PolicyChanged
from controlplane.fleet.models import Node, Pool
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from frontend.health_form import FIELDS, HealthForm
from frontend.visits import Request, Visit, page, show


@require_http_methods(["GET", "HEAD", "POST"])
@page
def policy(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    pool = _pool(visit, id)
    kept: dict[str, Any] = pool.health_policy
    form = HealthForm(
        health.policy_of(pool), kept, request.POST if request.method == "POST" else None
    )
    if not form.is_bound:
        return _page(request, visit, pool, form)
    if form.is_valid():
        try:
            _save(visit, pool, form, kept)
        except PolicyChanged:
            form.add_error("kept", "stale")
        except FleetError as error:
            form.add_error(None, str(error))
        else:
            said = form.cleaned_data["back"].replace("_", " ")
            what = f"{said} is as by default" if said else "The policy is saved"
            messages.success(request, f"{what}: it holds from the next look, seconds from now.")
            return redirect("frontend:pool-health", id=pool.id)
    return _page(request, visit, pool, form, status=422)


def _save(visit: Visit, pool: Pool, form: HealthForm, kept: dict[str, Any]) -> None:
    """Raises FleetError."""
    actor, changes = visit.principal.actor, form.changes()
    health.set_policy(pool=pool, changes=changes, actor=actor, now=visit.now, instead_of=kept)


def _page(
    request: Request, visit: Visit, pool: Pool, form: HealthForm, status: int = 200
) -> HttpResponseBase:
    out = Node.objects.filter(pool=pool, removed_at=None).exclude(health_action="")
    context = {
        "pool": pool,
        "form": form,
        "labels": FIELDS.values(),
        "out": out.order_by("name"),
        "invalid": health.invalid(pool),
    }
    return show(request, visit, "pool_health.html", context, status=status)


def _pool(visit: Visit, id: str) -> Pool:
    access.operator(visit.principal)
    found = Pool.objects.select_related("region", "organization").filter(pk=id)
    pool = found.first() if ids.valid(id, "pool") else None
    if pool is None:
        raise NotFound("pool")
    return pool
