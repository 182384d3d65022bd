"""How many replicas an endpoint has, who waits for it how long, and for whom it is."""

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from controlplane.endpoints import access, services, spec
from controlplane.endpoints.models import Endpoint
from controlplane.tenancy import access as tenancy_access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show


class QueueForm(forms.Form):
    """Bounds of an endpoint's queue; an empty one is as the gateway is set."""

    queue_limit = forms.IntegerField(
        label="Requests that may wait",
        required=False,
        min_value=0,
        max_value=spec.MAX_QUEUE,
        help_text="For room, or for a replica that wakes. 0: none. Empty: as the gateway is set.",
    )
    queue_s = forms.IntegerField(
        label="Seconds that they may wait",
        required=False,
        min_value=0,
        max_value=spec.QUEUE_S.stop - 1,
        help_text="0: not at all. Empty: as the gateway is set.",
    )


class ScaleForm(QueueForm):
    """What may be changed of an endpoint: services.BOUNDS and QUEUE."""

    min_replicas = forms.IntegerField(
        label="Replicas at least",
        min_value=0,
        help_text="0: it sleeps when idle and costs nothing; the first request wakes it.",
    )
    max_replicas = forms.IntegerField(label="Replicas at most", min_value=1)
    scale_to_zero_timeout_s = forms.IntegerField(
        label="Seconds idle until a replica above the least stops", min_value=10
    )


@page
def scale(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(request, visit, id)
    kept = {name: getattr(endpoint, name) for name in (*services.BOUNDS, *services.QUEUE)}
    form = ScaleForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        with blaming(form):
            services.update(
                actor=visit.principal.actor, endpoint=endpoint, now=visit.now, **form.cleaned_data
            )
            messages.success(request, f"The bounds of {endpoint.name} are changed.")
            return redirect("frontend:endpoint", id=id)
    context = {"endpoint": endpoint, "form": form}
    status = 422 if form.is_bound and not form.is_valid() else 200
    return show(request, visit, "endpoint_scale.html", context, status=status)


@require_POST
@page
def share(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """For every organization of the region, by the token: the operator's to do."""
    endpoint = _endpoint(request, visit, id)
    tenancy_access.operator(visit.principal)
    try:
        services.share(actor=visit.principal.actor, endpoint=endpoint, now=visit.now)
    except Conflict as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{endpoint.name} is shared with {endpoint.region_code}.")
    return redirect("frontend:endpoint", id=id)


@require_POST
@page
def unshare(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(request, visit, id)
    tenancy_access.operator(visit.principal)
    services.unshare(actor=visit.principal.actor, endpoint=endpoint, now=visit.now)
    messages.success(request, f"{endpoint.name} is its own project's again.")
    return redirect("frontend:endpoint", id=id)


def _endpoint(request: Request, visit: Visit, id: str) -> Endpoint:
    endpoint = access.endpoint(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, endpoint.project)
    return endpoint
