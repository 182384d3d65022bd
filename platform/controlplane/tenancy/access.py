"""The only way to a tenant's things: who asks, what for, and only then the thing.

Somebody else's things raise NotFound, exactly as things that do not exist. Forbidden is for
people who may see the thing and lack the permission. Other rooms add lookups of the same form.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from django.db.models import Model, QuerySet

from compliance import audit, ids
from controlplane.tenancy.errors import Forbidden, NotFound
from controlplane.tenancy.models import (
    ApiKey,
    Membership,
    Notice,
    Organization,
    Project,
    ProjectSecret,
    Role,
    Scope,
    User,
)

_Row = TypeVar("_Row", bound=Model)


class Permission(StrEnum):
    READ = "read"
    MANAGE_ENDPOINTS = "manage_endpoints"
    MANAGE_KEYS = "manage_keys"
    MANAGE_SECRETS = "manage_secrets"
    MANAGE_PROJECTS = "manage_projects"
    MANAGE_MEMBERS = "manage_members"
    MANAGE_OWNERS = "manage_owners"  # make and unmake owners
    VIEW_COSTS = "view_costs"
    PAY = "pay"  # give and use means of payment
    MANAGE_BILLING = "manage_billing"  # say who owes the invoices, and how they are paid
    EXPORT = "export"


_DEVELOP = {
    Permission.READ,
    Permission.VIEW_COSTS,
    Permission.MANAGE_ENDPOINTS,
    Permission.MANAGE_KEYS,
    Permission.MANAGE_SECRETS,
}

ROLE_PERMISSIONS: dict[str, frozenset[Permission]] = {
    Role.OWNER: frozenset(Permission),
    Role.ADMIN: frozenset(Permission) - {Permission.MANAGE_OWNERS},
    Role.DEVELOPER: frozenset(_DEVELOP),
    Role.BILLING: frozenset(
        {Permission.READ, Permission.VIEW_COSTS, Permission.MANAGE_BILLING, Permission.PAY}
    ),
    Role.AUDITOR: frozenset({Permission.READ, Permission.VIEW_COSTS, Permission.EXPORT}),
}

# Of a key, within its own project.
SCOPE_PERMISSIONS: dict[str, frozenset[Permission]] = {
    Scope.INFERENCE: frozenset(),
    Scope.READ: frozenset({Permission.READ, Permission.VIEW_COSTS}),
    Scope.MANAGE: frozenset(_DEVELOP),
    # Of its whole organization: the log is one. Who may not export hands out no such key.
    Scope.EVIDENCE: frozenset({Permission.READ, Permission.EXPORT}),
}
_NAMES = {
    Permission.READ: "look at this",
    Permission.MANAGE_ENDPOINTS: "change endpoints",
    Permission.MANAGE_KEYS: "manage API keys",
    Permission.MANAGE_SECRETS: "manage secrets",
    Permission.MANAGE_PROJECTS: "manage projects",
    Permission.MANAGE_MEMBERS: "manage members",
    Permission.MANAGE_OWNERS: "manage owners",
    Permission.VIEW_COSTS: "see costs",
    Permission.PAY: "pay",
    Permission.MANAGE_BILLING: "manage billing",
    Permission.EXPORT: "export evidence",
}


@dataclass(frozen=True)
class Principal:
    """Who asks. A person has memberships; a key has one project, its organization, and scopes."""

    actor: audit.Actor
    user_id: str | None = None
    is_operator: bool = False
    memberships: dict[str, str] = field(default_factory=dict)  # organization id: role
    organization_id: str | None = None
    project_id: str | None = None
    scopes: frozenset[str] = frozenset()

    def permissions(self, organization_id: str, project_id: str | None = None) -> set[Permission]:
        """What it may do in an organization, or in one project of it; empty for a stranger."""
        if role := self.memberships.get(organization_id):
            return set(ROLE_PERMISSIONS[role])
        if self.organization_id != organization_id:
            return set()
        granted = {one for scope in self.scopes for one in SCOPE_PERMISSIONS.get(scope, ())}
        if project_id is None:  # the rest of the organization is none of a key's business
            return granted & {Permission.READ, Permission.EXPORT}
        return granted if project_id == self.project_id else set()


def principal_for_user(user: User) -> Principal:
    """A signed-in person. One who was deactivated may do nothing."""
    actor = audit.Actor("user", user.id, "session")
    if not user.is_active:
        return Principal(actor, user_id=user.id)
    memberships = dict(
        Membership.objects.filter(user_id=user.id).values_list("organization_id", "role")
    )
    return Principal(actor, user_id=user.id, is_operator=user.is_operator, memberships=memberships)


def principal_for_key(key: ApiKey) -> Principal:
    return Principal(
        audit.Actor("api_key", key.id, "key"),
        organization_id=key.project.organization_id,
        project_id=key.project_id,
        scopes=frozenset(key.scopes),
    )


def demand(
    principal: Principal, need: Permission, organization_id: str, project_id: str | None, what: str
) -> None:
    """NotFound for strangers to the thing's place, Forbidden for those who lack `need` there.

    A key that may do nothing in its project, such as one for inference, learns only that.
    """
    if need in principal.permissions(organization_id, project_id):
        return
    at_home = organization_id in principal.memberships or (
        principal.organization_id == organization_id and project_id in (None, principal.project_id)
    )
    if not at_home:
        raise NotFound(what)
    who = "this API key's scopes do" if principal.project_id else "your role does"
    raise Forbidden(
        f"{who} not allow to {_NAMES[need]}",
        code=f"needs_{need.value}",
        actor=principal.actor,
        organization_id=organization_id,
    )


def operator(principal: Principal) -> None:
    """For what is the operator's: to everybody else it does not exist."""
    if not principal.is_operator:
        raise NotFound("page")


def organizations(principal: Principal) -> QuerySet[Organization]:
    seen = [one for one in principal.memberships if Permission.READ in principal.permissions(one)]
    home = principal.organization_id
    if home and Permission.READ in principal.permissions(home):
        seen.append(home)
    return Organization.objects.filter(id__in=seen)


def projects(principal: Principal) -> QuerySet[Project]:
    if principal.project_id is None:
        return Project.objects.filter(organization__in=organizations(principal))
    mine = Project.objects.filter(id=principal.project_id)
    return mine if organizations(principal).exists() else mine.none()


def api_keys(principal: Principal) -> QuerySet[ApiKey]:
    return ApiKey.objects.filter(project__in=projects(principal))


def secrets(principal: Principal) -> QuerySet[ProjectSecret]:
    """What there is, by name; values never leave by here."""
    return ProjectSecret.objects.filter(project__in=projects(principal)).defer("sealed")


def notices(principal: Principal) -> QuerySet[Notice]:
    return Notice.objects.filter(organization__in=organizations(principal))


def memberships(principal: Principal) -> QuerySet[Membership]:
    """People are shown to people: a key sees none."""
    return Membership.objects.filter(organization_id__in=list(principal.memberships))


def organization(principal: Principal, id: str, need: Permission) -> Organization:
    demand(principal, need, id, None, "organization")
    return _one(Organization.objects.all(), id, "org", "organization")


def project(principal: Principal, id: str, need: Permission) -> Project:
    found = _one(Project.objects.select_related("organization"), id, "prj", "project")
    demand(principal, need, found.organization_id, found.id, "project")
    return found


def api_key(principal: Principal, id: str, need: Permission) -> ApiKey:
    found = _one(ApiKey.objects.select_related("project__organization"), id, "key", "API key")
    demand(principal, need, found.project.organization_id, found.project_id, "API key")
    if need is Permission.MANAGE_KEYS:
        may_hand_out(principal, found.project, found.scopes)
    return found


def may_hand_out(principal: Principal, project: Project, scopes: Iterable[str]) -> None:
    """A key that may export is given, and given anew, by those alone who may themselves."""
    if Scope.EVIDENCE in scopes:
        demand(principal, Permission.EXPORT, project.organization_id, None, "API key")


def secret(principal: Principal, id: str, need: Permission) -> ProjectSecret:
    rows = ProjectSecret.objects.select_related("project__organization").defer("sealed")
    found = _one(rows, id, "psec", "secret")
    demand(principal, need, found.project.organization_id, found.project_id, "secret")
    return found


def notice(principal: Principal, id: str, need: Permission) -> Notice:
    found = _one(Notice.objects.select_related("organization"), id, "ntc", "notice")
    demand(principal, need, found.organization_id, None, "notice")
    return found


def membership(principal: Principal, id: str, need: Permission) -> Membership:
    found = _one(Membership.objects.select_related("organization"), id, "mem", "membership")
    if found.organization_id not in principal.memberships:
        raise NotFound("membership")
    demand(principal, need, found.organization_id, None, "membership")
    return found


def _one(rows: "QuerySet[_Row]", id: str, prefix: str, what: str) -> "_Row":
    found = rows.filter(pk=id).first() if ids.valid(id, prefix) else None
    if found is None:
        raise NotFound(what)
    return found
