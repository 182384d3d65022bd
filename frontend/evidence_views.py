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
from frontend import whose as whose_log
from frontend.visits import Request, Visit, page, show
from frontend.whose import Whose

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
    kind = forms.ChoiceField(label="What", choices=[], initial=exports.KIND)
    about = forms.CharField(
        required=False,
        max_length=64,
        label="About (id)",
        help_text="For exports about one person, certificate or request: its id.",
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

    def __init__(self, owner: str, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        kinds = [one for one in exports.KINDS.values() if owner in one.of]
        self.fields["kind"].choices = [(one.name, one.title) for one in kinds]  # type: ignore[attr-defined]

    def blame(self, error: exports.ExportError) -> None:
        field = {"end": "until"}.get(error.field, error.field)
        self.add_error(field if field in self.fields else None, error.message)


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows; POST asks for an export, which a worker builds."""
    if request.method == "POST":
        return _page(request, visit, whose_log.of(visit, request.POST.get("organization", "")))
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    return _page(request, visit, whose_log.of(visit, visit.organization.id))


@page
def operators(request: Request, visit: Visit) -> HttpResponseBase:
    """The same of the operator's own log. Looking through it is an event, as by the API."""
    whose = whose_log.operators(visit)
    if request.method != "POST":
        audit.record(
            actor=visit.principal.actor,
            action="log.read",
            target=audit.Target("log", whose.log),
            log=whose.log,
            now=visit.now,
        )
    return _page(request, visit, whose)


@require_safe
@page
def exports_table(request: Request, visit: Visit) -> HttpResponseBase:
    """The list of exports alone, while one is being built."""
    wanted = request.GET.get("log", "")
    whose = whose_log.of_log(visit, wanted)
    return show(request, visit, "_exports.html", {"whose": whose, **_exports(whose, visit.now)})


def _page(request: Request, visit: Visit, whose: Whose) -> HttpResponseBase:
    if request.method == "POST":
        form = ExportForm(whose.owner, request.POST)
        if form.is_valid() and _requested(visit, whose, form):
            messages.success(request, "The export is being built.")
            return redirect(whose.page)
    else:
        days = {
            "since": months.start_of(visit.now).date(),
            "until": visit.now.astimezone(UTC).date(),
        }
        form = ExportForm(whose.owner, initial=days)
    context = {
        "whose": whose,
        "form": form,
        **_exports(whose, visit.now),
        **_check(),
        **_events(request, visit, whose),
    }
    return show(request, visit, "evidence.html", context, status=422 if form.is_bound else 200)


def _requested(visit: Visit, whose: Whose, form: ExportForm) -> bool:
    try:
        exports.request(
            actor=visit.principal.actor,
            log=whose.log,
            reason=form.cleaned_data["reason"],
            kind=form.cleaned_data["kind"],
            profile=form.cleaned_data["profile"],
            about=form.cleaned_data["about"],
            start=_midnight(form.cleaned_data["since"]),
            end=_midnight(form.cleaned_data["until"] + timedelta(days=1)),
            now=visit.now,
            region=whose.region,
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


def _exports(whose: Whose, now: datetime) -> dict[str, Any]:
    mine = Export.objects.filter(log_id=whose.log)[:EXPORTS]
    rows = [(export, exports.status(export, now)) for export in mine]
    return {"exports": rows, "building": any(status == "building" for _, status in rows)}


def _events(request: Request, visit: Visit, whose: Whose) -> dict[str, Any]:
    """A page of the log, newest first; `before` an event, and with what `search` filters by."""
    wanted = {name: request.GET.get(name, "").strip().replace("\0", "") for name in search.NAMES}
    filters = {name: value for name, value in wanted.items() if value}
    if filters.get("action") not in ACTIONS:
        filters.pop("action", None)
    for name in search.TIMES:
        if _DAY.fullmatch(filters.get(name, "")):
            filters[name] += "T00:00:00Z"
    try:
        rows = search.find(whose.log, filters).order_by("-id")
    except search.BadFilter:
        rows = AuditEvent.objects.none()
    before = request.GET.get("before", "")
    if ids.valid(before, "evt"):
        rows = rows.filter(id__lt=before)
    found = list(rows[: EVENTS + 1])
    members = access.memberships(visit.principal).filter(organization=whose.organization)
    people = dict(members.values_list("user_id", "user__email")) if whose.organization else {}
    return {
        "events": [(one, people.get(one.actor_id, "")) for one in found[:EVENTS]],
        "older": found[EVENTS - 1].id if len(found) > EVENTS else "",
        "wanted": wanted,
        "filters": urlencode({name: value for name, value in wanted.items() if value}),
        "actions": sorted(ACTIONS),
        "outcomes": sorted(audit.OUTCOMES),
    }
