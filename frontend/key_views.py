"""API keys of a project: list, issue and rotate (a secret is shown once), limit, revoke."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.tenancy import access, limits, services
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import ApiKey, Scope
from frontend.forms import NamesField, RatesForm, blaming
from frontend.visits import Request, Visit, page, show

_LIFETIMES = {"": None, "1": 1, "30": 30, "90": 90, "365": 365}
_ALLOWED_HELP = "Names with commas between. Empty: every endpoint of the project."
_SCOPES = {
    Scope.INFERENCE: "inference: call models",
    Scope.READ: "read: look at endpoints, usage and costs",
    Scope.MANAGE: "manage: create, stop and delete endpoints, issue keys",
    Scope.EVIDENCE: "evidence: the organization's audit log, its exports and where it is sent",
}


class KeyForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="Who or what uses it, such as an agent's name")
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, words) for scope, words in _SCOPES.items()],
        initial=[Scope.INFERENCE.value],
        widget=forms.CheckboxSelectMultiple,
    )
    allowed_models = NamesField(
        label="Endpoints it may call", required=False, help_text=_ALLOWED_HELP
    )
    expires = forms.ChoiceField(
        label="Valid for",
        required=False,
        choices=[
            ("", "until it is revoked"),
            ("1", "1 day"),
            ("30", "30 days"),
            ("90", "90 days"),
            ("365", "1 year"),
        ],
    )


class LimitsForm(RatesForm):
    """What may be changed of a key: limits.KEY_SETTINGS."""

    allowed_models = NamesField(
        label="Endpoints it may call", required=False, help_text=_ALLOWED_HELP
    )
    networks = NamesField(
        label="Networks it may be used from",
        required=False,
        help_text="Such as <code>192.0.2.0/24, 2001:db8::/32</code>. Empty: from anywhere.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    priority = forms.IntegerField(
        initial=0,
        min_value=-limits.MAX_PRIORITY,
        max_value=limits.MAX_PRIORITY,
        help_text="Of its requests in a queue: higher goes first. -100 to 100.",
    )


class RotateForm(forms.Form):
    overlap_s = forms.TypedChoiceField(
        label="The secrets before it end",
        coerce=int,
        initial="86400",
        choices=[
            ("0", "at once"),
            ("3600", "in 1 hour"),
            ("86400", "in 1 day"),
            ("604800", "in 7 days"),
            ("2592000", "in 30 days"),
        ],
        help_text="Until then both work, so that nothing fails while you replace it.",
    )


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists; POST issues a key and answers with its secret, which no redirect could carry."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = access.project(visit.principal, wanted, Permission.MANAGE_KEYS)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = access.project(visit.principal, visit.project.id, Permission.READ)
    form = KeyForm(request.POST or None)
    key, secret = None, ""
    if request.method == "POST" and form.is_valid():
        access.may_hand_out(visit.principal, project, form.cleaned_data["scopes"])
        days = _LIFETIMES[form.cleaned_data["expires"]]
        with blaming(form):
            key, secret = services.issue_key(
                actor=visit.principal.actor,
                project=project,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                allowed_models=form.cleaned_data["allowed_models"],
                expires_at=visit.now + timedelta(days=days) if days else None,
                now=visit.now,
            )
            form = KeyForm()
    keys = list(
        access.api_keys(visit.principal).filter(project=project).prefetch_related("secrets")
    )
    context = {
        "project": project,
        "form": form,
        "new": key,
        "secret": secret,
        "keys": [(one, _state(one, visit)) for one in keys],
    }
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "keys.html", context, status=422 if refused else 200)


@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """One key with its secrets; POST changes its limits."""
    writes = request.method == "POST"
    need = Permission.MANAGE_KEYS if writes else Permission.READ
    key = access.api_key(visit.principal, id, need)
    visit.enter(request, key.project)
    if not writes:
        return _shown(request, visit, key)
    form = LimitsForm(request.POST)
    if form.is_valid():
        with blaming(form):
            limits.update_key(
                actor=visit.principal.actor, key=key, now=visit.now, **form.cleaned_data
            )
            messages.success(request, f"The limits of {key.name} hold within a second.")
            return redirect("frontend:key", id=id)
    return _shown(request, visit, key, form=form, status=422)


@page
def rotate(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Answers with the new secret, which no redirect could carry."""
    writes = request.method == "POST"
    need = Permission.MANAGE_KEYS if writes else Permission.READ
    key = access.api_key(visit.principal, id, need)
    visit.enter(request, key.project)
    if not writes:  # somebody came back to the address of an answer
        return redirect("frontend:key", id=id)
    form, secret = RotateForm(request.POST), ""
    if form.is_valid():
        with blaming(form):
            key, secret = services.rotate_key(
                actor=visit.principal.actor, key=key, now=visit.now, **form.cleaned_data
            )
    if not secret:
        return _shown(request, visit, key, rotation=form, status=422)
    return _shown(request, visit, key, secret=secret)


@page
def revoke(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    key = access.api_key(visit.principal, id, Permission.MANAGE_KEYS)
    visit.enter(request, key.project)
    if request.method != "POST":
        return show(request, visit, "key_revoke.html", {"key": key})
    services.revoke_key(actor=visit.principal.actor, key=key, now=visit.now)
    messages.success(request, f"{key.name} ({key.prefix}…) is revoked.")
    return redirect("frontend:keys")


def _shown(
    request: Request,
    visit: Visit,
    key: ApiKey,
    *,
    form: LimitsForm | None = None,
    rotation: RotateForm | None = None,
    secret: str = "",
    status: int = 200,
) -> HttpResponseBase:
    kept: dict[str, Any] = {name: getattr(key, name) for name in limits.KEY_SETTINGS}
    context = {
        "key": key,
        "state": _state(key, visit),
        "secrets": [
            (one, one.expires_at is not None and one.expires_at <= visit.now)
            for one in key.secrets.all()
        ],
        "form": form or LimitsForm(initial=kept),
        "rotation": rotation or RotateForm(),
        "secret": secret,
    }
    return show(request, visit, "key.html", context, status=status)


def _state(key: ApiKey, visit: Visit) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.usable(visit.now) else "expired"
