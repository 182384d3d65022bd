"""API keys of a project: list, issue (the secret is shown once), revoke."""

from datetime import timedelta

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.tenancy import access, services
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict, Invalid
from controlplane.tenancy.models import Scope
from frontend.visits import Request, Visit, page, show

_LIFETIMES = {"": None, "1": 1, "30": 30, "90": 90, "365": 365}
_SCOPES = {
    Scope.INFERENCE: "inference: call models",
    Scope.READ: "read: look at endpoints, usage and costs",
    Scope.MANAGE: "manage: create, stop and delete endpoints, issue keys",
}


class KeyForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="Who or what uses it, such as an agent's name")
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, words) for scope, words in _SCOPES.items()],
        initial=[Scope.INFERENCE.value],
        widget=forms.CheckboxSelectMultiple,
    )
    allowed_models = forms.CharField(
        label="Endpoints it may call",
        required=False,
        help_text="Names with commas between. Empty: every endpoint of the project.",
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

    def clean_allowed_models(self) -> list[str]:
        names = self.cleaned_data["allowed_models"].split(",")
        return [name.strip() for name in names if name.strip()]


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
        days = _LIFETIMES[form.cleaned_data["expires"]]
        try:
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
        except (Conflict, Invalid) as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
    keys = list(
        access.api_keys(visit.principal).filter(project=project).prefetch_related("secrets")
    )
    context = {
        "project": project,
        "form": form,
        "new": key,
        "secret": secret,
        "keys": [(one, _state(one.revoked_at is not None, one.usable(visit.now))) for one in keys],
    }
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "keys.html", context, status=422 if refused else 200)


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


def _state(revoked: bool, usable: bool) -> str:
    if revoked:
        return "revoked"
    return "valid" if usable else "expired"
