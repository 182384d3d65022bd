"""Quotes: on what a model should run, how fast, for how much, and why not on anything else."""

from django.http import QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from controlplane.endpoints import access, quote_keeping
from controlplane.tenancy import access as tenancy_access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Invalid, TooMany
from controlplane.tenancy.models import Project
from frontend import quote_form, quote_rows, upload_views
from frontend.quote_form import QuoteForm
from frontend.visits import Request, Visit, page, show

SHOWN = 20


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET has the form and lists the newest; POST quotes, or says beside each field why not."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = tenancy_access.project(visit.principal, wanted, Permission.MANAGE_ENDPOINTS)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = visit.project
    form = _form(request, visit, project)
    if request.method == "POST" and form.is_valid():
        try:
            made = quote_keeping.create(
                actor=visit.principal.actor, project=project, body=form.body(), now=visit.now
            )
        except Invalid as error:
            form.add_error(form.field_of(error.field), error.message)
        except TooMany as error:
            form.add_error(None, f"{error.message}.".capitalize())
        else:
            return redirect("frontend:quote", id=made.id)
    rows = access.quotes(visit.principal).filter(project=project).order_by("-created_at")[:SHOWN]
    context = {"project": project, "form": form, "rows": rows}
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "quotes.html", context, status=422 if refused else 200)


@require_safe
@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    quote = access.quote(visit.principal, id, Permission.READ)
    visit.enter(request, quote.project)
    context = {
        "quote": quote,
        "job": quote_form.JOB in quote.body,
        "asked": quote.body.get(quote_form.JOB) or quote.body.get(quote_form.LOAD),
        "ways": quote_rows.ways(quote),
        "losers": quote_rows.losers(quote),
    }
    return show(request, visit, "quote.html", context)


def _form(request: Request, visit: Visit, project: Project) -> QuoteForm:
    """Empty, for the model that the page was asked for, or as an earlier quote was."""
    data: QueryDict = request.GET
    begins = {name: data[name] for name in ("source", "model", "revision") if name in data}
    if again := data.get("again"):
        quote = access.quote(visit.principal, again, Permission.READ)
        begins |= quote_form.asked(quote) if quote.project_id == project.id else {}
    uploads = upload_views.complete(visit, project)
    return QuoteForm(request.POST or None, initial=begins, uploads=uploads)
