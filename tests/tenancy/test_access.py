"""Who may do what: each role, each scope, and strangers, who find nothing."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.tenancy import access, services
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Forbidden, NotFound
from controlplane.tenancy.models import ApiKey, Membership, Project, Role, Scope, User

NOW = datetime(2026, 3, 14, tzinfo=UTC)
# The table as people would say it; the code's own is checked against it, cell by cell.
MAY = {
    Role.OWNER: "read endpoints keys secrets projects members owners costs billing pay export",
    Role.ADMIN: "read endpoints keys secrets projects members costs billing pay export",
    Role.DEVELOPER: "read endpoints keys secrets costs",
    Role.BILLING: "read costs billing pay",
    Role.AUDITOR: "read costs export",
}
WORDS = {
    "read": Permission.READ,
    "endpoints": Permission.MANAGE_ENDPOINTS,
    "keys": Permission.MANAGE_KEYS,
    "secrets": Permission.MANAGE_SECRETS,
    "projects": Permission.MANAGE_PROJECTS,
    "members": Permission.MANAGE_MEMBERS,
    "owners": Permission.MANAGE_OWNERS,
    "costs": Permission.VIEW_COSTS,
    "pay": Permission.PAY,
    "billing": Permission.MANAGE_BILLING,
    "export": Permission.EXPORT,
}
SCOPES = {
    Scope.INFERENCE: "",
    Scope.READ: "read costs",
    Scope.MANAGE: "read endpoints keys secrets costs",
    Scope.EVIDENCE: "read export",
}
LOOKUPS: dict[str, Callable[[Principal, Any, Permission], Any]] = {
    "organization": lambda who, of, need: access.organization(who, of.organization.id, need),
    "project": lambda who, of, need: access.project(who, of.project.id, need),
    "api_key": lambda who, of, need: access.api_key(who, of.key.id, need),
    "membership": lambda who, of, need: access.membership(
        who, Membership.objects.filter(organization=of.organization)[0].id, need
    ),
}


def allowed(lookup: str, who: Principal, of: Any, need: Permission) -> bool:
    try:
        found = LOOKUPS[lookup](who, of, need)
    except Forbidden:
        return False
    assert found.pk
    return True


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("role", Role.values)
def test_each_role_may_what_the_table_says(ours: Any, role: str, lookup: str) -> None:
    who = access.principal_for_user(ours.people[role])
    granted = {need for need in Permission if allowed(lookup, who, ours, need)}
    assert granted == {WORDS[word] for word in MAY[Role(role)].split()}


@pytest.mark.parametrize("scope", Scope.values)
def test_each_scope_may_what_the_table_says(ours: Any, scope: str) -> None:
    ours.key.scopes = [scope]
    who = access.principal_for_key(ours.key)
    expected = {WORDS[word] for word in SCOPES[Scope(scope)].split()}
    for lookup in ("project", "api_key"):
        assert {need for need in Permission if allowed(lookup, who, ours, need)} == expected
    # Of its organization a key may read the name, and the log if that is its scope; it sees nobody.
    in_all = {need for need in Permission if allowed("organization", who, ours, need)}
    assert in_all == expected & {Permission.READ, Permission.EXPORT}
    with pytest.raises(NotFound):
        LOOKUPS["membership"](who, ours, Permission.READ)
    assert not access.memberships(who).exists()


@pytest.mark.parametrize("need", Permission)
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_stranger_finds_nothing_whatever_the_role_or_key(
    ours: Any, theirs: Any, lookup: str, need: Permission
) -> None:
    ours.key.scopes = list(Scope.values)
    operator = User.objects.create(email="op@stoa.eu", is_operator=True, created_at=NOW)
    strangers = [access.principal_for_user(user) for user in ours.people.values()]
    strangers += [access.principal_for_key(ours.key), access.principal_for_user(operator)]
    for stranger in strangers:
        with pytest.raises(NotFound):
            LOOKUPS[lookup](stranger, theirs, need)


def test_a_stranger_is_told_the_same_as_of_what_does_not_exist(ours: Any, theirs: Any) -> None:
    who = access.principal_for_user(ours.people[Role.OWNER])
    missing = "prj_00000000000000000000000000"
    told = []
    for id in (theirs.project.id, missing):
        with pytest.raises(NotFound) as caught:
            access.project(who, id, Permission.READ)
        told.append((caught.value.message, caught.value.code))
    assert told[0] == told[1]


def test_a_key_does_not_reach_another_project_of_its_organization(ours: Any) -> None:
    other = Project.objects.create(
        organization=ours.organization, name="second", created_at=ours.key.created_at
    )
    ours.key.scopes = list(Scope.values)
    who = access.principal_for_key(ours.key)
    with pytest.raises(NotFound):
        access.project(who, other.id, Permission.READ)
    assert list(access.projects(who)) == [ours.project]


@pytest.mark.parametrize("id", ["", "prj_", "prj_\x00", "x" * 500, "org_0"])
def test_an_id_that_is_none_is_not_found(ours: Any, id: str) -> None:
    who = access.principal_for_user(ours.people[Role.OWNER])
    for lookup in (access.organization, access.project, access.api_key, access.membership):
        with pytest.raises(NotFound):
            lookup(who, id, Permission.READ)


def test_lists_hold_ones_own_and_nothing_else(ours: Any, theirs: Any) -> None:
    ours.key.scopes = [Scope.READ]
    for who in (
        access.principal_for_user(ours.people[Role.BILLING]),
        access.principal_for_key(ours.key),
    ):
        assert list(access.organizations(who)) == [ours.organization]
        assert list(access.projects(who)) == [ours.project]
        assert list(access.api_keys(who)) == [ours.key]
    ours.key.scopes = [Scope.INFERENCE]
    blind = access.principal_for_key(ours.key)
    assert not access.organizations(blind).exists()
    assert not access.projects(blind).exists()
    assert not access.api_keys(blind).exists()


def test_who_left_or_was_deactivated_finds_nothing(ours: Any) -> None:
    auditor = ours.people[Role.AUDITOR]
    services.remove_member(
        actor=access.principal_for_user(ours.people[Role.OWNER]).actor,
        membership=auditor.memberships.get(),
        now=ours.key.created_at,
    )
    admin = ours.people[Role.ADMIN]
    admin.is_active = False
    admin.is_operator = True
    for user in (auditor, admin):
        who = access.principal_for_user(user)
        with pytest.raises(NotFound):
            access.organization(who, ours.organization.id, Permission.READ)
        with pytest.raises(NotFound):
            access.operator(who)


def test_the_operators_things_do_not_exist_for_others(ours: Any) -> None:
    owner = ours.people[Role.OWNER]
    with pytest.raises(NotFound):
        access.operator(access.principal_for_user(owner))
    owner.is_operator = True
    access.operator(access.principal_for_user(owner))


def test_the_actor_is_a_pseudonym(ours: Any) -> None:
    owner = ours.people[Role.OWNER]
    assert access.principal_for_user(owner).actor.id == owner.id
    key: ApiKey = ours.key
    assert (access.principal_for_key(key).actor.type, access.principal_for_key(key).actor.id) == (
        "api_key",
        key.id,
    )
