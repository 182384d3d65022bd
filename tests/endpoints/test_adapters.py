"""LoRA adapters as part of the wish: loaded and unloaded while replicas run."""

from typing import Any

import pytest

from compliance.models import AuditEvent
from controlplane.endpoints import adapters, services
from controlplane.endpoints import spec as specs
from controlplane.endpoints.conditions import summarize
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import State
from controlplane.fleet import wire
from controlplane.fleet.models import Node, Pool
from controlplane.fleet.wire import AdapterReason, AdapterState
from controlplane.tenancy.errors import NotFound
from tests.endpoints.world import ACTOR, START, World, said

POET = {"name": "poet", "path": "/adapters/poet"}
LOADED = AdapterState.LOADED


@pytest.fixture
def endpoint(world: World, node: Node) -> Endpoint:
    return world.endpoint(engine_args={"max_loras": 2})


def load(world: World, endpoint: Endpoint, **source: str) -> Endpoint:
    return adapters.load(actor=ACTOR, endpoint=endpoint, now=world.now, **(POET | source))


def wished(world: World, node: Node, replica: Replica) -> list[wire.Adapter]:
    spec = world.desired(node)[replica.id].spec
    assert spec is not None
    return spec.adapters


def report(
    world: World, node: Node, replica: Replica, *states: wire.AdapterReport
) -> list[adapters.Adapter]:
    """The endpoint's adapters after its replica, which serves, was said to have these."""
    world.report(node, said(replica.id, wire.Phase.READY, adapters=list(states)))
    endpoint = Endpoint.objects.get(id=replica.endpoint_id)
    return adapters.states(endpoint, list(endpoint.replicas.all()))


def test_load_and_unload_change_the_wish_and_nothing_else(
    world: World, node: Node, endpoint: Endpoint
) -> None:
    replica = world.replica(endpoint, node, State.READY)
    node.refresh_from_db()
    version = node.desired_version
    load(world, endpoint)
    (wanted,) = wished(world, node, replica)
    assert (wanted.name, wanted.path) == ("poet", "/adapters/poet")
    node.refresh_from_db()
    assert node.desired_version == version + 1  # a poll that waits is let go
    assert world.reconcile(endpoint) == 0
    adapters.unload(actor=ACTOR, endpoint=endpoint, name="poet", now=world.now)
    assert wished(world, node, replica) == []
    assert world.states(endpoint) == ["ready"]
    events = AuditEvent.objects.filter(target_id=endpoint.id).order_by("id")
    assert [e.action for e in events][1:] == ["adapter.load", "adapter.unload"]
    told = [bytes(e.body) for e in events]
    assert b"adapter.load" in told[1]
    assert b"/adapters/poet" not in told[1]  # it may name a person


def test_the_same_again_changes_nothing_and_another_source_is_another_load(
    world: World, node: Node, endpoint: Endpoint
) -> None:
    first = load(world, endpoint).adapters
    assert load(world, endpoint).adapters == first
    assert AuditEvent.objects.filter(action="adapter.load").count() == 1
    (second,) = load(world, endpoint, path="/adapters/other").adapters
    assert (second["name"], second["path"]) == ("poet", "/adapters/other")
    assert second["id"] != first[0]["id"]


def test_one_that_is_kept_is_no_new_load(world: World, endpoint: Endpoint) -> None:
    (kept,) = load(world, endpoint).adapters
    assert specs.adapter(kept) == kept
    assert specs.adapter(POET)["id"] not in ("", kept["id"])


def test_what_cannot_be_is_refused_and_changes_nothing(
    world: World, node: Node, endpoint: Endpoint
) -> None:
    for source, code in (
        ({"name": "a:b"}, "invalid_adapters"),
        ({"path": "../x"}, "invalid_model"),
        ({"revision": "main"}, "invalid_model"),  # a path has none
    ):
        with pytest.raises(Invalid) as refused:
            load(world, endpoint, **source)
        assert refused.value.code == code
    load(world, endpoint, name="one")
    load(world, endpoint, name="two")
    with pytest.raises(Invalid, match="room for 2") as refused:
        load(world, endpoint, name="three")
    assert refused.value.code == "too_many_adapters"
    with pytest.raises(NotFound):
        adapters.unload(actor=ACTOR, endpoint=endpoint, name="three", now=world.now)
    endpoint.refresh_from_db()
    assert [one["name"] for one in endpoint.adapters] == ["one", "two"]


def test_a_path_of_the_nodes_only_in_a_pool_of_ones_own(world: World, node: Node) -> None:
    shared = Pool.objects.create(region_id="eu-de-1", name="shared", created_at=START)
    world.node("n2", pool=shared)
    endpoint = world.endpoint(name="x", pool_id=shared.id)
    with pytest.raises(Invalid) as refused:
        load(world, endpoint)
    assert refused.value.code == "path_on_shared_pool"
    assert load(world, endpoint, path="org/poet").adapters


def test_room_comes_with_the_first_adapter_and_stays(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node, State.READY)
    changed = load(world, endpoint)
    assert changed.engine_args == {"max_loras": 4}
    assert changed.generation > replica.generation  # its engine cannot take any
    newest = changed.versions.get(number=changed.generation)
    assert (newest.spec["engine_args"], newest.note) == ({"max_loras": 4}, "room for adapters")
    again = load(world, endpoint, name="second")
    assert again.generation == changed.generation
    adapters.unload(actor=ACTOR, endpoint=endpoint, name="second", now=world.now)
    endpoint.refresh_from_db()
    assert (endpoint.generation, endpoint.engine_args) == (changed.generation, {"max_loras": 4})


@pytest.mark.parametrize(
    ("wish", "room"),
    [
        ({"adapters": [POET]}, 4),
        ({"adapters": [{"name": f"a{i}", "path": "org/x"} for i in range(6)]}, 6),
        ({"adapters": [POET], "engine_args": {"max_loras": 1}}, 1),
        ({"engine_args": {"max_lora_rank": 32}}, 4),
        ({}, None),
    ],
)
def test_how_much_room_a_new_endpoint_has(
    world: World, node: Node, wish: dict[str, Any], room: int | None
) -> None:
    assert world.endpoint(**wish).engine_args.get("max_loras") == room


def test_what_the_nodes_say_is_what_is_shown(world: World, node: Node, endpoint: Endpoint) -> None:
    endpoint = load(world, endpoint)
    (wanted,) = endpoint.adapters
    (state,) = adapters.states(endpoint, [])
    assert state.status == "waiting"
    replica = world.replica(endpoint, node, State.READY)
    (state,) = report(world, node, replica)
    assert state.status == "loading"
    (state,) = report(world, node, replica, wire.AdapterReport(id=wanted["id"], state=LOADED))
    assert (state.status, state.reason, state.message) == ("loaded", "", "")
    high = wire.AdapterReport(
        id=wanted["id"],
        state=AdapterState.FAILED,
        reason=AdapterReason.RANK_TOO_HIGH,
        detail="its rank is 64, the endpoint's max_lora_rank is 16",
    )
    (state,) = report(world, node, replica, high)
    assert (state.status, state.reason) == ("failed", "adapter_rank_too_high")
    assert "rank is 64" in state.message
    assert "Set the engine arg `max_lora_rank`" in state.message
    assert [(on.replica, on.state) for on in state.replicas] == [(replica.id, "failed")]
    replica.refresh_from_db()
    assert replica.state == State.READY
    endpoint.refresh_from_db()
    conditions = {one.type: one for one in summarize(endpoint, [replica]).conditions}
    condition = conditions["AdaptersLoaded"]
    assert condition.status == "False"
    assert condition.reason == "adapter_rank_too_high"


def test_every_reason_has_advice() -> None:
    assert set(adapters.ADVICE) == set(AdapterReason)


def test_a_replica_that_is_made_later_is_told_of_them(
    world: World, node: Node, endpoint: Endpoint
) -> None:
    """After a failure, a move to another node, a sleep: each start reads the same wish."""
    load(world, endpoint)
    first = world.replica(endpoint, node, State.READY)
    world.report(node, said(first.id, wire.Phase.FAILED, reason="engine_exited"))
    other = world.node("n2")
    Node.objects.filter(id=node.id).update(cordoned_at=world.now)
    second = world.replica(endpoint, other)
    first.refresh_from_db()
    assert [one.name for one in wished(world, other, second)] == ["poet"]
    (state,) = adapters.states(Endpoint.objects.get(id=endpoint.id), [first, second])
    assert state.status == "waiting"


def test_a_deleted_endpoint_loads_nothing(world: World, endpoint: Endpoint) -> None:
    services.delete(actor=ACTOR, endpoint=endpoint, now=world.now)
    with pytest.raises(NotFound):
        load(world, endpoint)
