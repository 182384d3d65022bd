"""A replica over several nodes: placed whole, told together, falling together, paid for whole."""

from datetime import timedelta
from typing import Any

import pytest

from billing.models import UsageEvent
from controlplane.api.endpoint_views import ReplicaView
from controlplane.endpoints import lifecycle, logs, placing, services
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import DeviceClaim, Endpoint, Member, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Device, Node
from controlplane.placement.choose import Refusal
from tests.endpoints.world import ACTOR, World, said
from workers import metering, provisioning

pytestmark = pytest.mark.django_db

JOINS = {"walls": ["uid", "network", "socket", "gang"], "relay": "10.1.0.1:7443"}
P = wire.Phase


class Stage:
    """One endpoint of gangs of two, and the nodes that may host them."""

    def __init__(self, world: World, nodes: int = 2, **spec: Any) -> None:
        self.world = world
        self.nodes = [world.node(f"n{n}", 2, inventory=JOINS) for n in range(nodes)]
        spec = {"node_count": 2, "device_count": 2, "max_replicas": 1} | spec
        self.endpoint: Endpoint = world.endpoint(**spec)
        world.reconcile(self.endpoint)

    @property
    def replica(self) -> Replica:
        return Replica.objects.filter(endpoint=self.endpoint).latest("id")

    def members(self) -> list[Member]:
        return list(self.replica.members.select_related("node"))

    def say(self, rank: int, phase: wire.Phase, **facts: Any) -> None:
        member = self.members()[rank]
        if rank:
            facts.setdefault("address", "")
        self.world.report(member.node, said(self.replica.id, phase, **facts))

    def wish(self, rank: int) -> wire.DesiredReplica:
        return self.world.desired(self.members()[rank].node)[self.replica.id]

    def ready(self) -> None:
        for phase in (P.FETCHING, P.STARTING):
            self.say(0, phase)
            self.say(1, phase)
        self.say(1, P.READY)
        self.say(0, P.READY)
        assert self.replica.state == State.READY


@pytest.fixture
def stage(world: World) -> Stage:
    return Stage(world)


def test_all_members_are_placed_at_once(stage: Stage) -> None:
    replica = stage.replica
    assert (replica.state, replica.node_count) == ("placed", 2)
    assert replica.node is None
    assert [member.rank for member in stage.members()] == [0, 1]
    assert len({member.node_id for member in stage.members()}) == 2
    assert DeviceClaim.objects.filter(replica=replica).count() == 4
    for rank, member in enumerate(stage.members()):
        wish = stage.wish(rank)
        assert wish.spec is not None
        assert wish.spec.seat == wire.Seat(rank=rank, size=2)
        assert wish.spec.device_indexes == [0, 1]
        assert wish.spec.engine_args == {"tensor_parallel_size": 4}
        assert [(peer.rank, peer.relay) for peer in wish.peers] == [
            (0, "10.1.0.1:7443"),
            (1, "10.1.0.1:7443"),
        ]
        assert wish.peers[rank].node_id == member.node_id
        assert not wish.go


@pytest.mark.parametrize(
    ("devices", "inventory", "why"),
    [
        (1, JOINS, "n1: has 1 of 2 devices of kind cpu"),
        (2, {**JOINS, "relay": ""}, "n1: it cannot join a gang"),
        (2, {**JOINS, "walls": ["uid", "socket"]}, "n1: it cannot join a gang"),
    ],
)
def test_without_all_nodes_none_is_taken(
    world: World, devices: int, inventory: dict[str, Any], why: str
) -> None:
    nodes = [world.node("n0", 2, inventory=JOINS), world.node("n1", 2, inventory=inventory)]
    endpoint = world.endpoint(node_count=2, device_count=2)
    Device.objects.filter(node=nodes[1], index__gte=devices).update(healthy=False)
    world.reconcile(endpoint)
    replica = Replica.objects.get()
    assert (replica.state, replica.reason) == ("requested", "no_capacity")
    assert "1 of 2 nodes that are needed at once can take it" in replica.detail
    assert why in replica.detail
    assert not DeviceClaim.objects.exists()
    assert not Member.objects.exists()


def test_nobody_starts_before_all_have_fetched(stage: Stage) -> None:
    stage.say(0, P.FETCHING, bytes_done=5, bytes_total=10)
    stage.say(0, P.STARTING, bytes_done=10, bytes_total=10)
    assert stage.replica.state == State.PLACED  # as far as the last of them
    stage.say(1, P.FETCHING, bytes_done=4, bytes_total=10)
    assert (stage.replica.state, stage.replica.bytes_done) == (State.FETCHING, 14)
    assert not stage.wish(0).go
    before = [member.node.desired_version for member in stage.members()]
    stage.say(1, P.STARTING)
    assert stage.replica.state == State.STARTING
    assert stage.wish(0).go
    assert stage.wish(1).go
    after = [member.node.desired_version for member in stage.members()]
    assert all(late > early for early, late in zip(before, after, strict=True))


def test_ready_is_rank_0s_to_say(stage: Stage) -> None:
    for rank in (0, 1):
        stage.say(rank, P.STARTING)
    stage.say(1, P.READY)
    assert stage.replica.state == State.STARTING
    stage.say(0, P.PROBING)
    stage.say(1, P.READY)
    assert stage.replica.state == State.PROBING
    stage.say(0, P.READY, address="relay:10.1.0.1:7443")
    assert (stage.replica.state, stage.replica.address) == ("ready", "relay:10.1.0.1:7443")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("so_far", [P.FETCHING, P.STARTING, P.READY])
def test_one_falls_and_all_fall(stage: Stage, rank: int, so_far: wire.Phase) -> None:
    if so_far is P.READY:
        stage.ready()
    else:
        stage.say(0, so_far)
        stage.say(1, so_far)
    stage.say(rank, P.FAILED, reason="engine_exited", detail="kil\0led")
    replica = stage.replica
    assert (replica.state, replica.reason) == ("failed", "engine_exited")
    assert replica.detail == f"rank {rank}: {logs.clean('kil' + chr(0) + 'led')}"
    other = stage.members()[1 - rank]
    assert not stage.wish(1 - rank).run
    assert stage.wish(1 - rank).drain_s == 0.0
    # What fell is free at once, the rest when its node has ended it.
    held = DeviceClaim.objects.filter(replica=replica).values_list("device__node_id", flat=True)
    assert set(held) == {other.node_id}
    assert replica.released_at is None
    stage.say(1 - rank, P.STOPPED)
    assert not DeviceClaim.objects.filter(replica=replica).exists()
    assert stage.replica.released_at is not None


def test_the_others_compute_until_rank_0_has_drained(stage: Stage) -> None:
    stage.ready()
    services.stop(actor=ACTOR, endpoint=stage.endpoint, now=stage.world.now)
    stage.world.reconcile(stage.endpoint)
    assert stage.replica.state == State.DRAINING
    assert (stage.wish(0).run, stage.wish(1).run) == (False, True)
    stage.say(1, P.READY)
    assert stage.replica.state == State.DRAINING
    stage.say(0, P.STOPPED)
    assert stage.replica.state == State.STOPPED
    assert not stage.wish(1).run
    stage.say(1, P.STOPPED)
    assert stage.replica.released_at is not None
    assert not DeviceClaim.objects.exists()


def test_a_silent_member_makes_it_unreachable_then_lost(stage: Stage) -> None:
    """Rank 0's node goes on talking, and that does not bring it back."""
    stage.ready()
    replica = stage.replica
    stage.world.later(25)
    stage.say(0, P.READY)
    provisioning.sweep(now=stage.world.now)
    assert stage.replica.state == State.UNREACHABLE
    stage.say(0, P.READY)
    assert stage.replica.state == State.UNREACHABLE
    interval = stage.world.intervals(replica)[0]
    assert interval.ended_at is not None
    assert interval.ended_at <= stage.world.now - timedelta(seconds=25)
    stage.say(1, P.READY)
    stage.say(0, P.READY)
    assert stage.replica.state == State.READY
    stage.world.later(2000)
    stage.say(0, P.READY)
    provisioning.sweep(now=stage.world.now)
    lost = Replica.objects.get(id=replica.id)
    assert (lost.state, lost.reason) == ("failed", "node_lost")
    wish = stage.world.desired(lost.members.get(rank=0).node)[lost.id]
    assert not wish.run


def test_a_removed_node_frees_its_own_devices_alone(stage: Stage) -> None:
    stage.ready()
    replica, member = stage.replica, stage.members()[1]
    Node.objects.filter(id=member.node_id).update(removed_at=stage.world.now)
    stage.world.reconcile(stage.endpoint)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("failed", "node_lost")
    held = DeviceClaim.objects.filter(replica=replica).values_list("device__node_id", flat=True)
    assert set(held) == {replica.members.get(rank=0).node_id}
    stage.world.report(replica.members.get(rank=0).node, said(replica.id, P.STOPPED))
    replica.refresh_from_db()
    assert replica.released_at is not None


def test_a_late_member_does_not_hold_the_others_for_ever(stage: Stage) -> None:
    replica = stage.replica
    stage.say(0, P.STARTING)
    for _ in range(400):
        stage.world.later(15)
        for rank in (0, 1):
            stage.world.heartbeat(stage.members()[rank].node)
        provisioning.sweep(now=stage.world.now)
        replica.refresh_from_db()
        if replica.state == State.FAILED:
            break
    assert (replica.state, replica.reason) == ("failed", "start_timeout")
    for rank in (0, 1):
        node = replica.members.get(rank=rank).node
        assert not stage.world.desired(node)[replica.id].run
        stage.world.report(node, said(replica.id, P.STOPPED))
    assert not DeviceClaim.objects.filter(replica=replica).exists()


def test_a_member_that_its_node_forgot_is_missed(stage: Stage) -> None:
    stage.ready()
    replica = stage.replica
    stage.world.report(stage.members()[1].node)
    replica.refresh_from_db()
    assert (replica.state, replica.reason) == ("failed", "engine_missing")


def test_a_report_of_an_older_wish_says_nothing(stage: Stage) -> None:
    stage.world.report(stage.members()[1].node, version=0)
    assert stage.replica.state == State.PLACED


def test_every_device_of_every_member_is_paid_for(stage: Stage) -> None:
    stage.ready()
    stage.world.later(60)
    stage.say(1, P.READY)
    stage.say(0, P.READY, ready_s=60.0)
    stage.world.later(120)
    metering.meter_replicas(stage.world.now)
    first = UsageEvent.objects.order_by("at").first()
    assert first is not None
    assert first.quantity == 4 * 60


def test_its_members_are_shown_with_rank_node_and_phase(stage: Stage) -> None:
    stage.say(0, P.FETCHING)
    shown = ReplicaView(stage.replica).data
    assert shown["node"] is None
    assert [dict(member) for member in shown["members"]] == [
        {"rank": 0, "node": stage.members()[0].node_id, "phase": "fetching"},
        {"rank": 1, "node": stage.members()[1].node_id, "phase": ""},
    ]


def test_a_second_gang_goes_where_the_first_is_not(world: World) -> None:
    stage = Stage(world, nodes=4, min_replicas=2, max_replicas=2)
    world.reconcile(stage.endpoint)
    assert Member.objects.values("node").distinct().count() == 4


def test_two_that_want_the_last_nodes_get_them_whole_or_not(world: World) -> None:
    stage = Stage(world)
    rival = Replica.objects.create(
        endpoint=stage.endpoint,
        generation=1,
        reason=Reason.SCALE_UP,
        state_at=world.now,
        created_at=world.now,
    )
    assert isinstance(placing.place(rival.id, now=world.now), Refusal)
    assert not Member.objects.filter(replica=rival).exists()
    assert lifecycle.advance(rival.id, State.STOPPED, reason=Reason.SCALE_DOWN, now=world.now)
    rival.refresh_from_db()
    assert rival.released_at is not None


def test_more_nodes_than_there_are(world: World) -> None:
    world.node("n0", 2, inventory=JOINS)
    with pytest.raises(Invalid, match="2 nodes with 2 devices of kind cpu each are asked for"):
        world.endpoint(node_count=2, device_count=2)
    with pytest.raises(Invalid, match="takes no adapters"):
        adapters = [{"name": "a", "path": "org/adapter"}]
        world.endpoint(node_count=2, adapters=adapters)
    with pytest.raises(Invalid, match="expected 1 to 16 nodes"):
        world.endpoint(node_count=17)
