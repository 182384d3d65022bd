"""Other names for a project's endpoints, with the order in which they are tried."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import aliases
from controlplane.endpoints.models import Alias
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Project
from frontend.forms import NamesField, blaming
from frontend.visits import Request, Visit, page, show

_FALLBACKS = {
    "no_capacity": "it has no room, or does not serve",
    "context_overflow": "the prompt does not fit its context window",
}
_PLAIN = {"autocapitalize": "none", "spellcheck": "false"}


class AliasForm(forms.Form):
    """`name` is there for a new one alone: an alias keeps the name that clients know."""

    name = forms.CharField(
        max_length=100,
        strip=False,
        help_text="What clients ask for as <code>model</code>, such as <code>gpt-4o</code>.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    targets = NamesField(
        label="Endpoints, in the order to try them",
        help_text="Names with commas between: <code>endpoint</code> or "
        "<code>endpoint:adapter</code>.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    fallback_on = forms.MultipleChoiceField(
        label="The next one is tried where",
        required=False,
        choices=[(one, _FALLBACKS[one]) for one in aliases.FALLBACKS],
        initial=["no_capacity"],
        widget=forms.CheckboxSelectMultiple,
    )


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists, POST makes one and lists again."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = access.project(visit.principal, wanted, Permission.MANAGE_ENDPOINTS)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = access.project(visit.principal, visit.project.id, Permission.READ)
    form = AliasForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with blaming(form):
            made = aliases.create_alias(
                actor=visit.principal.actor, project=project, now=visit.now, **form.cleaned_data
            )
            messages.success(request, f"{made.name} is a name of {made.targets[0]} now.")
            return redirect("frontend:aliases")
    context = {"project": project, "form": form, "rows": _rows(visit, project)}
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "aliases.html", context, status=422 if refused else 200)


@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Change where it leads."""
    alias = _alias(request, visit, id)
    kept = {"targets": alias.targets, "fallback_on": alias.fallback_on}
    form = AliasForm(request.POST or None, initial=kept)
    del form.fields["name"]
    if request.method == "POST" and form.is_valid():
        with blaming(form):
            aliases.update_alias(
                actor=visit.principal.actor, alias=alias, now=visit.now, **form.cleaned_data
            )
            messages.success(request, f"{alias.name} is changed.")
            return redirect("frontend:aliases")
    status = 422 if form.is_bound and not form.is_valid() else 200
    return show(request, visit, "alias.html", {"alias": alias, "form": form}, status=status)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    alias = _alias(request, visit, id)
    if request.method != "POST":
        return show(request, visit, "alias_delete.html", {"alias": alias})
    aliases.delete_alias(actor=visit.principal.actor, alias=alias, now=visit.now)
    messages.success(request, f"{alias.name} is no name here any more.")
    return redirect("frontend:aliases")


def _alias(request: Request, visit: Visit, id: str) -> Alias:
    alias = endpoint_access.alias(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, alias.project)
    return alias


def _rows(visit: Visit, project: Project) -> list[dict[str, Any]]:
    """Each alias with its endpoints; those that are gone meanwhile are passed over by gateways."""
    mine = endpoint_access.endpoints(visit.principal).filter(project=project)
    there = dict(mine.values_list("name", "id"))
    found = endpoint_access.aliases(visit.principal).filter(project=project).order_by("name")
    return [
        {
            "alias": alias,
            "targets": [(one, there.get(one.partition(":")[0])) for one in alias.targets],
            "fallbacks": [_FALLBACKS[one] for one in alias.fallback_on],
        }
        for alias in found
    ]
