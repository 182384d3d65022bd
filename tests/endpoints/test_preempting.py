"""Who makes room for whom, and for whom it is kept."""

from datetime import timedelta

import pytest

from controlplane.endpoints import lifecycle, locality, placing, preempting, sleeping
from controlplane.endpoints.models import Activity, DeviceClaim, Endpoint, Replica, Reservation
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.fleet.wire import Phase
from controlplane.placement.choose import Placement, Refusal
from controlplane.placement.gang import GangPlacement
from controlplane.placement.nodes import Weights
from tests.endpoints.world import WALLS, World, said


def requested(world: World, endpoint: Endpoint) -> Replica:
    return Replica.objects.create(
        endpoint=endpoint,
        generation=1,
        reason=Reason.SCALE_UP,
        state_at=world.now,
        created_at=world.now,
    )


def serving(world: World, node: Node, count: int, **spec: object) -> list[Replica]:
    endpoint = world.endpoint(max_replicas=count, **spec)
    replicas = [world.replica(endpoint, node) for _ in range(count)]
    world.report(node, *(said(one.id, Phase.READY) for one in held(node)))
    return replicas


def held(node: Node) -> list[Replica]:
    return list(Replica.objects.filter(node=node, released_at=None).order_by("id"))


def phase(replica: Replica) -> Phase:
    return Phase.FETCHING if replica.state == State.PLACED else Phase(replica.state)


def state(replica: Replica) -> tuple[str, str]:
    replica.refresh_from_db()
    return replica.state, replica.reason


def asked(endpoint: Endpoint, world: World, *, people: bool) -> None:
    Activity.objects.create(
        endpoint_id=endpoint.id,
        gateway_id="gw",
        in_flight=1,
        waiting=0,
        people=people,
        at=world.now,
    )


def test_asleep_then_batch_then_above_the_minimum(world: World) -> None:
    node = world.node(devices=4)
    crowd = serving(world, node, 2, name="crowd", min_replicas=1)
    (batch,) = serving(world, node, 1, name="batch", min_replicas=0)
    (sleeper,) = serving(world, node, 1, name="sleeper", min_replicas=0)
    assert sleeping.sleep(sleeper.id, now=world.now)
    asked(batch.endpoint, world, people=False)
    wanting = world.endpoint(name="wanting", min_replicas=4, max_replicas=4)
    gone = []
    for _ in range(3):
        waiting = requested(world, wanting)
        for _ in range(2):  # one goes, however often it is asked for
            assert isinstance(placing.place(waiting.id, now=world.now), Refusal)
            (going,) = (one for one in held(node) if one.state == State.DRAINING)
        assert state(going) == ("draining", Reason.YIELDED)
        gone.append(going)
        world.report(node, *(said(one.id, phase(one)) for one in held(node) if one != going))
        assert isinstance(placing.place(waiting.id, now=world.now), Placement)
    assert [one.id for one in gone] == [sleeper.id, batch.id, crowd[1].id]
    assert state(crowd[0])[0] == "ready"  # within its minimum


def test_who_is_above_its_own_minimum_sends_nobody_away_that_serves(world: World) -> None:
    node = world.node(devices=2)
    (batch,) = serving(world, node, 1, name="batch", min_replicas=0)
    (other,) = serving(world, node, 1, name="other", min_replicas=0)
    asked(batch.endpoint, world, people=False)
    asked(other.endpoint, world, people=True)
    wanting = world.endpoint(name="wanting", min_replicas=0)
    replica = requested(world, wanting)
    assert isinstance(placing.place(replica.id, now=world.now), Refusal)
    assert state(batch)[0] == state(other)[0] == "ready"
    asked(wanting, world, people=True)
    assert isinstance(placing.place(replica.id, now=world.now), Refusal)
    assert (state(batch)[0], state(other)[0]) == ("draining", "ready")


def test_what_comes_free_is_kept_for_who_waits_and_for_a_while(world: World) -> None:
    node = world.node(devices=2)
    sleepers = serving(world, node, 2, name="sleepers", min_replicas=0)
    for one in sleepers:
        assert sleeping.sleep(one.id, now=world.now)
    big = requested(world, world.endpoint(name="big", device_count=2))
    assert isinstance(placing.place(big.id, now=world.now), Refusal)
    assert Reservation.objects.get().node_id == node.id
    world.report(node, said(sleepers[1].id, Phase.DRAINING))
    small = requested(world, world.endpoint(name="small"))
    refusal = placing.place(small.id, now=world.now)
    assert isinstance(refusal, Refusal)
    assert str(refusal) == "n1: 0 of 2 devices of kind cpu free and 1 reserved, 1 needed"
    world.report(node)
    later = world.later(preempting.RESERVED.total_seconds() / 2)
    world.heartbeat(node)
    assert isinstance(placing.place(small.id, now=later), Refusal)
    taken = placing.place(big.id, now=later)
    assert isinstance(taken, Placement) and len(taken.device_ids) == 2
    assert not Reservation.objects.exists()


def test_a_reservation_ends_by_itself(world: World, node: Node) -> None:
    big = requested(world, world.endpoint(name="big", device_count=2))
    expires = world.now + timedelta(seconds=5)
    Reservation.objects.create(replica=big, node=node, kind="cpu", count=2, expires_at=expires)
    small = requested(world, world.endpoint(name="small"))
    assert isinstance(placing.place(small.id, now=world.now), Refusal)
    later = world.later(6)
    world.heartbeat(node)
    assert isinstance(placing.place(small.id, now=later), Placement)
    preempting.forget(later)
    assert not Reservation.objects.exists()


def test_of_two_that_wait_for_one_node_the_first_is_served_first(world: World, node: Node) -> None:
    big = requested(world, world.endpoint(name="big", device_count=2))
    small = requested(world, world.endpoint(name="small"))
    expires = world.now + preempting.RESERVED
    for replica, count in ((small, 1), (big, 2)):
        Reservation.objects.create(
            replica=replica, node=node, kind="cpu", count=count, expires_at=expires
        )
    refusal = placing.place(big.id, now=world.now)
    assert "1 of 2 devices of kind cpu free and 1 reserved" in str(refusal)
    assert isinstance(placing.place(small.id, now=world.now), Placement)
    lifecycle.advance(small.id, State.STOPPED, reason=Reason.STOPPED, now=world.now, released=True)
    assert isinstance(placing.place(big.id, now=world.now), Placement)


def test_who_waits_long_for_several_devices_reserves_a_node(world: World) -> None:
    """Or those that need one each would take every device that comes free, for ever."""
    node = world.node(devices=2)
    first = serving(world, node, 2, name="first", min_replicas=2)
    big = requested(world, world.endpoint(name="big", device_count=2))
    for wait in (0.0, preempting.PATIENCE.total_seconds()):
        later = world.later(wait)
        world.report(node, *(said(one.id, Phase.READY) for one in first))
        assert isinstance(placing.place(big.id, now=later), Refusal)
        assert Reservation.objects.exists() == bool(wait)
    world.report(node, said(first[0].id, Phase.READY), said(first[1].id, Phase.STOPPED))
    small = requested(world, world.endpoint(name="small"))
    assert isinstance(placing.place(small.id, now=world.now), Refusal)
    world.report(node, said(first[0].id, Phase.STOPPED))
    assert isinstance(placing.place(big.id, now=world.now), Placement)


def test_a_gang_sends_others_away_on_all_of_its_nodes_or_on_none(world: World) -> None:
    able = {"walls": [*WALLS["walls"], wire.Wall.GANG], "relay": "127.0.0.1:1"}
    nodes = [world.node(f"n{number}", 2, inventory=able) for number in range(2)]
    sleepers = [serving(world, one, 1, name=f"of-{one.name}", min_replicas=0)[0] for one in nodes]
    assert sleeping.sleep(sleepers[0].id, now=world.now)
    spec = {"device_count": 2, "node_count": 2, "min_replicas": 0}
    gang = requested(world, world.endpoint(name="gang", **spec))
    assert isinstance(placing.place(gang.id, now=world.now), Refusal)
    assert [state(one)[0] for one in sleepers] == ["asleep", "ready"]  # one alone is of no use
    assert not Reservation.objects.exists()
    assert sleeping.sleep(sleepers[1].id, now=world.now)
    for _ in range(2):
        assert isinstance(placing.place(gang.id, now=world.now), Refusal)
        assert [state(one)[0] for one in sleepers] == ["draining", "draining"]
    assert Reservation.objects.filter(replica=gang).count() == 2
    small = requested(world, world.endpoint(name="small"))
    assert isinstance(placing.place(small.id, now=world.now), Refusal)
    for one in nodes:
        world.report(one)
    assert isinstance(placing.place(gang.id, now=world.now), GangPlacement)
    assert not Reservation.objects.exists()


def test_the_last_whole_block_is_kept(world: World) -> None:
    world.pool.keep_block = 4
    world.pool.save()
    nodes = [world.node(f"n{number}", 4) for number in range(2)]
    endpoint = world.endpoint(max_replicas=8)
    answers = [placing.place(requested(world, endpoint).id, now=world.now) for _ in range(5)]
    assert [type(one) for one in answers] == [Placement] * 4 + [Refusal]
    last = answers[-1]
    assert isinstance(last, Refusal) and "keeps one whole block of 4 devices free" in str(last)
    assert len({one.node_id for one in answers if isinstance(one, Placement)}) == 1
    whole = requested(world, world.endpoint(name="whole", device_count=4))
    assert isinstance(placing.place(whole.id, now=world.now), Placement)
    assert DeviceClaim.objects.filter(device__node__in=nodes).count() == 8


@pytest.mark.parametrize(("hours", "weights"), [(0, Weights.MEMORY), (1, Weights.DISK)])
def test_where_it_ran_before_the_weights_are(world: World, hours: int, weights: Weights) -> None:
    nodes = [world.node(f"n{number}", 8) for number in range(2)]
    endpoint = world.endpoint(name="one")
    replica = world.replica(endpoint, nodes[0])
    node = nodes[0]
    world.report(node, said(replica.id, Phase.READY))
    world.report(node, said(replica.id, Phase.STOPPED))
    world.later(3600 * hours)
    for one in nodes:
        world.heartbeat(one)
    assert locality.of(endpoint, world.now) == {node.id: weights}
    assert locality.of(world.endpoint(name="two", model="org/other"), world.now) == {}
    for number in range(3):
        other = world.endpoint(name=f"again-{number}")
        taken = placing.place(requested(world, other).id, now=world.now)
        assert isinstance(taken, Placement) and taken.node_id == node.id
        (why,) = taken.rejected.values()
        assert "does not hold the weights" in why
