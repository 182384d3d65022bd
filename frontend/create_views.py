"""Wishing for an endpoint."""

from collections.abc import Mapping
from typing import Any, TypeVar

from django.contrib import messages
from django.http import QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import engine_versions, offers, preflight, services
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from controlplane.tenancy.models import Project
from frontend import quote_rows, rates, upload_views
from frontend.endpoint_form import ASKED, EndpointForm
from frontend.visits import Request, Visit, page, show

F = TypeVar("F", bound=EndpointForm)


@page
def create(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows the form; POST makes the endpoint, or says beside each field why not."""
    begins = {name: value for name, value in request.GET.items() if name in ASKED}
    if request.method == "POST":
        wanted = request.POST.get("project", "")
    elif asked := request.GET.get("quote"):
        quote = endpoint_access.quote(visit.principal, asked, Permission.READ)
        wanted, way = quote.project_id, request.GET.get("way", "")
        begins = quote_rows.begins(quote, int(way) if way.isdecimal() and len(way) < 4 else -1)
    else:
        wanted = visit.here()[1].id
    project = access.project(visit.principal, wanted, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, project)
    form = form_of(EndpointForm, request.POST or None, visit, project, begins)
    if request.method == "POST" and form.is_valid():
        try:
            endpoint = services.create(
                actor=visit.principal.actor, project=project, spec=form.spec(), now=visit.now
            )
        except (Conflict, Invalid, NotFound) as error:
            form.blame(error.field, error.message)
        else:
            messages.success(request, f"{endpoint.name} is on its way.")
            said = engine_versions.warnings(endpoint.engine, endpoint.engine_version)
            for one in (*said, *preflight.of(endpoint)):
                messages.warning(request, one)
            return redirect("frontend:endpoint", id=endpoint.id)
    context = {
        "form": form,
        "project": project,
        "asked": ASKED,
        "quoted": quote_rows.found(project, form["quote_id"].value()),
    }
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "endpoint_new.html", context, status=422 if refused else 200)


def form_of(
    kind: type[F],
    data: QueryDict | None,
    visit: Visit,
    project: Project,
    begins: Mapping[str, Any] | None = None,
) -> F:
    """With what the project may choose from; `begins`: fields that are filled in already."""
    there = offers.devices(offers.pools(project.organization))
    account = project.organization.account
    hours = rates.device_hours([one.kind for one in there], account=account, now=visit.now)
    return kind(
        data,
        initial=dict(begins or {}),
        uploads=upload_views.complete(visit, project),
        offers=there,
        hours=hours,
        account=account,
    )
