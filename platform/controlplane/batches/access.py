"""The only way to a project's files and batches. Another project's do not exist."""

from datetime import datetime

from django.db.models import QuerySet

from compliance import ids
from controlplane.batches.models import Batch, File
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Project

_FILES = File.objects.select_related("project__organization")
_BATCHES = Batch.objects.select_related("project__organization")


def files_of(project: Project, now: datetime) -> QuerySet[File]:
    """Those of a key's project that are complete and not over, newest first."""
    return _FILES.filter(project=project, complete=True, expires_at__gt=now)


def file_of(project: Project, id: str, now: datetime) -> File:
    found = files_of(project, now).filter(id=id).first() if ids.valid(id, "file") else None
    if found is None:
        raise NotFound("file", code="file_not_found")
    return found


def batches_of(project: Project) -> QuerySet[Batch]:
    return _BATCHES.filter(project=project)


def batch_of(project: Project, id: str) -> Batch:
    found = batches_of(project).filter(id=id).first() if ids.valid(id, "bat") else None
    if found is None:
        raise NotFound("batch", code="batch_not_found")
    return found


def batches(principal: Principal) -> QuerySet[Batch]:
    """Those that may be looked at, newest first."""
    return _BATCHES.filter(project__in=access.projects(principal))


def batch(principal: Principal, id: str, need: Permission) -> Batch:
    found = _BATCHES.filter(id=id).first() if ids.valid(id, "bat") else None
    if found is None:
        raise NotFound("batch")
    project = found.project
    access.demand(principal, need, project.organization_id, project.id, "batch")
    return found
