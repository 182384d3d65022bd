"""Whose log a page of evidence is about: an organization's, or the operator's."""

from dataclasses import dataclass

from compliance import audit, exports
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization
from frontend.visits import Visit


@dataclass(frozen=True)
class Whose:
    """Whose log and records: an organization's, or the operator's."""

    log: str
    name: str
    region: str
    organization: Organization | None = None

    @property
    def owner(self) -> str:
        return exports.PLATFORM if self.organization is None else exports.ORGANIZATION

    @property
    def page(self) -> str:
        return self.route("evidence")

    def route(self, name: str) -> str:
        """The route of a page of this log; the operator's pages have the same names, said so."""
        return f"frontend:{name}" if self.organization else f"frontend:operator-{name}"


def of(visit: Visit, id: str) -> Whose:
    found = access.organization(visit.principal, id, Permission.EXPORT)
    return Whose(found.id, found.name, found.region_code, found)


def operators(visit: Visit) -> Whose:
    access.operator(visit.principal)
    return Whose(audit.PLATFORM, "this installation", "")


def of_log(visit: Visit, log: str) -> Whose:
    return operators(visit) if log == audit.PLATFORM else of(visit, log)
