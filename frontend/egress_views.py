"""What an organization's containers may reach outside, and what they reached."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import egress
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from frontend.forms import NamesField, blaming
from frontend.visits import Request, Visit, page, show

SET = Permission.MANAGE_PROJECTS
SHOWN = 200


class _LinesField(NamesField):
    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value


class EgressForm(forms.Form):
    allow = _LinesField(
        label="May be reached",
        required=False,
        help_text="One <code>host:port</code> or <code>*.host:port</code> a line. Empty: nothing.",
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
    )


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows list and evidence; POST sets the list, whole."""
    if visit.project is None:
        return show(request, visit, "nowhere.html")
    changes = request.method == "POST"
    wanted = request.POST.get("organization", "") if changes else visit.project.organization_id
    found = access.organization(visit.principal, wanted, SET if changes else Permission.READ)
    form = EgressForm(request.POST if changes else None, initial={"allow": found.egress})
    if changes and form.is_valid():
        with blaming(form):
            egress.allow(
                actor=visit.principal.actor,
                organization=found,
                allowed=form.cleaned_data["allow"],
                now=visit.now,
            )
            messages.success(request, "The list holds within seconds, for what runs too.")
            return redirect("frontend:egress")
    names = dict(endpoint_access.endpoints(visit.principal).values_list("id", "name"))
    reached = egress.reached(found, now=visit.now)[:SHOWN]
    context = {
        "organization": found,
        "form": form,
        "reached": [(names.get(one.endpoint_id, one.endpoint_id), one) for one in reached],
    }
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "egress.html", context, status=422 if refused else 200)
