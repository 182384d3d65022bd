"""One node's page: how it is, what is planned for it, and how it leaves."""

from datetime import UTC
from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from compliance import ids
from controlplane.api import keeping_views
from controlplane.api.fleet_views import NodeView
from controlplane.endpoints import decommissioning, maintenance
from controlplane.endpoints.models import DeviceClaim
from controlplane.fleet import findings
from controlplane.fleet.errors import FleetError
from controlplane.fleet.models import Decommission, Maintenance, Node
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from frontend.visits import Request, Visit, page, show

PAST = 20  # findings that are over


def _moment() -> forms.DateTimeInput:
    return forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"})


class MaintenanceForm(forms.Form):
    starts_at = forms.DateTimeField(label="From (UTC)", widget=_moment())
    ends_at = forms.DateTimeField(label="To (UTC)", widget=_moment())
    message = forms.CharField(
        label="Word to the tenants on it",
        max_length=500,
        required=False,
        help_text="Beside when it is. They are told at once, until they close it.",
    )
    take_back = forms.BooleanField(
        label="Take it back into service at the end, if it is well", required=False, initial=True
    )

    def times(self) -> dict[str, Any]:
        return {
            name: self.cleaned_data[name].replace(tzinfo=UTC) for name in ("starts_at", "ends_at")
        }


class LeaveForm(forms.Form):
    reason = forms.CharField(max_length=500, help_text="Stands in the signed record.")
    unconfirmed = forms.BooleanField(
        label="It will never answer again: do not wait for what it says",
        required=False,
        help_text="The record then says that nothing was confirmed to be erased.",
    )
    name = forms.CharField(
        label="Type its name", widget=forms.TextInput(attrs={"autocomplete": "off"})
    )


@require_safe
@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    node = _node(visit, id)
    if request.htmx:
        return show(request, visit, "_node_live.html", _live(visit, node))
    return _page(request, visit, node, MaintenanceForm(), LeaveForm())


@require_POST
@page
def plan(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Plan maintenance."""
    node, form = _node(visit, id), MaintenanceForm(request.POST)
    if form.is_valid():
        try:
            maintenance.plan(
                node=node,
                **form.times(),
                message=form.cleaned_data["message"],
                take_back=form.cleaned_data["take_back"],
                actor=visit.principal.actor,
                now=visit.now,
            )
            messages.success(request, f"Maintenance of {node.name} is planned.")
            return redirect("frontend:node", id=node.id)
        except FleetError as error:
            form.add_error(None, str(error))
    return _page(request, visit, node, form, LeaveForm(), status=422)


@require_POST
@page
def leave(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Decommission the node."""
    node, form = _node(visit, id), LeaveForm(request.POST)
    if form.is_valid() and form.cleaned_data["name"] != node.name:
        form.add_error("name", f"It is called {node.name}.")
    if form.is_valid():
        try:
            decommissioning.begin(
                node=node,
                reason=form.cleaned_data["reason"],
                unconfirmed=form.cleaned_data["unconfirmed"],
                actor=visit.principal.actor,
                now=visit.now,
            )
            messages.success(request, f"{node.name} is being decommissioned.")
        except FleetError as error:  # it has left: its page has no form to say so in
            messages.error(request, str(error))
        return redirect("frontend:node", id=node.id)
    return _page(request, visit, node, MaintenanceForm(), form, status=422)


@require_POST
@page
def replace(request: Request, visit: Visit, id: str, index: int) -> HttpResponseBase:
    """Have one device replaced."""
    node = _node(visit, id)
    try:
        keeping_views.begin(
            node,
            device=index,
            reason=request.POST.get("reason", ""),
            unconfirmed=False,
            actor=visit.principal.actor,
            now=visit.now,
        )
        messages.success(request, f"Device {index} is to be replaced; what runs on it is moved.")
    except FleetError as error:
        messages.error(request, str(error))
    return redirect("frontend:node", id=node.id)


@require_POST
@page
def cancel(request: Request, visit: Visit, id: str, what: str) -> HttpResponseBase:
    """Call off maintenance or a decommission of the node, by its id."""
    node = _node(visit, id)
    try:
        if ids.valid(what, "mnt"):
            planned = Maintenance.objects.filter(node=node, pk=what).first()
            if planned is None:
                raise NotFound("maintenance")
            maintenance.cancel(maintenance=planned, actor=visit.principal.actor, now=visit.now)
        else:
            row = _leaving(node, what)
            decommissioning.cancel(decommission=row, actor=visit.principal.actor, now=visit.now)
        messages.success(request, "It is called off.")
    except FleetError as error:
        messages.error(request, str(error))
    return redirect("frontend:node", id=node.id)


@require_safe
@page
def record(request: Request, visit: Visit, id: str, what: str) -> HttpResponseBase:
    """The signed record, as a file."""
    return keeping_views.download(_leaving(_node(visit, id), what))


def _page(
    request: Request,
    visit: Visit,
    node: Node,
    planning: MaintenanceForm,
    leaving: LeaveForm,
    status: int = 200,
) -> HttpResponseBase:
    context = {**_live(visit, node), "planning": planning, "leaving": leaving}
    return show(request, visit, "node.html", context, status=status)


def _live(visit: Visit, node: Node) -> dict[str, Any]:
    now_wrong = findings.open_of([node])
    shown = NodeView(node, context={"now": visit.now, "findings": now_wrong}).data
    held = set(DeviceClaim.objects.filter(device__node=node).values_list("device_id", flat=True))
    leaving = Decommission.objects.filter(node=node).select_related("device")
    return {
        "node": node,
        "status": shown["status"],
        "conditions": findings.conditions_of(node, now_wrong[node.id], visit.now),
        "wrong": now_wrong[node.id],
        "past": findings.history(node).exclude(ended_at=None)[:PAST],
        "devices": [(one, one.id in held) for one in node.devices.all()],
        "maintenances": Maintenance.objects.filter(node=node)[:10],
        "decommissions": leaving,
        "goes": leaving.filter(device=None).exclude(state="cancelled").exists(),
        "waits": leaving.filter(
            device=None, state__in=("draining", "erasing"), unconfirmed=False
        ).first(),
    }


def _node(visit: Visit, id: str) -> Node:
    access.operator(visit.principal)
    found = Node.objects.select_related("pool__region").filter(pk=id)
    node = found.first() if ids.valid(id, "node") else None
    if node is None:
        raise NotFound("node")
    return node


def _leaving(node: Node, pk: str) -> Decommission:
    rows = Decommission.objects.select_related("device", "node__pool__region")
    found = rows.filter(node=node, pk=pk).first() if ids.valid(pk, "dcm") else None
    if found is None:
        raise NotFound("decommission")
    return found
