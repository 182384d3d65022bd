"""Somebody else's endpoint does not exist."""

import pytest

from compliance import audit, ids
from controlplane.endpoints import access, services
from controlplane.fleet.models import Node
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Forbidden, NotFound
from controlplane.tenancy.models import Role
from tests.endpoints.world import ACTOR, World, organization


def person(organization_id: str, role: Role = Role.DEVELOPER) -> Principal:
    actor = audit.Actor("user", "usr_test")
    return Principal(actor, user_id="usr_test", memberships={organization_id: role})


def test_ones_own(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node)
    me = person(world.project.organization_id)
    assert access.endpoint(me, endpoint.id, Permission.MANAGE_ENDPOINTS) == endpoint
    assert access.replica(me, replica.id, Permission.READ) == replica
    assert list(access.endpoints(me)) == [endpoint]
    assert list(access.replicas(me)) == [replica]


def test_a_stranger_finds_nothing(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node)
    stranger = person(organization("stranger").organization_id, Role.OWNER)
    for need in Permission:
        with pytest.raises(NotFound):
            access.endpoint(stranger, endpoint.id, need)
        with pytest.raises(NotFound):
            access.replica(stranger, replica.id, need)
    assert not access.endpoints(stranger).exists()
    assert not access.replicas(stranger).exists()


def test_a_role_that_may_only_look(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    auditor = person(world.project.organization_id, Role.AUDITOR)
    assert access.endpoint(auditor, endpoint.id, Permission.READ) == endpoint
    with pytest.raises(Forbidden):
        access.endpoint(auditor, endpoint.id, Permission.MANAGE_ENDPOINTS)


@pytest.mark.parametrize("id", ["", "ep_", "ep_\0", "rep_1", "ep_" + "u" * 26, "x" * 9999])
def test_ids_that_are_none(world: World, id: str) -> None:
    me = person(world.project.organization_id)
    with pytest.raises(NotFound):
        access.endpoint(me, id, Permission.READ)
    with pytest.raises(NotFound):
        access.replica(me, id, Permission.READ)
    with pytest.raises(NotFound):
        access.endpoint(me, ids.new("ep"), Permission.READ)


def test_what_is_deleted_is_gone_but_its_replicas_stand(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node)
    services.delete(actor=ACTOR, endpoint=endpoint, now=world.now)
    me = person(world.project.organization_id)
    with pytest.raises(NotFound):
        access.endpoint(me, endpoint.id, Permission.READ)
    assert list(access.replicas(me)) == [replica]
