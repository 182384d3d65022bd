"""What an engine printed while it started corrects the next prediction, and nobody forges it."""

import json
from typing import Any

import pytest

from controlplane.endpoints import measured_starts, model_facts
from controlplane.endpoints.models import (
    Endpoint,
    MeasuredStart,
    ModelFacts,
    Replica,
)
from controlplane.endpoints.states import State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.placement.memory.learning import published
from controlplane.tenancy.models import Project
from tests.endpoints.test_images import RUNS_IMAGES, TAGGED
from tests.endpoints.test_preflight import EIGHT, EIGHT_BYTES, GIB, outlook
from tests.endpoints.world import START, World, organization, said

H200 = "nvidia-h200"  # of which no start of this version is published
MEMORY = 143_771 << 20  # as NVML counts it
ARGUMENTS = {"max_model_len": 8192}


@pytest.fixture
def world(db: None) -> World:
    world = World.build(shared=True)
    ModelFacts.objects.create(
        source="hub", model="org/model", config=EIGHT, tensors={"rest": EIGHT_BYTES}, seen_at=START
    )
    return world


@pytest.fixture
def node(world: World) -> Node:
    return world.node(kind=H200, devices=8, memory=MEMORY, inventory=RUNS_IMAGES)


def endpoint(world: World, name: str = "chat", **more: Any) -> Endpoint:
    return world.endpoint(name=name, **{"device_kind": H200, "engine_args": ARGUMENTS, **more})


def predicted(endpoint: Endpoint) -> dict[str, Any]:
    kept: dict[str, Any] = outlook(endpoint)["prediction"]
    return kept


def printed(endpoint: Endpoint, residual_gib: float, **changed: Any) -> wire.EngineReport:
    """Of a start that takes so much beyond the formulas."""
    told = predicted(endpoint)
    formulas = told["activations_bytes"]["p50"] + told["graphs_bytes"]["p50"]
    left = told["budget_bytes"] - EIGHT_BYTES - formulas
    plain: dict[str, Any] = {
        "version": "0.32.0",
        "weights_bytes": EIGHT_BYTES,
        "kv_cache_bytes": int(left - residual_gib * GIB),
        "kv_cache_tokens": 400_000,
    }
    return wire.EngineReport(**plain | changed)


def start(
    world: World, node: Node, endpoint: Endpoint, engine: wire.EngineReport, **facts: Any
) -> Replica:
    replica = world.replica(endpoint, node)
    told = {"engine": engine, "start_tier": wire.StartTier.COLD} | facts
    for _ in range(2):  # each report says it again
        world.report(node, said(replica.id, wire.Phase.READY, **told))
    replica.refresh_from_db()
    assert replica.state == State.READY
    return replica


def test_a_start_corrects_what_is_predicted_for_everybody(world: World, node: Node) -> None:
    first = endpoint(world)
    before = predicted(first)["non_torch_bytes"]
    replica = start(world, node, first, printed(first, 3.0))
    row = MeasuredStart.objects.get()
    assert (row.replica_id, row.shared, row.engine_version) == (replica.id, True, "0.32.0")
    assert (row.architecture, row.device, row.ranks) == ("LlamaForCausalLM", "h200", 1)
    assert row.arguments == ARGUMENTS and row.printed["kv_cache_tokens"] == 400_000
    assert row.residual_bytes == pytest.approx(3.0 * GIB, abs=1 << 20)
    assert row.weights_ratio == pytest.approx(1.0, abs=0.01)
    assert "org/model" not in str(vars(row))
    stranger = endpoint(world, project=organization("stranger"))
    after = predicted(stranger)["non_torch_bytes"]
    assert after["p50"] > before["p50"] + 0.8 * GIB  # one start is drawn to the formula
    for number in range(3):
        start(world, node, first, printed(first, 3.0 + number / 100))
    last = predicted(endpoint(world, "last"))["non_torch_bytes"]
    assert abs(last["p50"] - 3.0 * GIB) < abs(after["p50"] - 3.0 * GIB)
    assert MeasuredStart.objects.count() == 4
    # What it woke from sleep says is what it said before.
    assert not measured_starts.note(
        replica.id,
        said(replica.id, wire.Phase.READY, engine=printed(first, 1.0), start_tier="wake"),
        world.now,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"kv_cache_bytes": None},
        {"weights_bytes": None},
        {"kv_cache_bytes": 10**15},
        {"kv_cache_bytes": 1},
        {"kv_cache_bytes": -(1 << 40)},
        {"weights_bytes": 2**62},
        {"weights_bytes": EIGHT_BYTES // 2},
        {"version": "0.11.0"},
        {"version": ""},
        {"version": "0.32.0\0", "weights_bytes": 1},
    ],
    ids=str,
)
def test_absurd_figures_teach_nothing(world: World, node: Node, changed: dict[str, Any]) -> None:
    first = endpoint(world)
    start(world, node, first, printed(first, 0.5, **changed))
    assert not MeasuredStart.objects.exists()


def test_what_a_tenant_could_print_itself_teaches_nothing(
    world: World, node: Node, settings: Any
) -> None:
    settings.IMAGE_REGISTRIES = ["registry.example:5000"]
    plain = endpoint(world, "plain")
    own = endpoint(world, image={"reference": TAGGED}, engine_args=ARGUMENTS)
    start(world, node, own, printed(plain, 0.5))
    set_by_us = {"kv_cache_memory_bytes": str(40 * GIB)}
    start(world, node, plain, printed(plain, 0.5), start_flags=set_by_us)
    assert not MeasuredStart.objects.exists()


def test_nodes_of_one_organization_teach_it_alone(world: World) -> None:
    world.pool.organization = world.project.organization
    world.pool.save()
    node = world.node(kind=H200, memory=MEMORY)
    first = endpoint(world)
    start(world, node, first, printed(first, 3.0))
    assert not MeasuredStart.objects.get().shared

    def learnt(project: Project) -> int:
        return len(measured_starts.starts(project.organization, "h200")) - len(published())

    assert (learnt(world.project), learnt(organization("stranger"))) == (1, 0)


def test_starting_often_makes_nobody_the_median(world: World, node: Node) -> None:
    first = endpoint(world)
    engine = printed(first, 0.2)
    for _ in range(measured_starts.EACH + 2):
        start(world, node, first, engine)
    assert MeasuredStart.objects.count() == measured_starts.EACH + 2
    found = measured_starts.starts(world.project.organization, "h200")
    assert len(found) == measured_starts.EACH + len(published())


def test_a_model_that_nobody_knows_teaches_nothing(world: World, node: Node) -> None:
    ModelFacts.objects.update(config={**EIGHT, "num_attention_heads": 0})
    first = endpoint(world)
    replica = start(world, node, first, wire.EngineReport(version="0.32.0", weights_bytes=1))
    assert not MeasuredStart.objects.exists()
    # Nor does what is no longer there stand in the way of a report.
    ModelFacts.objects.all().delete()
    said_again = wire.ModelFacts(replica_id=replica.id, config=json.dumps(EIGHT))
    model_facts.note(node, [said_again], world.now)
    assert ModelFacts.objects.get().project == world.project
