"""The only way to a tenant's endpoints and replicas. The rule is tenancy's."""

from django.db.models import QuerySet

from compliance import ids
from controlplane.endpoints.models import (
    Alias,
    Endpoint,
    EndpointVersion,
    Pull,
    Quote,
    Replica,
    Upload,
)
from controlplane.fleet.models import Pool
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Project

_ENDPOINTS = Endpoint.objects.select_related("project__organization", "pool")
_REPLICAS = Replica.objects.select_related("endpoint__project__organization", "node")


def endpoints(principal: Principal) -> QuerySet[Endpoint]:
    """Those that may be looked at and are not deleted, newest first."""
    return _ENDPOINTS.filter(project__in=access.projects(principal), deleted_at=None)


def endpoints_ever(principal: Principal) -> QuerySet[Endpoint]:
    """Deleted ones too, newest first: for bills and records, which name them still."""
    return _ENDPOINTS.filter(project__in=access.projects(principal))


def replicas(principal: Principal) -> QuerySet[Replica]:
    """Newest first; those of deleted endpoints too, since they may be on a bill."""
    return _REPLICAS.filter(endpoint__project__in=access.projects(principal))


def aliases(principal: Principal) -> QuerySet[Alias]:
    return Alias.objects.filter(project__in=access.projects(principal))


def alias(principal: Principal, id: str, need: Permission) -> Alias:
    rows = Alias.objects.select_related("project__organization").filter(id=id)
    found = rows.first() if ids.valid(id, "als") else None
    if found is None:
        raise NotFound("alias")
    project = found.project
    access.demand(principal, need, project.organization_id, project.id, "alias")
    return found


def uploads(principal: Principal) -> QuerySet[Upload]:
    mine = Upload.objects.filter(project__in=access.projects(principal))
    return mine.prefetch_related("files")


def upload(principal: Principal, id: str, need: Permission) -> Upload:
    rows = Upload.objects.select_related("project__organization").filter(id=id)
    found = rows.first() if ids.valid(id, "upl") else None
    if found is None:
        raise NotFound("upload")
    access.demand(principal, need, found.project.organization_id, found.project_id, "upload")
    return found


def pulls(principal: Principal) -> QuerySet[Pull]:
    mine = Pull.objects.filter(project__in=access.projects(principal))
    return mine.prefetch_related("nodes")


def quotes(principal: Principal) -> QuerySet[Quote]:
    return Quote.objects.filter(project__in=access.projects(principal))


def quote(principal: Principal, id: str, need: Permission) -> Quote:
    rows = Quote.objects.select_related("project__organization").filter(id=id)
    found = rows.first() if ids.valid(id, "quo") else None
    if found is None:
        raise NotFound("quote")
    access.demand(principal, need, found.project.organization_id, found.project_id, "quote")
    return found


def pools_to_fill(principal: Principal, project: Project) -> QuerySet[Pool]:
    """Where models may be brought: one's own; the operator's any, since a shared pool's disks are
    not one tenant's to fill."""
    there = Pool.objects.filter(region_id=project.organization.region_code)
    return there if principal.is_operator else there.filter(organization=project.organization_id)


def pull(principal: Principal, id: str, need: Permission) -> Pull:
    rows = Pull.objects.select_related("project__organization").filter(id=id)
    found = rows.first() if ids.valid(id, "pul") else None
    if found is None:
        raise NotFound("pull")
    access.demand(principal, need, found.project.organization_id, found.project_id, "pull")
    return found


def endpoint(principal: Principal, id: str, need: Permission) -> Endpoint:
    """NotFound for what is deleted, unknown or somebody else's; Forbidden without `need`."""
    rows = _ENDPOINTS.filter(id=id, deleted_at=None)
    found = rows.first() if ids.valid(id, "ep") else None
    if found is None:
        raise NotFound("endpoint")
    project = found.project
    access.demand(principal, need, project.organization_id, project.id, "endpoint")
    return found


def version(principal: Principal, id: str, need: Permission) -> EndpointVersion:
    rows = EndpointVersion.objects.select_related("endpoint__project__organization")
    found = rows.filter(id=id).first() if ids.valid(id, "ver") else None
    if found is None:
        raise NotFound("version")
    project = found.endpoint.project
    access.demand(principal, need, project.organization_id, project.id, "version")
    return found


def replica(principal: Principal, id: str, need: Permission) -> Replica:
    found = _REPLICAS.filter(id=id).first() if ids.valid(id, "rep") else None
    if found is None:
        raise NotFound("replica")
    project = found.endpoint.project
    access.demand(principal, need, project.organization_id, project.id, "replica")
    return found
