"""What opens a project's sources: listed by name, given, given anew, deleted; never shown."""

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.tenancy import access, project_secrets
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Project
from controlplane.tenancy.project_secrets import Kind
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show

_KINDS = {
    Kind.HUB: "hub: a token",
    Kind.S3: "S3: keys of a service",
    Kind.REGISTRY: "registry: a login",
    Kind.ENV: "env: a value for an image's environment",
}
_PLAIN = {"autocapitalize": "none", "spellcheck": "false", "autocomplete": "off"}


class SecretForm(forms.Form):
    kind = forms.ChoiceField(choices=[(kind.value, words) for kind, words in _KINDS.items()])
    name = forms.CharField(
        max_length=63,
        initial=project_secrets.DEFAULT,
        help_text="<code>default</code> is used where an endpoint names none. "
        "The name of one that exists gives it another value.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    value = forms.CharField(
        max_length=4096,
        help_text="A hub's token, or a value for the environment; for the others "
        "<code>name=value</code> pairs with spaces between: endpoint_url, access_key_id, "
        "secret_access_key, region; host, username, password.",
        # Not repeated into the page when something is wrong with it.
        widget=forms.PasswordInput(attrs=_PLAIN),
    )

    def parts(self) -> dict[str, str]:
        """Of a valid form. One line, since a password's field has no more: spaces part pairs."""
        text: str = self.cleaned_data["value"]
        if self.cleaned_data["kind"] == Kind.HUB:
            return {"token": text}
        if self.cleaned_data["kind"] == Kind.ENV:
            return {"value": text}
        pairs = (word.partition("=") for word in text.split())
        return {name: value for name, _, value in pairs}


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists; POST keeps one, new or in place of the one of that name, and lists again."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = access.project(visit.principal, wanted, Permission.MANAGE_SECRETS)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = access.project(visit.principal, visit.project.id, Permission.READ)
    form = SecretForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with blaming(form):
            _keep(visit, project, form)
            messages.success(request, f"{form.cleaned_data['name']} is kept.")
            return redirect("frontend:secrets")
    rows = access.secrets(visit.principal).filter(project=project).order_by("kind", "name")
    context = {"project": project, "form": form, "rows": rows}
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "secrets.html", context, status=422 if refused else 200)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    secret = access.secret(visit.principal, id, Permission.MANAGE_SECRETS)
    visit.enter(request, secret.project)
    if request.method != "POST":
        return show(request, visit, "secret_delete.html", {"secret": secret})
    project_secrets.delete_secret(actor=visit.principal.actor, secret=secret, now=visit.now)
    messages.success(request, f"{secret.name} is deleted.")
    return redirect("frontend:secrets")


def _keep(visit: Visit, project: Project, form: SecretForm) -> None:
    kind, name = form.cleaned_data["kind"], form.cleaned_data["name"]
    actor, value = visit.principal.actor, form.parts()
    known = project_secrets.find(project, kind, name)
    if known is None:
        project_secrets.create_secret(
            actor=actor, project=project, kind=kind, name=name, value=value, now=visit.now
        )
    else:
        project_secrets.replace_secret(actor=actor, secret=known, value=value, now=visit.now)
