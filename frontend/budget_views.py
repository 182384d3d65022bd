"""Budgets of a project and its organization: set, see what is used, change, delete."""

from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from billing import errors
from billing.models import Budget, Subject
from billing.spending import budgets, counters
from controlplane.tenancy import access, spending
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import ApiKey, Project
from frontend.budget_forms import UNITS, BudgetForm, ChangeForm, shown
from frontend.budget_rows import Row, budget_row, key_names
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show

COUNTERS = 100  # windows that a budget's page shows, the newest


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists, POST sets one and lists again."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = access.project(visit.principal, wanted, spending.SET)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = access.project(visit.principal, visit.project.id, Permission.VIEW_COSTS)
    keys = ApiKey.objects.filter(project=project, revoked_at=None)
    form = BudgetForm(request.POST or None, keys=dict(keys.values_list("id", "name")))
    if request.method == "POST" and form.is_valid() and _set(visit, form, project):
        messages.success(request, "The budget is set.")
        return redirect("frontend:budgets")
    context = {"project": project, "form": form, "rows": _rows(visit)}
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "budgets.html", context, status=422 if refused else 200)


@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Its windows, and of agents and runs every one's; POST changes it."""
    writes = request.method == "POST"
    found = spending.budget(visit.principal, id, spending.SET if writes else Permission.VIEW_COSTS)
    budget = found.budget
    visit.enter_organization(request, budget.organization_id)
    kept = {
        "amount": shown(budget.amount, budget.unit),
        "allowance": shown(budget.allowance, budget.unit),
        "hard": "yes" if budget.hard else "no",
    }
    form = ChangeForm(request.POST or None, initial=kept)
    if writes and form.is_valid():
        wanted = form.counted(budget.unit)
        if form.is_valid():
            with blaming(form):
                budgets.update(
                    actor=visit.principal.actor,
                    budget=budget,
                    region=found.region,
                    now=visit.now,
                    **wanted,
                )
                messages.success(request, "The budget is changed, what was spent stays spent.")
                return redirect("frontend:budget", id=id)
    context = {"form": form, **_detailed(budget, visit)}
    return show(request, visit, "budget.html", context, status=422 if writes else 200)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    found = spending.budget(visit.principal, id, spending.SET)
    visit.enter_organization(request, found.budget.organization_id)
    if request.method != "POST":
        row = budget_row(found.budget, key_names([found.budget]), None)
        return show(request, visit, "budget_delete.html", {"row": row})
    try:
        budgets.delete(
            actor=visit.principal.actor, budget=found.budget, region=found.region, now=visit.now
        )
    except errors.BudgetConflict as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "The budget is deleted.")
    return redirect("frontend:budgets")


def _set(visit: Visit, form: BudgetForm, project: Project) -> bool:
    data, unit = form.cleaned_data, UNITS[form.cleaned_data["unit"]]
    amounts, whose = form.counted(unit), data["whose"]
    places = {Subject.ORGANIZATION: project.organization_id, Subject.KEY: data["key"]}
    if form.is_valid():
        with blaming(form):
            budgets.create(
                actor=visit.principal.actor,
                owner=spending.owner(
                    visit.principal, whose, places.get(whose, project.id), spending.SET
                ),
                unit=unit,
                window=data["window"],
                time_zone=data["time_zone"],
                agent=data["agent"],
                now=visit.now,
                **amounts,
            )
    return form.is_valid()


def _rows(visit: Visit) -> list[Row]:
    """Those of the organization, of the project, of its agents, runs and keys."""
    organization, project = visit.here()
    keys = ApiKey.objects.filter(project=project).values("id")
    found = list(
        spending.budgets(visit.principal)
        .filter(
            Q(subject=Subject.ORGANIZATION, subject_id=organization.id)
            | Q(subject__in=budgets.OF_PROJECTS, subject_id=project.id)
            | Q(subject=Subject.KEY, subject_id__in=keys)
        )
        .order_by("id")
    )
    found.sort(key=lambda one: Subject.values.index(one.subject))
    current = counters.current(found, visit.now)
    names = key_names(found)
    return [budget_row(budget, names, current.get(budget.id)) for budget in found]


def _detailed(budget: Budget, visit: Visit) -> dict[str, Any]:
    names = key_names([budget])
    windows = list(counters.of(budget).order_by("-last_at")[:COUNTERS])
    statuses = counters.statuses(budget, windows)
    return {
        "row": budget_row(budget, names, counters.current([budget], visit.now).get(budget.id)),
        "windows": [
            (*each.window.partition("/")[::2], window.last_at, budget_row(budget, names, each))
            for window, each in zip(windows, statuses, strict=True)
        ],
        "most": COUNTERS,
    }
