"""Evidence: exports of an organization's records, and its newest audit events."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from billing import months
from compliance import audit, exports, ids
from compliance.actions import ACTIONS
from compliance.bundles import readme
from compliance.log import search, signing
from compliance.models import AuditEvent, Export
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization
from frontend.visits import Request, Visit, page, show

EVENTS = 50
EXPORTS = 20
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class ExportForm(forms.Form):
    since = forms.DateField(
        label="From", widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})
    )
    until = forms.DateField(
        label="To, that day included",
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
    )
    kind = forms.ChoiceField(
        label="What",
        choices=lambda: [(one.name, one.title) for one in exports.KINDS.values()],
        initial=exports.KIND,
    )
    profile = forms.ChoiceField(
        label="How much of people",
        choices=[
            ("pseudonymised", "Pseudonymised"),
            ("full", "Full, personal values opened"),
            ("counts-only", "Counts only"),
        ],
        initial=exports.PROFILE,
    )
    reason = forms.CharField(
        max_length=exports.MAX_REASON, help_text="Stands in the audit log: who asked, and why."
    )

    def blame(self, error: exports.ExportError) -> None:
        field = {"end": "until"}.get(error.field, error.field)
        self.add_error(field if field in self.fields else None, error.message)


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows; POST asks for an export, which a worker builds."""
    if request.method == "POST":
        organization = _organization(visit, request.POST.get("organization", ""))
        form = ExportForm(request.POST)
        if form.is_valid() and _requested(visit, organization, form):
            messages.success(request, "The export is being built.")
            return redirect("frontend:evidence")
    elif visit.organization is None:
        return show(request, visit, "nowhere.html")
    else:
        organization = _organization(visit, visit.organization.id)
        first = months.start_of(visit.now).date()
        form = ExportForm(initial={"since": first, "until": visit.now.astimezone(UTC).date()})
    context = {
        "organization": organization,
        "form": form,
        **_exports(organization, visit.now),
        **_check(),
        **_events(request, visit, organization),
    }
    return show(request, visit, "evidence.html", context, status=422 if form.is_bound else 200)


@require_safe
@page
def exports_table(request: Request, visit: Visit) -> HttpResponseBase:
    """The list of exports alone, while one is being built."""
    wanted = request.GET.get("organization", "")
    organization = _organization(visit, wanted)
    context = {"organization": organization, **_exports(organization, visit.now)}
    return show(request, visit, "_exports.html", context)


def _organization(visit: Visit, id: str) -> Organization:
    return access.organization(visit.principal, id, Permission.EXPORT)


def _requested(visit: Visit, organization: Organization, form: ExportForm) -> bool:
    try:
        exports.request(
            actor=visit.principal.actor,
            log=organization.id,
            reason=form.cleaned_data["reason"],
            kind=form.cleaned_data["kind"],
            profile=form.cleaned_data["profile"],
            start=_midnight(form.cleaned_data["since"]),
            end=_midnight(form.cleaned_data["until"] + timedelta(days=1)),
            now=visit.now,
            region=organization.region_code,
        )
    except exports.ExportError as error:
        form.blame(error)
        return False
    return True


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _check() -> dict[str, Any]:
    """What is needed to check a bundle alone. No key while the signer does not answer."""
    try:
        key = signing.vkey()
    except signing.SignerAway:
        key = ""
    return {"log_key": key, "verifier_sha256": readme.verifier_sha256()}


def _exports(organization: Organization, now: datetime) -> dict[str, Any]:
    mine = Export.objects.filter(log_id=organization.id)[:EXPORTS]
    rows = [(export, exports.status(export, now)) for export in mine]
    return {"exports": rows, "building": any(status == "building" for _, status in rows)}


def _events(request: Request, visit: Visit, organization: Organization) -> dict[str, Any]:
    """A page of the log, newest first; `before` an event, and with what `search` filters by."""
    wanted = {name: request.GET.get(name, "").strip().replace("\0", "") for name in search.NAMES}
    filters = {name: value for name, value in wanted.items() if value}
    if filters.get("action") not in ACTIONS:
        filters.pop("action", None)
    for name in search.TIMES:
        if _DAY.fullmatch(filters.get(name, "")):
            filters[name] += "T00:00:00Z"
    try:
        rows = search.find(organization.id, filters).order_by("-id")
    except search.BadFilter:
        rows = AuditEvent.objects.none()
    before = request.GET.get("before", "")
    if ids.valid(before, "evt"):
        rows = rows.filter(id__lt=before)
    found = list(rows[: EVENTS + 1])
    members = access.memberships(visit.principal).filter(organization=organization)
    people = dict(members.values_list("user_id", "user__email"))
    return {
        "events": [(one, people.get(one.actor_id, "")) for one in found[:EVENTS]],
        "older": found[EVENTS - 1].id if len(found) > EVENTS else "",
        "wanted": wanted,
        "filters": urlencode({name: value for name, value in wanted.items() if value}),
        "actions": sorted(ACTIONS),
        "outcomes": sorted(audit.OUTCOMES),
    }
