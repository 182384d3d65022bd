"""The versions of an endpoint: what each is, how the newest takes over, and back again."""

import itertools
import json
from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from controlplane.endpoints import (
    access,
    preflight,
    rollout_plan,
    rollout_rows,
    rollouts,
    versions,
)
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.rollout_progress import ADVICE, Outcome, RolloutReason
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Invalid
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show

SHOWN = 20
CHANGED = ("model", "revision", "device_count", "device_share", "engine_args", "image")
_PLAIN = {"autocapitalize": "none", "spellcheck": "false"}


class ChangeForm(forms.Form):
    """A version with some of this changed; what is left as it is makes none."""

    model = forms.CharField(max_length=300, required=False, widget=forms.TextInput(attrs=_PLAIN))
    revision = forms.CharField(max_length=64, required=False, widget=forms.TextInput(attrs=_PLAIN))
    device_count = forms.IntegerField(label="Devices for a replica", min_value=1, max_value=64)
    device_share = forms.IntegerField(
        label="Thousandths of its device", min_value=1, max_value=1000, required=False
    )
    engine_args = forms.JSONField(
        label="Engine arguments",
        required=False,
        help_text="A JSON object, by vLLM's own names.",
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
    )
    image = forms.JSONField(
        required=False,
        help_text="A JSON object as the API has it; empty: none.",
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
    )
    note = forms.CharField(label="Why", max_length=versions.NOTE_MAX, required=False)
    strategy = forms.ChoiceField(
        label="How it takes over",
        choices=[("rolling", "replica by replica"), ("canary", "a share of traffic first")],
    )
    share = forms.FloatField(
        label="Share of traffic, in percent", required=False, help_text="Of a canary; empty: 10."
    )
    for_s = forms.IntegerField(
        label="Seconds that it is watched", required=False, help_text="Empty: as docs say."
    )

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for name in CHANGED:
            self.fields[name].widget.attrs["data-asked"] = ""

    def clean_engine_args(self) -> dict[str, Any]:
        found = self.cleaned_data["engine_args"]
        if not isinstance(found or {}, dict):
            raise forms.ValidationError("expected a JSON object")
        return found or {}

    def changes(self) -> dict[str, Any]:
        """Of a valid form: what `versions.change` takes."""
        found = {name: self.cleaned_data[name] for name in CHANGED}
        if found["device_share"] is None:
            del found["device_share"]  # as it is
        return found

    def plan(self) -> rollout_plan.RolloutPlan:
        data = self.cleaned_data
        given = {name: data[name] for name in ("share", "for_s") if data[name] is not None}
        return rollout_plan.asked(strategy=data["strategy"], **given)


@page
def index(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    changes = request.method == "POST"
    endpoint = _endpoint(
        request, visit, id, Permission.MANAGE_ENDPOINTS if changes else Permission.READ
    )
    form = ChangeForm(
        request.POST or None, initial={name: getattr(endpoint, name) for name in CHANGED}
    )
    if changes and form.is_valid():
        with blaming(form, otherwise="engine_args"):
            changed = versions.change(
                actor=visit.principal.actor,
                endpoint=endpoint,
                changes=form.changes(),
                plan=form.plan(),
                note=form.cleaned_data["note"],
                now=visit.now,
            )
            messages.success(request, f"A new version of {endpoint.name} is on its way.")
            for one in preflight.of(changed):
                messages.warning(request, one)
            return redirect("frontend:endpoint-versions", id=id)
    status = 422 if form.is_bound and not form.is_valid() else 200
    return show(request, visit, "versions.html", _shown(endpoint, form), status=status)


@require_POST
@page
def act(request: Request, visit: Visit, id: str, verb: str) -> HttpResponseBase:
    """rollback (to POST's `version`), promote, abort."""
    endpoint = _endpoint(request, visit, id, Permission.MANAGE_ENDPOINTS)
    who: dict[str, Any] = {"actor": visit.principal.actor, "endpoint": endpoint, "now": visit.now}
    number = request.POST.get("version", "")
    try:
        if verb == "rollback":
            versions.roll_back(**who, number=int(number) if number.isdecimal() else None)
        elif verb == "promote":
            rollouts.promote(**who)
        else:
            rollouts.abort(**who)
    except Invalid as error:
        messages.error(request, error.message)
    return redirect("frontend:endpoint-versions", id=id)


def _shown(endpoint: Endpoint, form: ChangeForm) -> dict[str, Any]:
    found = list(endpoint.versions.order_by("-number")[: SHOWN + 1])
    before = dict(itertools.pairwise(found))
    rows = [
        (one, versions.differences(before[one], one) if one in before else [])
        for one in found[:SHOWN]
    ]
    newest = rollout_rows.newest(endpoint)
    return {
        "endpoint": endpoint,
        "form": form,
        "asked": CHANGED,
        "rows": [(one, [(n, _said(a), _said(b)) for n, a, b in each]) for one, each in rows],
        "rollouts": [
            (one, ADVICE.get(RolloutReason(one.reason), ""))
            for one in endpoint.rollouts.all()[:SHOWN]
        ],
        "under_way": newest is not None and newest.state == Outcome.PROGRESSING,
    }


def _said(value: object) -> str:
    return "not set" if value in (None, "") else json.dumps(value)


def _endpoint(request: Request, visit: Visit, id: str, need: Permission) -> Endpoint:
    endpoint = access.endpoint(visit.principal, id, need)
    visit.enter(request, endpoint.project)
    return endpoint
