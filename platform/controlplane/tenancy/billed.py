"""What billing is told of tenants: names for its documents, and whose an account is."""

from collections.abc import Collection, Mapping

from billing import tenants
from controlplane.tenancy.models import Organization, Project


def register() -> None:
    tenants.house(_home)
    tenants.name_projects(_projects)


def _home(account_id: str) -> tenants.Home | None:
    found = Organization.objects.filter(account_id=account_id).first()
    return tenants.Home(found.id, found.region_code) if found else None


def _projects(ids: Collection[str]) -> Mapping[str, str]:
    return dict(Project.objects.filter(id__in=ids).values_list("id", "name"))
