"""Replicas of one organization that share a device."""

import threading

import pytest
from django.db import IntegrityError, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.endpoints import lifecycle, placing
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import DeviceClaim, Endpoint, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Device, Node, Pool
from controlplane.fleet.wire import Phase
from controlplane.placement.choose import Placement, Refusal
from controlplane.tenancy.models import Project
from tests.endpoints.test_placing import connections_for
from tests.endpoints.world import WALLS, World, organization, said

SHARES = WALLS | {"shares": True}
IMAGE = {"reference": "registry.example/a:1"}


@pytest.fixture
def open_pool(db: None) -> World:
    """Of several organizations; devices may be shared."""
    world = World.build(shared=True)
    share(world.pool)
    return world


def share(pool: Pool, allowed: bool = True) -> None:
    pool.share_devices = allowed
    pool.save(update_fields=["share_devices"])


def requested(world: World, endpoint: Endpoint) -> Replica:
    return Replica.objects.create(
        endpoint=endpoint,
        generation=1,
        reason=Reason.SCALE_UP,
        state_at=world.now,
        created_at=world.now,
    )


def place(world: World, endpoint: Endpoint) -> Placement | Refusal:
    answer = placing.place(requested(world, endpoint).id, now=world.now)
    assert isinstance(answer, Placement | Refusal)
    return answer


def stop(world: World, replica: Replica) -> None:
    lifecycle.advance(
        replica.id, State.STOPPED, reason=Reason.STOPPED, now=world.now, released=True
    )


def held() -> dict[int, list[int]]:
    """Device index to the thousandths that are held of it."""
    found: dict[int, list[int]] = {}
    for index, milli in DeviceClaim.objects.values_list("device__index", "milli").order_by("milli"):
        found.setdefault(index, []).append(milli)
    return found


def test_two_of_one_organization_share_and_another_has_no_part(open_pool: World) -> None:
    world, other = open_pool, organization("other")
    world.node(devices=1, inventory=SHARES)
    sibling = Project.objects.create(
        organization=world.project.organization, name="more", created_at=world.now
    )
    assert isinstance(place(world, world.endpoint(name="a", device_share=400)), Placement)
    refused = place(world, world.endpoint(name="b", device_share=400, project=other))
    assert isinstance(refused, Refusal)
    (why,) = refused.reasons.values()
    assert why == "n1: 0 of the 400 thousandths of a device of kind cpu free"
    whole = place(world, world.endpoint(name="whole"))
    assert isinstance(whole, Refusal)
    (why,) = whole.reasons.values()
    assert why == "n1: 0 of 1 devices of kind cpu free, 1 needed"
    mine = world.endpoint(name="c", device_share=600, project=sibling)  # the same organization
    assert isinstance(place(world, mine), Placement)
    assert held() == {0: [400, 600]}


def test_an_open_device_goes_before_an_empty_one(open_pool: World) -> None:
    """Whole devices stay whole for who needs them."""
    open_pool.node(devices=4, inventory=SHARES)
    endpoint = open_pool.endpoint(device_share=250, max_replicas=4)
    for _ in range(4):
        assert isinstance(place(open_pool, endpoint), Placement)
    assert list(held().values()) == [[250] * 4]
    four = open_pool.endpoint(name="four", device_count=4)
    three = open_pool.endpoint(name="three", device_count=3)
    assert isinstance(place(open_pool, four), Refusal)
    assert isinstance(place(open_pool, three), Placement)


def test_a_pool_that_closes_and_an_agent_that_is_old(open_pool: World) -> None:
    node = open_pool.node(devices=1, inventory=WALLS)
    endpoint = open_pool.endpoint(device_share=500, max_replicas=3)
    refused = place(open_pool, endpoint)
    assert isinstance(refused, Refusal) and "too old" in refused.reasons[node.id]
    Node.objects.filter(id=node.id).update(inventory=SHARES)
    assert isinstance(place(open_pool, endpoint), Placement)
    share(open_pool.pool, False)
    refused = place(open_pool, Endpoint.objects.get(id=endpoint.id))
    assert isinstance(refused, Refusal) and "does not let replicas" in refused.reasons[node.id]
    assert held() == {0: [500]}  # who stands there stays


@pytest.mark.parametrize(
    ("wish", "code", "field"),
    [
        ({"device_share": 0}, "invalid_device_share", "device_share"),
        ({"device_share": 1001}, "invalid_device_share", "device_share"),
        ({"device_count": 2}, "invalid_device_share", "device_share"),
        (
            {"engine_args": {"gpu_memory_utilization": 0.5}},
            "engine_arg_invalid",
            "engine_args.gpu_memory_utilization",
        ),
        (
            {"engine_args": {"kv_cache_memory_bytes": 1 << 30}},
            "engine_arg_invalid",
            "engine_args.kv_cache_memory_bytes",
        ),
        (
            {"engine": "trtllm", "device_kind": "nvidia-h200", "image": IMAGE},
            "engine_cannot_share",
            "device_share",
        ),
        (
            {"engine": "custom", "image": IMAGE | {"port": 80}},
            "engine_cannot_share",
            "device_share",
        ),
    ],
)
def test_what_cannot_have_a_share(
    open_pool: World, wish: dict[str, object], code: str, field: str
) -> None:
    open_pool.node(inventory=SHARES)
    open_pool.node("gpus", kind="nvidia-h200", inventory=SHARES)
    with pytest.raises(Invalid) as refused:
        open_pool.endpoint(**({"device_share": 500} | wish))
    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_closed_pool_refuses_the_wish(world: World, node: Node) -> None:
    with pytest.raises(Invalid) as refused:
        world.endpoint(device_share=500)
    assert (refused.value.code, refused.value.field) == ("pool_shares_no_devices", "device_share")
    share(world.pool)
    assert world.endpoint(device_share=500).device_share == 500


def test_the_wish_of_a_sharer(open_pool: World) -> None:
    """Its node hears of the share; it never sleeps, and its version keeps the share."""
    node = open_pool.node(devices=1, inventory=SHARES)
    endpoint = open_pool.endpoint(device_share=300, min_replicas=0)
    replica = open_pool.replica(endpoint, node)
    spec = open_pool.desired(node)[replica.id].spec
    assert spec is not None and (spec.device_share, spec.may_sleep) == (300, False)
    assert replica.version.device_share == 300


def serving(world: World, node: Node, **spec: object) -> Replica:
    replica = world.replica(world.endpoint(**spec), node)
    there = Replica.objects.filter(node=node, released_at=None)
    world.report(node, *(said(one.id, Phase.READY) for one in there))
    replica.refresh_from_db()
    return replica


def test_sharers_make_room_together_and_for_their_own_alone(open_pool: World) -> None:
    node = open_pool.node(devices=1, inventory=SHARES)
    one = serving(open_pool, node, name="one", device_share=300, min_replicas=0)
    two = serving(open_pool, node, name="two", device_share=600, min_replicas=0)
    mine = requested(open_pool, open_pool.endpoint(name="mine", device_share=500, min_replicas=1))
    assert isinstance(placing.place(mine.id, now=open_pool.now), Refusal)
    states = dict(Replica.objects.values_list("id", "state"))
    assert (states[one.id], states[two.id]) == ("ready", "draining")
    open_pool.report(node, said(one.id, Phase.READY))
    assert isinstance(placing.place(mine.id, now=open_pool.now), Placement)
    assert held() == {0: [300, 500]}


def test_a_whole_device_is_made_free_of_all_its_sharers(open_pool: World) -> None:
    node = open_pool.node(devices=1, inventory=SHARES)
    other = organization("other")
    sharers = [
        serving(open_pool, node, name=f"part{n}", device_share=400, min_replicas=0)
        for n in range(2)
    ]
    whole = requested(open_pool, open_pool.endpoint(name="whole", project=other, min_replicas=1))
    assert isinstance(placing.place(whole.id, now=open_pool.now), Refusal)
    for one in sharers:
        one.refresh_from_db()
        assert (one.state, one.reason) == ("draining", "yielded")
    # What one of them gave back already is not shared anew: the device would never come free.
    open_pool.report(node, said(sharers[0].id, Phase.READY))
    late = requested(open_pool, open_pool.endpoint(name="late", device_share=100, min_replicas=0))
    assert isinstance(placing.place(late.id, now=open_pool.now), Refusal)
    open_pool.report(node)
    assert isinstance(placing.place(whole.id, now=open_pool.now), Placement)


def test_a_device_with_a_sharer_within_its_minimum_is_let_be(open_pool: World) -> None:
    node = open_pool.node(devices=1, inventory=SHARES)
    kept = serving(open_pool, node, name="kept", device_share=400, min_replicas=1)
    extra = serving(open_pool, node, name="extra", device_share=400, min_replicas=0)
    whole = requested(open_pool, open_pool.endpoint(name="whole", min_replicas=1))
    assert isinstance(placing.place(whole.id, now=open_pool.now), Refusal)
    for one in (kept, extra):
        one.refresh_from_db()
        assert one.state == "ready"


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    asked=st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from([1, 125, 333, 500, 667, 999, 1000]), st.booleans()
        ),
        max_size=10,
    )
)
def test_no_device_is_ever_oversold(open_pool: World, asked: list[tuple[int, int, bool]]) -> None:
    """Whoever comes and goes: sums stay within a device, a refusal is given only where there is
    no room, and a device is one organization's."""
    with transaction.atomic():
        sid = transaction.savepoint()
        world = open_pool
        world.node("n", devices=3, inventory=SHARES)
        owners = [world.project, organization("other")]
        for number, (owner, milli, goes) in enumerate(asked):
            endpoint = world.endpoint(name=f"e{number}", device_share=milli, project=owners[owner])
            answer = place(world, endpoint)
            free, ours = room(owners[owner])
            if isinstance(answer, Refusal):
                assert free == 0 and ours < milli
            assert sums_hold()
            if goes and (placed := Replica.objects.filter(state=State.PLACED).first()):
                stop(world, placed)
        transaction.savepoint_rollback(sid)


def room(project: Project) -> tuple[int, int]:
    """Devices that nobody holds, and the most that is free of one that the organization shares."""
    free, most = 0, 0
    for device in Device.objects.all():
        claims = DeviceClaim.objects.filter(device=device)
        free += not claims.exists()
        theirs = claims.filter(replica__endpoint__project__organization=project.organization)
        if theirs.exists():
            most = max(most, 1000 - sum(theirs.values_list("milli", flat=True)))
    return free, most


def sums_hold() -> bool:
    sums: dict[str, int] = {}
    owners: dict[str, set[str]] = {}
    rows = DeviceClaim.objects.values_list(
        "device_id", "milli", "replica__endpoint__project__organization_id"
    )
    for device, milli, owner in rows:
        sums[device] = sums.get(device, 0) + milli
        owners.setdefault(device, set()).add(owner)
    return all(n <= 1000 for n in sums.values()) and all(len(one) == 1 for one in owners.values())


@pytest.mark.django_db(transaction=True)
def test_the_database_itself_refuses_to_oversell() -> None:
    """Without any lock of ours: of twenty that claim 300 thousandths at once three get them, and
    no stranger's claim stands beside them."""
    world = World.build(shared=True)
    share(world.pool)
    device = world.node(devices=1, inventory=SHARES).devices.get()
    endpoint = world.endpoint(device_share=300, max_replicas=20)
    crowd = [requested(world, endpoint) for _ in range(20)]
    start, outcomes = threading.Barrier(len(crowd)), []

    def claim(replica: Replica) -> None:
        start.wait()
        try:
            DeviceClaim.objects.create(device=device, replica=replica, milli=300)
            outcomes.append("claimed")
        except IntegrityError as error:
            outcomes.append("oversold" if "is oversold" in str(error) else str(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=claim, args=(one,)) for one in crowd]
    with connections_for(len(threads) + 1):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["claimed"] * 3 + ["oversold"] * 17
    stranger = requested(world, world.endpoint(project=organization("other"), device_share=100))
    with pytest.raises(IntegrityError, match="serves one organization"):
        DeviceClaim.objects.create(device=device, replica=stranger, milli=100)
