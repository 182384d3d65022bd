"""Batches of a project, how far they are, and the button that cancels one."""

from dataclasses import dataclass

from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from controlplane.batches import access, forecasting, services
from controlplane.batches.models import ENDED, Batch, Status
from controlplane.batches.services import Counts
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Conflict
from frontend.batch_forecasts import Told, told
from frontend.visits import Request, Visit, page, show

SHOWN = 100
EVERY_S = 3  # how often the page looks again
_WIDTH = 1000  # of a bar

_WAITS = {
    "no_spare_capacity": "others come first",
    "preempted": "others come first",
    "endpoint_starting": "the endpoint wakes",
    "endpoint_stopped": "the endpoint is stopped",
    "rate_limit_exceeded": "a rate limit is reached",
    "budget_exceeded": "a budget is spent",
    "engine_overloaded": "the endpoint is full",
    "gateway_unreachable": "no gateway can be reached",
}
_TONES = {
    Status.COMPLETED: "good",
    Status.FAILED: "bad",
    Status.EXPIRED: "bad",
    Status.CANCELLED: "calm",
}


@dataclass(frozen=True)
class Row:
    batch: Batch
    counts: Counts
    told: Told | None

    @property
    def percent(self) -> int:
        total = self.counts.total
        return 100 * (self.counts.completed + self.counts.failed) // total if total else 0

    @property
    def done_width(self) -> int:
        return self._width(self.counts.completed)

    @property
    def failed_width(self) -> int:
        return self._width(self.counts.failed)

    def _width(self, many: int) -> int:
        return _WIDTH * many // self.counts.total if self.counts.total else 0

    @property
    def tone(self) -> str:
        return _TONES.get(Status(self.batch.status), "busy")

    @property
    def waits(self) -> str:
        """Why nothing of it runs; nothing once it has ended."""
        code = self.batch.waits_for if self.batch.status == Status.IN_PROGRESS else ""
        return _WAITS.get(code, code.replace("_", " "))

    @property
    def open(self) -> bool:
        return self.batch.status in (Status.VALIDATING, Status.IN_PROGRESS)


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """The newest; the rows alone where htmx asks again."""
    if visit.project is None:
        return show(request, visit, "nowhere.html")
    mine = access.batches(visit.principal).filter(project=visit.project)
    found = list(mine.order_by("-id")[:SHOWN])
    counted, forecasts = services.counts(found), forecasting.shown(found)
    context = {
        "project": visit.project,
        "rows": [
            Row(batch, counted[batch.id], told(forecasts[batch.id], batch.total)) for batch in found
        ],
        "live": any(batch.status not in ENDED for batch in found),
        "every_s": EVERY_S,
    }
    template = "_batch_rows.html" if request.htmx.target == "rows" else "batches.html"
    return show(request, visit, template, context)


@require_POST
@page
def cancel(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    batch = access.batch(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, batch.project)
    try:
        services.cancel(actor=visit.principal.actor, batch=batch, now=visit.now)
        messages.success(request, f"{batch.id} begins no further request. What is done is kept.")
    except Conflict as error:
        messages.error(request, f"{error.message[:1].upper()}{error.message[1:]}.")
    return redirect("frontend:batches")
