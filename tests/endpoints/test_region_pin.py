"""The region pin: each of its four places refuses alone, with the others taken away.

The agent's door as a place of its own is in tests/fleet/test_credentials.py
(test_another_regions_authority_cannot_name_our_nodes) and tests/gateway/test_node_relay.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.conf import settings
from django.db import IntegrityError, ProgrammingError, connection, transaction

from compliance import grants
from controlplane.endpoints import claiming, placing, services
from controlplane.endpoints.board import Board
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, Member, PlacementRecord, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Node, Pool, Region
from controlplane.placement.choose import Placement, Refusal, choose
from controlplane.placement.gang import choose_gang
from controlplane.placement.nodes import Need
from tests.endpoints.test_gangs import JOINS
from tests.endpoints.world import ACTOR, START, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def paris(world: World) -> Pool:
    region = Region.objects.create(
        code="eu-fr-1", country="FR", name="Paris", ca_key=b"", created_at=START
    )
    owner = world.project.organization
    return Pool.objects.create(region=region, name="paris", organization=owner, created_at=START)


@contextmanager
def without(*guards: tuple[str, str]) -> Iterator[None]:
    """As the tables' owner may: the database's guard is switched off."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # no pending triggers, or ALTER is refused
        for table, trigger in guards:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
        yield
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table, trigger in guards:
            cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def requested(endpoint: Endpoint) -> Replica:
    return Replica.objects.create(
        endpoint=endpoint,
        generation=1,
        reason=Reason.SCALE_UP,
        state_at=START,
        created_at=START,
    )


def refuses(constraint: str, change: object) -> None:
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        change()  # type: ignore[operator]
    cause = refused.value.__cause__
    assert cause is not None and cause.diag.constraint_name == constraint  # type: ignore[attr-defined]


def test_the_verb_refuses_a_pool_elsewhere_alone(world: World, node: Node, paris: Pool) -> None:
    world.node("far", pool=paris)
    with without(("endpoints_endpoint", "region_pin")):
        with pytest.raises(Invalid) as refused:
            world.endpoint(pool_id=paris.id)
        assert (refused.value.code, refused.value.field) == ("region_mismatch", "pool")
        node.devices.all().delete()
        with pytest.raises(Invalid):  # nor is it found where nobody names it
            world.endpoint(name="unnamed")
        assert not Endpoint.objects.exists()


def test_the_scheduler_refuses_alone(world: World, node: Node, paris: Pool) -> None:
    """An endpoint was moved by the tables' owner, and its nodes are handed in."""
    far = world.node("far", pool=paris, inventory=JOINS)
    endpoint = world.endpoint()
    with without(("endpoints_endpoint", "region_pin"), ("endpoints_replica", "region_pin")):
        Endpoint.objects.filter(id=endpoint.id).update(pool=paris)
        replica = requested(endpoint)
        answer = placing.place(replica.id, now=world.now)
        assert isinstance(answer, Refusal)
        assert answer.reasons == {far.id: "far: it stands in region eu-fr-1, not in eu-de-1"}
        endpoint.refresh_from_db()
        seen = Board(world.now).candidates(endpoint, "cpu")
        need = Need("cpu", 1, world.project.organization_id, region="eu-de-1")
        assert isinstance(choose(need, seen), Refusal)
        assert isinstance(choose_gang(need, 2, seen, {far.id}), Refusal)
        # Under the lock it is looked at again, whatever a picture said.
        far = Node.objects.select_related("pool").get(id=far.id)
        assert claiming.free(far, need, world.now) is None
        assert claiming.free(far, replace(need, region="eu-fr-1"), world.now)


def test_the_database_refuses_alone(world: World, node: Node, paris: Pool) -> None:
    """Whatever the code above it says, and on updates too."""
    far = world.node("far", pool=paris)
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node)
    new = {"endpoint": endpoint, "generation": 1, "reason": Reason.PLACED}
    new |= {"state_at": START, "created_at": START}
    one, rows = Replica.objects.filter(id=replica.id), Replica.objects
    refuses("region_pin", lambda: rows.create(node=far, state=State.PLACED, **new))
    refuses("region_pin", lambda: one.update(node=far))
    refuses("region_pin", lambda: Member.objects.create(replica=replica, rank=0, node=far))
    beside = Member.objects.create(replica=replica, rank=0, node=node)
    refuses("region_pin", lambda: Member.objects.filter(id=beside.id).update(node=far))
    moved = Endpoint.objects.filter(id=endpoint.id)
    refuses("region_pin", lambda: moved.update(pool=paris))
    refuses("region_pin", lambda: moved.update(region_code="eu-fr-1"))
    # Nor can the ground be moved under what stands.
    refuses("region_stays", lambda: Node.objects.filter(id=node.id).update(pool=paris))
    refuses(
        "region_stays", lambda: Pool.objects.filter(id=node.pool_id).update(region=paris.region)
    )
    home = type(world.project.organization).objects.filter(id=world.project.organization_id)
    refuses("region_stays", lambda: home.update(region_code="eu-fr-1"))
    with connection.cursor() as cursor:  # where ordinary triggers do not fire, these do
        cursor.execute("SET LOCAL session_replication_role = replica")
        refuses("region_pin", lambda: one.update(node=far))
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert one.get().node_id == node.id


def test_each_placement_leaves_a_record_that_nobody_can_write(world: World, node: Node) -> None:
    busy = world.node("busy", 0)
    endpoint = world.endpoint(max_replicas=2)
    replica = requested(endpoint)
    assert isinstance(placing.place(replica.id, now=world.now), Placement)
    (record,) = PlacementRecord.objects.all()
    assert (record.replica_id, record.node_id, record.rank) == (replica.id, node.id, 0)
    assert (record.region, record.country, record.pin) == ("eu-de-1", "DE", "eu-de-1")
    assert record.organization_id == world.project.organization_id
    assert record.generation == 1 and record.pool_id == node.pool_id
    assert record.reason.startswith("chosen by the scheduler; 1 not: has 0 of 1 devices")
    assert busy.id not in record.reason
    # What happens to the replica later is no placement, and adds none.
    Replica.objects.filter(id=replica.id).update(node=node, state=State.STARTING)
    assert PlacementRecord.objects.count() == 1
    for change in (
        lambda: PlacementRecord.objects.update(region="eu-de-2"),
        lambda: PlacementRecord.objects.all().delete(),
    ):
        with pytest.raises(IntegrityError, match="rows are only added"), transaction.atomic():
            change()
    grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
        another = requested(endpoint)
        assert isinstance(placing.place(another.id, now=world.now), Placement)
        with pytest.raises(ProgrammingError), transaction.atomic():
            PlacementRecord.objects.create(
                generation=1, rank=0, pin="eu-de-1", region="eu-de-1", country="DE"
            )
        cursor.execute("RESET ROLE")
    assert PlacementRecord.objects.count() == 2


def test_a_gang_leaves_a_record_for_each_member(world: World) -> None:
    nodes = [world.node(f"n{n}", 2, inventory=JOINS) for n in range(2)]
    endpoint = services.create(
        actor=ACTOR,
        project=world.project,
        spec=services.EndpointSpec(
            name="gang", model="org/model", device_kind="cpu", device_count=2, node_count=2
        ),
        now=world.now,
    )
    world.reconcile(endpoint)
    records = PlacementRecord.objects.order_by("rank")
    assert [record.rank for record in records] == [0, 1]
    assert {record.node_id for record in records} == {node.id for node in nodes}
    assert all(record.reason.startswith("chosen by the scheduler") for record in records)
