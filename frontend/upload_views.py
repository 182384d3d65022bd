"""Weights that a project brings itself: how far uploads are, what sends one, and deleting it."""

from dataclasses import dataclass

from django.contrib import messages
from django.db.models import Count, QuerySet, Sum
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from controlplane.endpoints import access, uploads
from controlplane.endpoints.models import Upload
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Project
from frontend.visits import Request, Visit, page, show

SHOWN = 100
EVERY_S = 3  # how often the page looks again
_WIDTH = 1000  # of a bar


@dataclass(frozen=True)
class Row:
    upload: Upload
    size_bytes: int
    received_bytes: int
    files: int

    @property
    def state(self) -> str:
        if self.upload.finished_at is not None:
            return "complete"
        return "uploading" if self.received_bytes else "waiting"

    @property
    def percent(self) -> int:
        return 100 * self.received_bytes // self.size_bytes

    @property
    def width(self) -> int:
        return _WIDTH * self.received_bytes // self.size_bytes


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """The newest; the rows alone where htmx asks again."""
    if visit.project is None:
        return show(request, visit, "nowhere.html")
    rows = [row(one) for one in summed(access.uploads(visit.principal), visit.project.id)]
    context = {
        "project": visit.project,
        "rows": rows,
        "live": any(one.state != "complete" for one in rows),
        "every_s": EVERY_S,
        "origin": request.build_absolute_uri("/").rstrip("/"),
    }
    template = "_upload_rows.html" if request.htmx.target == "rows" else "uploads.html"
    return show(request, visit, template, context)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, and says who serves it; POST does it."""
    upload = access.upload(visit.principal, id, Permission.MANAGE_ENDPOINTS)
    visit.enter(request, upload.project)
    if request.method != "POST":
        serving = access.endpoints(visit.principal).filter(
            project=upload.project, source=SourceKind.UPLOAD, model=id
        )
        return show(request, visit, "upload_delete.html", {"upload": upload, "serving": serving})
    uploads.delete_upload(actor=visit.principal.actor, upload=upload, now=visit.now)
    messages.success(request, f"{upload.name} is deleted, with its files.")
    return redirect("frontend:uploads")


def complete(visit: Visit, project: Project) -> list[Upload]:
    """Those that can be served, the newest first."""
    mine = access.uploads(visit.principal).filter(project=project, finished_at__isnull=False)
    return list(mine.prefetch_related(None).order_by("-id")[:SHOWN])


def summed(found: QuerySet[Upload], project_id: str) -> QuerySet[Upload]:
    """A project's newest, each with the sums over its files: one statement, whatever they hold."""
    mine = found.filter(project_id=project_id).prefetch_related(None).order_by("-id")
    return mine.annotate(
        size_bytes=Sum("files__size_bytes"),
        received_bytes=Sum("files__received_bytes"),
        file_count=Count("files"),
    )[:SHOWN]


def row(upload: Upload) -> Row:
    """Of one of `summed`."""
    size, received, files = (
        int(getattr(upload, name)) for name in ("size_bytes", "received_bytes", "file_count")
    )
    return Row(upload, size, received, files)
