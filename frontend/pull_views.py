"""Models brought to nodes before anybody needs them: how far each node is, one more, enough."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from controlplane.endpoints import access, pulls
from controlplane.endpoints.conditions import ADVICE
from controlplane.endpoints.models import Pull, PullNode
from controlplane.fleet.models import Pool
from controlplane.fleet.wire import PullState
from controlplane.tenancy import access as tenancy_access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Project
from frontend import upload_views
from frontend.forms import blaming
from frontend.source_form import SourceForm
from frontend.visits import Request, Visit, page, show

SHOWN = 50
EVERY_S = 2  # how often the page looks again
CANCELLED = "cancelled"
_WIDTH = 1000  # of a bar
_ADVICE = {reason.value: text for reason, text in ADVICE.items()}


class PullForm(SourceForm):
    on_nodes = False  # a path is there already

    pool = forms.ChoiceField(help_text="Each of its nodes gets the model.")

    def __init__(self, *args: Any, pools: Iterable[Pool], **more: Any) -> None:
        super().__init__(*args, **more)
        pool = self.fields["pool"]
        assert isinstance(pool, forms.ChoiceField)
        pool.choices = [
            (one.id, f"{one.name}, {'shared' if one.organization_id is None else 'your own'}")
            for one in pools
        ]


@dataclass(frozen=True)
class NodeRow:
    on: PullNode
    name: str  # empty where it is not this organization's to know

    @property
    def width(self) -> int:
        total = self.on.bytes_total
        return _WIDTH * min(self.on.bytes_done, total) // total if total else 0

    @property
    def advice(self) -> str:
        return _ADVICE.get(self.on.reason, "")


@dataclass(frozen=True)
class Row:
    pull: Pull
    nodes: list[NodeRow]

    @property
    def state(self) -> str:
        """Of all nodes together: moving as long as one is, then the worst."""
        if self.pull.cancelled_at is not None:
            return CANCELLED
        there = {row.on.state for row in self.nodes}
        order = (PullState.FETCHING, PullState.WAITING, PullState.FAILED)
        return next((one.value for one in order if one in there), PullState.READY.value)

    @property
    def open(self) -> bool:
        return self.state in (PullState.FETCHING, PullState.WAITING)


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists, the rows alone where htmx asks again; POST wishes for one and lists again."""
    if request.method == "POST":
        wanted = request.POST.get("project", "")
        project = tenancy_access.project(visit.principal, wanted, Permission.MANAGE_ENDPOINTS)
        visit.enter(request, project)
    elif visit.project is None:
        return show(request, visit, "nowhere.html")
    else:
        project = visit.project
    if request.htmx.target == "rows":
        return show(request, visit, "_pull_rows.html", _listed(visit, project))
    pools = list(access.pools_to_fill(visit.principal, project).order_by("name", "id"))
    uploads = upload_views.complete(visit, project)
    form = PullForm(request.POST or None, pools=pools, uploads=uploads)
    if request.method == "POST" and form.is_valid():
        with blaming(form, otherwise="model"):
            pulls.pull_model(
                actor=visit.principal.actor,
                project=project,
                pool=next(one for one in pools if one.id == form.cleaned_data["pool"]),
                spec=pulls.PullSpec(**form.wished()),
                now=visit.now,
            )
            messages.success(request, "The nodes are asked to fetch it.")
            return redirect("frontend:pulls")
    context = _listed(visit, project) | {"form": form, "pools": pools}
    refused = form.is_bound and not form.is_valid()
    return show(request, visit, "pulls.html", context, status=422 if refused else 200)


@require_POST
@page
def cancel(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    pull = access.pull(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, pull.project)
    pulls.cancel_pull(actor=visit.principal.actor, pull=pull, now=visit.now)
    messages.success(request, f"{pull.model} is fetched no further; what is there stays.")
    return redirect("frontend:pulls")


def _listed(visit: Visit, project: Project) -> dict[str, Any]:
    found = access.pulls(visit.principal).filter(project=project).select_related("pool")
    nodes = found.prefetch_related(None).prefetch_related("nodes__node").order_by("-id")[:SHOWN]
    rows = [_row(visit, project, pull) for pull in nodes]
    live = any(row.open for row in rows)
    return {"project": project, "rows": rows, "live": live, "every_s": EVERY_S}


def _row(visit: Visit, project: Project, pull: Pull) -> Row:
    ours = pull.pool.organization_id == project.organization_id
    named = ours or visit.principal.is_operator
    return Row(pull, [NodeRow(on, on.node.name if named else "") for on in pull.nodes.all()])
