"""Engine versions: what the operator supports, warns of and blocks; a page for nobody else."""

from datetime import timedelta

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from compliance import ids
from controlplane.endpoints import engine_blocking, engine_outlook, engine_versions
from controlplane.endpoints.models import EngineVersion
from controlplane.tenancy import access
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from frontend.visits import Request, Visit, page, show

DAYS = 14
_VERBS = ("support", "deprecate", "block")


class AddForm(forms.Form):
    engine = forms.CharField(max_length=32)
    version = forms.CharField(max_length=64)
    image = forms.CharField(max_length=500, required=False)


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    access.operator(visit.principal)
    rows = [
        {"version": row, "on": engine_outlook.listed(row, visit.now)}
        for row in EngineVersion.objects.order_by("engine", "-id")
    ]
    return show(request, visit, "engines.html", {"rows": rows, "days": DAYS})


@require_POST
@page
def add(request: Request, visit: Visit) -> HttpResponseBase:
    access.operator(visit.principal)
    form = AddForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Name an engine and a version.")
        return redirect("frontend:engines")
    try:
        row = engine_versions.add(actor=visit.principal.actor, now=visit.now, **form.cleaned_data)
    except (Conflict, Invalid) as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{row} may be chosen.")
    return redirect("frontend:engines")


@require_POST
@page
def act(request: Request, visit: Visit, id: str, verb: str) -> HttpResponseBase:
    """Support, deprecate or block a version."""
    access.operator(visit.principal)
    row = EngineVersion.objects.filter(pk=id).first() if ids.valid(id, "egv") else None
    if row is None or verb not in _VERBS:
        raise NotFound("engine version")
    try:
        _do(request, visit, row, verb)
    except (Invalid, ValueError) as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{row}: done.")
    return redirect("frontend:engines")


def _do(request: Request, visit: Visit, row: EngineVersion, verb: str) -> None:
    """Raises Invalid, ValueError."""
    actor, now, note = visit.principal.actor, visit.now, request.POST.get("note", "").strip()
    if verb == "support":
        engine_blocking.support(actor=actor, version=row, now=now)
    elif verb == "deprecate":
        engine_versions.deprecate(actor=actor, version=row, note=note, now=now)
    else:
        days = request.POST.get("days", str(DAYS))
        if not days.isdecimal() or len(days) > 3:
            raise ValueError("expected a number of days")
        deadline = now + timedelta(days=int(days))
        engine_blocking.block(actor=actor, version=row, deadline=deadline, note=note, now=now)
