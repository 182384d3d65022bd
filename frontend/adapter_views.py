"""LoRA adapters of an endpoint: how each is, one more, one less."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from controlplane.endpoints import access, adapters
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.states import LIVE
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show

_PLAIN = {"autocapitalize": "none", "spellcheck": "false"}


class AdapterForm(forms.Form):
    name = forms.CharField(
        max_length=64,
        strip=False,
        help_text="Requests call it <code>endpoint:name</code>.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    path = forms.CharField(
        label="Where it lies",
        max_length=300,
        help_text="A hub id <code>org/name</code>, or an absolute path on the nodes.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    revision = forms.CharField(
        required=False,
        max_length=64,
        help_text="Of a hub id: a branch, tag or commit.",
        widget=forms.TextInput(attrs=_PLAIN),
    )


@page
def index(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET lists, POST loads one and lists again."""
    need = Permission.MANAGE_ENDPOINTS if request.method == "POST" else Permission.READ
    endpoint = _endpoint(request, visit, id, need)
    form = AdapterForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with blaming(form, "path"):
            adapters.load(
                actor=visit.principal.actor, endpoint=endpoint, now=visit.now, **form.cleaned_data
            )
            messages.success(request, f"{form.cleaned_data['name']} is asked for.")
            return redirect("frontend:endpoint-adapters", id=id)
    status = 422 if form.is_bound and not form.is_valid() else 200
    return show(request, visit, "adapters.html", _context(endpoint) | {"form": form}, status=status)


@require_POST
@page
def unload(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    endpoint = _endpoint(request, visit, id, Permission.MANAGE_ENDPOINTS)
    name = request.POST.get("name", "")
    try:
        adapters.unload(actor=visit.principal.actor, endpoint=endpoint, name=name, now=visit.now)
    except NotFound:  # somebody was quicker
        messages.error(request, "It was unloaded already.")
    else:
        messages.success(request, f"{name} is unloaded.")
    return redirect("frontend:endpoint-adapters", id=id)


def _context(endpoint: Endpoint) -> dict[str, Any]:
    replicas = list(endpoint.replicas.filter(state__in=LIVE))
    states = adapters.states(endpoint, replicas)
    return {
        "endpoint": endpoint,
        "states": states,
        "moving": any(one.status != "loaded" for one in states),
        "room": endpoint.engine_args.get("max_loras", 0),
        "rank": endpoint.engine_args.get("max_lora_rank", adapters.MAX_RANK),
    }


def _endpoint(request: Request, visit: Visit, id: str, need: Permission) -> Endpoint:
    endpoint = access.endpoint(visit.principal, id, need)
    visit.enter(request, endpoint.project)
    return endpoint
