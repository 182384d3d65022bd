"""Runs and agents of a project: found by the name that their developer gave, seen, stopped.

Names are personal data and are kept nowhere, so a name is posted and never part of an address:
what the pages show is its reference.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from billing import pseudonyms
from billing.meters import runs
from billing.models import Subject
from billing.spending import counters
from controlplane.tenancy import access, running, spending
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Project
from frontend.budget_rows import Row, budget_row
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show

SHOWN = 100  # rows of a table, the dearest
LOOK_BACK = timedelta(days=30)  # what requests used is kept for so long


class FindForm(forms.Form):
    what = forms.ChoiceField(
        label="What", choices=[("run", "a run, as in x-stoa-run"), ("agent", "an agent")]
    )
    name = forms.CharField(
        label="Its name",
        max_length=1100,
        help_text="With the runs above it, by slashes: <code>research-42/summaries</code>. "
        "A reference, <code>run_…</code> or <code>agt_…</code>, does as well.",
        widget=forms.TextInput(
            attrs={"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
        ),
    )


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists the dearest; POST finds one by its name."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = access.project(visit.principal, wanted, Permission.VIEW_COSTS)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = access.project(visit.principal, visit.project.id, Permission.VIEW_COSTS)
    form = FindForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with blaming(form, otherwise="name"):
            ref = _reference(project, **form.cleaned_data)
            return redirect("frontend:run", id=project.id, ref=ref)
    by: runs.Grouping = "agent" if request.GET.get("by") == "agent" else "root"
    context = {
        "project": project,
        "form": form,
        "by": by,
        "rows": _used(project, by, visit.now),
        "most": SHOWN,
    }
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "runs.html", context, status=422 if refused else 200)


@require_safe
@page
def detail(request: Request, visit: Visit, id: str, ref: str) -> HttpResponseBase:
    """One run with all that is below it, or one agent. One that is under way for the first time
    has used nothing yet that is known here, and may be stopped all the same."""
    project = access.project(visit.principal, id, Permission.VIEW_COSTS)
    visit.enter(request, project)
    is_run = bool(pseudonyms.RUN_REF.fullmatch(ref))
    if not is_run and not pseudonyms.AGENT_REF.fullmatch(ref):
        raise NotFound("run")
    total, agents, below = _summed(project, visit.now, ref, is_run=is_run)
    path = next((one.key.split("/") for one in below), [ref])
    above = path[: path.index(ref)] if ref in path else []
    context = {
        "project": project,
        "ref": ref,
        "is_run": is_run,
        "above": above,
        "total": total,
        "below": [(one, one.key.rpartition("/")[2]) for one in below],
        "agents": agents,
        "bounds": _bounds(visit, project, ref, Subject.RUN if is_run else Subject.AGENT),
        "stopped_at": running.stopped_at(project, [ref], visit.now) if is_run else None,
        "stopped_above": running.stopped_at(project, above, visit.now) if above else None,
        "most": SHOWN,
    }
    return show(request, visit, "run.html", context)


@require_POST
@page
def stop(request: Request, visit: Visit, id: str, ref: str) -> HttpResponseBase:
    return _say(request, visit, id, ref, running.stop_run, "is stopped, with all that is below it")


@require_POST
@page
def resume(request: Request, visit: Visit, id: str, ref: str) -> HttpResponseBase:
    return _say(request, visit, id, ref, running.resume_run, "may go on")


def _say(
    request: Request, visit: Visit, id: str, ref: str, verb: Callable[..., Any], words: str
) -> HttpResponseBase:
    project = access.project(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, project)
    if not pseudonyms.RUN_REF.fullmatch(ref):
        raise NotFound("run")
    verb(actor=visit.principal.actor, project=project, run=ref, now=visit.now)
    messages.success(request, f"The run {words}.")
    return redirect("frontend:run", id=id, ref=ref)


def _reference(project: Project, what: str, name: str) -> str:
    """Raises Invalid."""
    if pseudonyms.AGENT_REF.fullmatch(name):
        return name
    if what == "agent" and not pseudonyms.RUN_REF.fullmatch(name):
        return running.agent(project, name)
    return running.reference(project, name)


def _used(project: Project, by: runs.Grouping, now: datetime, within: str = "") -> list[runs.Used]:
    return runs.used(project.id, by, start=now - LOOK_BACK, end=now, within=within, limit=SHOWN)


def _summed(
    project: Project, now: datetime, ref: str, *, is_run: bool
) -> tuple[runs.Used | None, list[runs.Used], list[runs.Used]]:
    """In all, by agent where it is a run, and by run."""
    if not is_run:
        whole = _used(project, "agent", now, ref)
        return next(iter(whole), None), [], _used(project, "run", now, ref)
    found = runs.summary(project.id, ref, start=now - LOOK_BACK, end=now, limit=SHOWN)
    return (found.whole, found.agents, found.runs) if found else (None, [], [])


def _bounds(visit: Visit, project: Project, ref: str, subject: str) -> list[Row]:
    """Its own counters of the budgets that count each run or agent."""
    mine = spending.budgets(visit.principal).filter(subject=subject, subject_id=project.id)
    found = {budget.id: budget for budget in mine.order_by("id")}
    own = counters.single(found.values(), ref, visit.now)
    return [budget_row(found[id], {}, status) for id, status in own.items()]
