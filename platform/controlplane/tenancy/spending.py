"""Whose budgets somebody may see and set: the way to them, as `access` is to other things.

What bounds a project is not for its own keys to lift, so owners and admins set budgets.
"""

from dataclasses import dataclass

from django.db.models import Q, QuerySet

from billing.models import Budget, Subject
from billing.spending.budgets import OF_PROJECTS, Owner
from compliance import ids
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import ApiKey, Organization, Project

SET = Permission.MANAGE_PROJECTS


@dataclass(frozen=True)
class Found:
    budget: Budget
    region: str


def owner(principal: Principal, subject: str, subject_id: str, need: Permission) -> Owner:
    """Whom a budget is for. `subject_id`: of agents and runs, their project's."""
    organization = _organization(principal, subject, subject_id, need)
    return Owner(organization.id, organization.region_code, subject, subject_id)


def budgets(principal: Principal) -> QuerySet[Budget]:
    """People see those of their organizations, a key those of its project and of its keys.

    Not a project's limit of its runs' calls: its run policy says that.
    """
    live = Budget.objects.filter(deleted_at=None).exclude(subject=Subject.ROOT)
    if principal.project_id is None:
        seen = [
            one
            for one in principal.memberships
            if Permission.VIEW_COSTS in principal.permissions(one)
        ]
        return live.filter(organization_id__in=seen)
    home = principal.organization_id or ""
    if Permission.VIEW_COSTS not in principal.permissions(home, principal.project_id):
        return live.none()
    keys = ApiKey.objects.filter(project_id=principal.project_id).values("id")
    return live.filter(
        Q(subject__in=OF_PROJECTS, subject_id=principal.project_id)
        | Q(subject=Subject.KEY, subject_id__in=keys)
    )


def budget(principal: Principal, id: str, need: Permission) -> Found:
    """NotFound for what is not in `budgets`; Forbidden for those who may only look."""
    found = budgets(principal).filter(pk=id).first() if ids.valid(id, "bud") else None
    if found is None:
        raise NotFound("budget")
    organization = _organization(principal, found.subject, found.subject_id, need)
    return Found(found, organization.region_code)


def _organization(
    principal: Principal, subject: str, subject_id: str, need: Permission
) -> Organization:
    if subject == Subject.ORGANIZATION:
        return access.organization(principal, subject_id, need)
    if subject == Subject.KEY:
        return access.api_key(principal, subject_id, need).project.organization
    project: Project = access.project(principal, subject_id, need)
    return project.organization
