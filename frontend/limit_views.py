"""Limits of a project and its organization, and what the project lets its runs do."""

from typing import Any

from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from controlplane.tenancy import access, limits
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization, Project
from frontend.forms import RatesForm, blaming
from frontend.policy_form import PolicyForm
from frontend.visits import Request, Visit, page, show

SET = Permission.MANAGE_PROJECTS
# Three forms stand on one page: each calls its fields by a name of its own.
_PROJECT, _ORGANIZATION, _RUNS = "project_%s", "organization_%s", "runs_%s"


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows all three; POST sets the one that `form` names."""
    if request.method == "POST":
        project = access.project(visit.principal, request.POST.get("project", ""), SET)
        visit.enter(request, project)
        return _set(request, visit, project, request.POST.get("form", ""))
    if visit.project is None:
        return show(request, visit, "nowhere.html")
    project = access.project(visit.principal, visit.project.id, Permission.READ)
    return _shown(request, visit, project)


def _set(request: Request, visit: Visit, project: Project, which: str) -> HttpResponseBase:
    if which not in _SETTERS:
        raise NotFound("form")
    kind, auto_id, setter = _SETTERS[which]
    form = kind(request.POST, auto_id=auto_id)
    if form.is_valid():
        with blaming(form):
            name = setter(form, visit, project)
            messages.success(request, f"What you set for {name} holds within a second.")
            return redirect("frontend:limits")
    return _shown(request, visit, project, **{which: form})


def _set_project(form: RatesForm, visit: Visit, project: Project) -> str:
    who = visit.principal.actor
    return limits.update_project(
        actor=who, project=project, now=visit.now, **form.cleaned_data
    ).name


def _set_organization(form: RatesForm, visit: Visit, project: Project) -> str:
    who, whole = visit.principal.actor, project.organization
    return limits.update_organization(
        actor=who, organization=whole, now=visit.now, **form.cleaned_data
    ).name


def _set_policy(form: PolicyForm, visit: Visit, project: Project) -> str:
    who, policy = visit.principal.actor, form.policy()
    limits.update_project(actor=who, project=project, now=visit.now, run_policy=policy)
    return f"runs of {project.name}"


def _shown(
    request: Request, visit: Visit, project: Project, **bound: RatesForm | PolicyForm
) -> HttpResponseBase:
    """`bound`: the form that was refused, by its name on the page."""
    kept = {
        "project": RatesForm(initial=_rates(project), auto_id=_PROJECT),
        "organization": RatesForm(initial=_rates(project.organization), auto_id=_ORGANIZATION),
        "runs": PolicyForm(initial=PolicyForm.filled(project.run_policy), auto_id=_RUNS),
    }
    context = {"here": project, "forms": {**kept, **bound}}
    return show(request, visit, "limits.html", context, status=422 if bound else 200)


def _rates(row: Project | Organization) -> dict[str, Any]:
    return {name: getattr(row, name) for name in limits.RATES}


_SETTERS: dict[str, tuple[type[RatesForm | PolicyForm], str, Any]] = {
    "project": (RatesForm, _PROJECT, _set_project),
    "organization": (RatesForm, _ORGANIZATION, _set_organization),
    "runs": (PolicyForm, _RUNS, _set_policy),
}
