"""Keys: which data keys there are and what wraps them, and their destruction by two people."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from compliance.keys.destroying import REASONS
from compliance.models import DataKey, KeyDestruction
from controlplane.tenancy import key_access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from frontend import whose
from frontend.visits import Request, Visit, page, show
from frontend.whose import Whose

KEYS, DECIDED = 100, 20


class AskForm(forms.Form):
    subject = forms.CharField(
        label="Whose keys (id)",
        max_length=31,
        help_text="A person (<code>usr_…</code>) or an organization (<code>org_…</code>).",
    )
    reason = forms.ChoiceField(
        label="Why", choices=[(one, one.replace("_", " ").capitalize()) for one in REASONS]
    )


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    return _page(request, visit, whose.of(visit, visit.organization.id))


@require_safe
@page
def operators(request: Request, visit: Visit) -> HttpResponseBase:
    return _page(request, visit, whose.operators(visit))


@require_POST
@page
def ask(request: Request, visit: Visit) -> HttpResponseBase:
    """An organization's page asks for its own keys; the operator's names whose."""
    mine = whose.of_log(visit, request.POST.get("log", ""))
    form = _form(mine, request.POST)
    if not form.is_valid():
        return _page(request, visit, mine, form)
    subject = form.cleaned_data.get("subject", mine.log).strip()
    try:
        key_access.request(
            visit.principal,
            subject_id=subject,
            reason_code=form.cleaned_data["reason"],
            now=visit.now,
        )
    except NotFound:
        if mine.organization is not None:
            raise
        form.add_error("subject", "There is no such person or organization.")
    except (Invalid, Conflict) as error:
        form.add_error(None, error.message)
    if form.errors:
        return _page(request, visit, mine, form)
    messages.success(request, "It is asked for: another person approves it.")
    return redirect(mine.route("data-keys"))


@require_POST
@page
def approve(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    mine = whose.of_log(visit, request.POST.get("log", ""))
    if not request.POST.get("sure"):
        messages.error(request, "Say that it is meant: what these keys sealed opens no more.")
        return redirect(mine.route("data-keys"))
    try:
        key_access.approve(visit.principal, id, now=visit.now)
    except Conflict as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The keys are destroyed: what they sealed opens no more.")
    return redirect(mine.route("data-keys"))


@require_POST
@page
def refuse(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Whoever asked takes it back so, too."""
    mine = whose.of_log(visit, request.POST.get("log", ""))
    try:
        key_access.refuse(visit.principal, id, now=visit.now)
    except Conflict as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Refused: the keys stay as they are.")
    return redirect(mine.route("data-keys"))


def _form(mine: Whose, given: Any = None) -> AskForm:
    form = AskForm(given)
    if mine.organization is not None:
        del form.fields["subject"]
    return form


def _page(
    request: Request, visit: Visit, mine: Whose, form: AskForm | None = None
) -> HttpResponseBase:
    wanted, more = "", {}
    if mine.organization is None:
        keys = key_access.data_keys(visit.principal)
        asked = key_access.destructions(visit.principal)
        more = {"wrapping": key_access.wrapping(visit.principal)}
        if wanted := request.GET.get("subject", "").strip().replace("\0", ""):
            keys = keys.filter(subject_id=wanted)
    else:
        keys, asked = key_access.listed(visit.principal, mine.log)
    context: dict[str, Any] = {
        "whose": mine,
        "keys": [(one, _days(one, visit)) for one in keys.order_by("-id")[:KEYS]],
        "active": keys.filter(destroyed_at=None).count(),
        "destroyed": keys.exclude(destroyed_at=None).count(),
        "wanted": wanted,
        "waiting": asked.filter(state=KeyDestruction.OPEN).order_by("id"),
        "decided": asked.exclude(state=KeyDestruction.OPEN).order_by("-decided_at")[:DECIDED],
        "may_decide": mine.organization is None or visit.can(Permission.MANAGE_OWNERS),
        "me": visit.principal.actor.id,
        "form": form or _form(mine),
        **more,
    }
    return show(request, visit, "data_keys.html", context, status=422 if form else 200)


def _days(key: DataKey, visit: Visit) -> int:
    """Its age; of one that was destroyed, how old it became."""
    return max(((key.destroyed_at or visit.now) - key.created_at).days, 0)
