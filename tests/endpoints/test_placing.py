"""Taking devices, alone and in a crowd."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest
from django.conf import settings
from django.db import close_old_connections, connection, connections

from controlplane.endpoints import lifecycle, placing
from controlplane.endpoints.board import Board
from controlplane.endpoints.models import DeviceClaim, Endpoint, Replica, Reservation
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Device, Node, Pool
from controlplane.placement.choose import Placement, Refusal
from controlplane.placement.gang import GangPlacement
from controlplane.placement.nodes import Need
from tests.endpoints.world import WALLS, World, organization


def requested(world: World, endpoint: Endpoint) -> Replica:
    return Replica.objects.create(
        endpoint=endpoint,
        generation=1,
        reason=Reason.SCALE_UP,
        state_at=world.now,
        created_at=world.now,
    )


def test_devices_and_state_go_together(world: World, node: Node) -> None:
    replica = requested(world, world.endpoint(device_count=2))
    taken = placing.place(replica.id, now=world.now)
    assert isinstance(taken, Placement)
    replica.refresh_from_db()
    assert (replica.state, replica.node_id) == ("placed", node.id)
    assert {claim.device_id for claim in replica.claims.all()} == set(taken.device_ids)
    assert placing.place(replica.id, now=world.now) is None  # not requested any more


def test_replicas_of_one_endpoint_stand_on_different_nodes(world: World) -> None:
    """As many as there are, however many devices one of them has; then they double up evenly."""
    for name, devices in (("big", 8), ("small", 2), ("tiny", 1)):
        world.node(name, devices)
    endpoint = world.endpoint(min_replicas=5, max_replicas=5)
    world.reconcile(endpoint)
    world.reconcile(endpoint)
    placed = Replica.objects.filter(state=State.PLACED).values_list("node__name", flat=True)
    assert Counter(placed) == {"big": 2, "small": 2, "tiny": 1}


def test_a_refusal_leaves_it_waiting_with_the_reason(world: World, node: Node) -> None:
    endpoint = world.endpoint(device_count=2, max_replicas=2)
    world.replica(endpoint, node)
    replica = requested(world, endpoint)
    assert isinstance(placing.place(replica.id, now=world.now), Refusal)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("requested", "no_capacity")
    assert replica.detail == "n1: 0 of 2 devices of kind cpu free, 2 needed"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"cordoned_at": True}, "it is cordoned"),
        ({"drain_requested_at": True}, "it is being drained"),
        ({"lease_until": True}, "it is unreachable"),
    ],
)
def test_a_closed_node_takes_nobody(
    world: World, node: Node, facts: dict[str, bool], why: str
) -> None:
    replica = requested(world, world.endpoint())
    Node.objects.filter(id=node.id).update(**dict.fromkeys(facts, world.now))
    answer = placing.place(replica.id, now=world.now)
    assert isinstance(answer, Refusal)
    assert answer.reasons == {node.id: f"n1: {why}"}


def test_of_a_large_pool_some_nodes_are_enough(world: World) -> None:
    nodes = [world.node(f"n{number}", 1) for number in range(8)]
    cordoned, *full, free = nodes
    Node.objects.filter(id=cordoned.id).update(cordoned_at=world.now)
    endpoint = world.endpoint(max_replicas=8)
    board = Board(world.now, most=7)
    drawn = {one.node_id for one in board.candidates(endpoint, "cpu")}
    assert drawn == {node.id for node in [*full, free]}  # who takes nobody is drawn last
    for node in full:
        world.replica(endpoint, node)
    for _ in range(5):  # whoever is drawn first
        board = Board(world.now, most=1)
        assert len(board.candidates(endpoint, "cpu")) == 1
        answer = board.choose(endpoint, Need("cpu", 1, endpoint.project.organization_id))
        assert isinstance(answer, Placement) and answer.node_id == free.id
    world.replica(endpoint, free)
    answer = Board(world.now, most=1).choose(endpoint, Need("cpu", 1, "", shared=False))
    assert isinstance(answer, Refusal) and len(answer.reasons) == 8  # all were asked


def test_a_broken_device_is_not_given_out(world: World, node: Node) -> None:
    Device.objects.filter(node=node, index=0).update(healthy=False)
    replica = requested(world, world.endpoint())
    assert isinstance(placing.place(replica.id, now=world.now), Placement)
    assert [claim.device.index for claim in replica.claims.all()] == [1]


def test_walls_on_a_shared_node(db: None) -> None:
    world = World.build(shared=True)
    node = world.node(inventory={"walls": ["uid"]})
    replica = requested(world, world.endpoint())
    assert isinstance(placing.place(replica.id, now=world.now), Refusal)
    replica.refresh_from_db()
    assert replica.reason == "walls_missing"
    Node.objects.filter(id=node.id).update(inventory={"walls": ["uid", "socket"]})
    assert isinstance(placing.place(replica.id, now=world.now), Placement)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("keep_block", [0, 8])
def test_fifty_at_once_on_a_nearly_full_pool(keep_block: int) -> None:
    """No device twice, none left over, nobody stuck: while others let go and report. Some want
    one device, some two, some four, some a gang of two nodes, some of two organizations a share
    of one; all at the same moment."""
    world = World.build(shared=True)
    gangs = {"walls": [*WALLS["walls"], wire.Wall.GANG], "relay": "127.0.0.1:1", "shares": True}
    nodes = [world.node(f"n{n}", devices=8, inventory=gangs) for n in range(6)]
    full = world.endpoint(name="full", max_replicas=100)
    held = [world.replica(full, nodes[n // 8]) for n in range(20)]
    Pool.objects.filter(id=world.pool.id).update(keep_block=keep_block, share_devices=True)
    wishes = wished(world)
    crowd = [requested(world, wishes[n % 7]) for n in range(50)]
    failures: list[BaseException] = []
    start = threading.Barrier(len(crowd) + 5)

    def run(work: Callable[[], object]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            close_old_connections()
            connections.close_all()

    def stop(replica: Replica) -> object:
        return lifecycle.advance(
            replica.id, State.STOPPED, reason=Reason.STOPPED, now=world.now, released=True
        )

    work: list[Callable[[], object]]
    work = [partial(placing.place, one.id, now=world.now) for one in crowd]
    work += [partial(stop, one) for one in held[:5]]
    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    with connections_for(len(threads) + 1):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    sound(keep_block)
    # Whoever was refused before somebody let go gets his in the next round.
    later = world.now + timedelta(seconds=settings.NODE_LEASE_S / 2)
    for replica in sorted(crowd, key=lambda one: wishes.index(one.endpoint), reverse=True):
        placing.place(replica.id, now=later)
    sound(keep_block)
    while isinstance(placing.place(requested(world, wishes[0]).id, now=later), Placement):
        pass
    sound(keep_block)
    free = Device.objects.filter(deviceclaim=None).count()
    assert free == keep_block  # the pool is as full as it may be
    assert connection.is_usable()


def test_a_gang_leaves_the_block_that_is_kept(world: World) -> None:
    """Of two nodes with a whole block each it may have one; it reserves nothing that it cannot
    have."""
    gangs = {"walls": [*WALLS["walls"], wire.Wall.GANG], "relay": "127.0.0.1:1"}
    for name in ("a", "b"):
        world.node(name, devices=8, inventory=gangs)
    Pool.objects.filter(id=world.pool.id).update(keep_block=8)
    endpoint = world.endpoint(device_count=1, node_count=2)
    replica = requested(world, endpoint)
    answer = placing.place(replica.id, now=world.now)
    assert isinstance(answer, Refusal) and "keeps one whole block of 8" in str(answer)
    assert not DeviceClaim.objects.exists() and not Reservation.objects.exists()
    world.node("c", devices=1, inventory=gangs)
    assert isinstance(placing.place(replica.id, now=world.now), GangPlacement)
    sound(8)


def wished(world: World) -> list[Endpoint]:
    """Of one device, of two, of four, of a gang; and of parts of one, for two organizations."""
    wishes = [
        world.endpoint(name=f"of-{count}-{size}", device_count=count, node_count=size)
        for count, size in ((1, 1), (2, 1), (4, 1), (1, 2))
    ]
    other = organization("other")
    wishes += [
        world.endpoint(name=f"part-{share}", device_share=share, project=project)
        for share, project in ((300, world.project), (450, world.project), (450, other))
    ]
    return wishes


@contextmanager
def connections_for(count: int) -> Iterator[None]:
    """A connection for each, so that none waits for another's."""
    pool = cast(Any, connection).pool
    least, most = pool.min_size, pool.max_size
    pool.resize(least, max(most, count))
    yield
    pool.resize(least, most)


def sound(keep_block: int) -> None:
    """Each replica that is placed holds exactly what it needs, where it stands, and no device is
    oversold or serves two organizations."""
    for device in Device.objects.prefetch_related("deviceclaim_set__replica__endpoint__project"):
        there = device.deviceclaim_set.all()
        assert sum(one.milli for one in there) <= 1000
        assert len({one.replica.endpoint.project.organization_id for one in there}) <= 1
        assert all(one.milli == one.replica.endpoint.device_share for one in there)
    claims = Counter(DeviceClaim.objects.values_list("replica_id", "device__node_id"))
    expected: Counter[tuple[str, str | None]] = Counter()
    for replica in Replica.objects.filter(state=State.PLACED).select_related("endpoint"):
        on = list(replica.members.values_list("node_id", flat=True)) or [replica.node_id]
        assert len(on) == replica.endpoint.node_count
        for node_id in on:
            expected[replica.id, node_id] += replica.endpoint.device_count
    assert claims == expected
    if keep_block:
        free = Device.objects.filter(deviceclaim=None).values_list("node_id", flat=True)
        assert keep_block in Counter(free).values()
