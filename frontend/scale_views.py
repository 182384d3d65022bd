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
from controlplane.tenancy.errors import Conflict, Invalid
from frontend import elastic_form
from frontend.elastic_form import ElasticForm
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


class ScaleForm(ElasticForm, QueueForm):
    """What may be changed of an endpoint while it serves."""


@page
def scale(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(request, visit, id)
    queue = {name: getattr(endpoint, name) for name in services.QUEUE}
    form = ScaleForm(request.POST or None, initial=elastic_form.kept(endpoint) | queue)
    if request.method == "POST" and form.is_valid():
        changes = form.elastic() | {name: form.cleaned_data[name] for name in services.QUEUE}
        with blaming(form, otherwise="cap_seconds"):
            services.update(
                actor=visit.principal.actor, endpoint=endpoint, now=visit.now, **changes
            )
            messages.success(request, f"The bounds of {endpoint.name} are changed.")
            return redirect("frontend:endpoint", id=id)
    context = {"endpoint": endpoint, "form": form, "burst": elastic_form.BurstForm()}
    status = 422 if form.is_bound and not form.is_valid() else 200
    return show(request, visit, "endpoint_scale.html", context, status=status)


@require_POST
@page
def burst(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(request, visit, id)
    form = elastic_form.BurstForm(request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            services.declare_burst(
                actor=visit.principal.actor,
                endpoint=endpoint,
                now=visit.now,
                workers=data["workers"],
                in_s=60 * data["in_minutes"],
                for_s=60 * data["for_minutes"],
                sequences=data["sequences"],
            )
        except Invalid as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"{endpoint.name} will be ready for them.")
    else:
        messages.error(request, "Four whole numbers announce a burst.")
    return redirect("frontend:endpoint-scale", id=id)


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
