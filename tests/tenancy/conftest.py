"""Two organizations that must not see each other, with people of every role."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from compliance import audit
from controlplane.tenancy import services
from controlplane.tenancy.models import ApiKey, Organization, Project, Role, Scope, User

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)


@dataclass
class Tenant:
    organization: Organization
    project: Project
    key: ApiKey
    people: dict[str, User]


def tenant(name: str) -> Tenant:
    people = {
        role: User.objects.create(email=f"{role}@{name}.eu", password="!", created_at=NOW)
        for role in Role.values
    }
    organization = services.create_organization(
        actor=audit.SYSTEM, name=name, region_code="eu-de-1", owner=people[Role.OWNER], now=NOW
    )
    for role, user in people.items():
        if role != Role.OWNER:
            services.add_member(
                actor=audit.SYSTEM, organization=organization, user=user, role=role, now=NOW
            )
    project = services.create_project(
        actor=audit.SYSTEM, organization=organization, name="first", now=NOW
    )
    key, _ = services.issue_key(
        actor=audit.SYSTEM, project=project, name="ci", scopes=[Scope.READ], now=NOW
    )
    return Tenant(organization, project, key, people)


@pytest.fixture
def ours(db: None) -> Tenant:
    return tenant("ours")


@pytest.fixture
def theirs(db: None) -> Tenant:
    return tenant("theirs")
