"""Whether a wish can fit, before a device is touched: refused with the numbers, or warned of."""

import hashlib
import json
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import (
    model_facts,
    places,
    preflight,
    pulls,
    questions,
    uploads,
    versions,
)
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import Endpoint, EndpointVersion, ModelFacts, Upload
from controlplane.endpoints.preflight import DoesNotFit
from controlplane.endpoints.states import State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.placement import devices
from controlplane.placement.memory import checkpoint
from controlplane.placement.memory.predict import predict
from controlplane.placement.models import plausible
from controlplane.placement.refusals import Refusal
from tests.benchmarks import predict as bench
from tests.benchmarks.memory import truth
from tests.endpoints.world import ACTOR, START, World, organization
from tests.placement.test_models import LLAMA

GIB = 1 << 30
L4, H200 = "nvidia-l4", "nvidia-h200"
EIGHT: dict[str, Any] = truth.configuration(bench.CONFIGS, "Llama-3.1-8B-Instruct")
EIGHT_BYTES = 16_060_522_496  # of its published weights
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
SMALL = {**LLAMA, "torch_dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.UPLOADS_DIR = tmp_path
    return tmp_path


@pytest.fixture
def gpu(world: World) -> Node:
    return gpus(world, L4)


def gpus(world: World, kind: str, count: int = 1, **facts: Any) -> Node:
    memory = facts.pop("memory", devices.find(kind).memory_bytes + (200 << 20))  # as NVML counts
    return world.node(name=f"{kind}-{count}", kind=kind, devices=count, memory=memory, **facts)


def header(sizes: dict[str, int]) -> bytes:
    said, end = {}, 0
    for name, size in sizes.items():
        said[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(said).encode()
    return struct.pack("<Q", len(text)) + text


def upload(world: World, config: dict[str, Any], tensors: dict[str, int] | None = None) -> Upload:
    contents = {"config.json": json.dumps(config).encode()}
    if tensors is not None:
        contents["model.safetensors"] = header(tensors)
    found = uploads.begin_upload(
        actor=ACTOR,
        project=world.project,
        name="mine",
        files=[
            {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in contents.items()
        ],
        now=world.now,
    )
    for number, data in enumerate(contents.values()):
        uploads.take_piece(
            actor=ACTOR, upload=found, number=number, offset=0, body=BytesIO(data), now=world.now
        )
    return found


def wish(world: World, **more: Any) -> dict[str, Any]:
    mine = upload(world, EIGHT, {"model.layers.0.weight": EIGHT_BYTES})
    return {"source": "upload", "model": mine.id, "device_kind": L4, **more}


def outlook(endpoint: Endpoint) -> dict[str, Any]:
    """Of its newest version."""
    found = EndpointVersion.objects.filter(endpoint=endpoint).order_by("-number")[0].outlook
    assert found is not None
    return dict(found)


def test_what_cannot_fit_is_refused_with_its_numbers(world: World, gpu: Node) -> None:
    gpus(world, H200)
    asked = wish(world)
    with pytest.raises(DoesNotFit) as caught:
        world.endpoint(**asked)
    assert (caught.value.code, caught.value.field) == ("does_not_fit", "engine_args.max_model_len")
    told = caught.value.prediction
    assert told["verdict"] == "does not fit" and told["max_model_len"] == 131_072
    assert abs(told["weights_bytes"]["p50"] - EIGHT_BYTES) < 0.1 * GIB
    assert "weights take 15.0 GiB" in caught.value.message
    assert "131,072 tokens takes 16.0 GiB" in caught.value.message
    ways = {one["argument"]: one["value"] for one in told["advice"]}
    assert ways["device_kind"] == H200 and "device_count" not in ways  # the node has one
    assert not Endpoint.objects.exists()
    assert not AuditEvent.objects.filter(action="endpoint.create").exists()
    shorter = {"max_model_len": int(ways["max_model_len"])}
    made = world.endpoint(**asked, engine_args=shorter)
    kept = outlook(made)
    assert kept["verdict"] == "fits" and preflight.of(made) == []
    assert world.endpoint(**asked | {"device_kind": H200}, name="large").id


def test_more_devices_are_advised_where_a_node_has_them(world: World) -> None:
    gpus(world, L4, 2)
    with pytest.raises(DoesNotFit, match="device_count = 2"):
        world.endpoint(**wish(world, engine_args={"max_model_len": 65_536}))
    two = world.endpoint(
        **wish(world, engine_args={"max_model_len": 65_536, "enforce_eager": True}, device_count=2)
    )
    assert outlook(two)["verdict"] in ("fits", "tight")


def test_a_share_is_judged_by_its_part_of_the_memory(world: World) -> None:
    """And by neighbours that have taken all the rest."""
    gpus(world, H200)
    world.pool.share_devices = True
    world.pool.save()
    asked = wish(world, device_kind=H200, engine_args={"max_model_len": 8192})
    with pytest.raises(DoesNotFit) as refused:
        world.endpoint(**asked, device_share=80)
    assert refused.value.field == "device_share"
    assert "It does not fit on 80 thousandths of nvidia-h200" in str(refused.value)
    (larger,) = re.findall(r"device_share = (\d+)", str(refused.value))
    assert 150 <= int(larger) <= 250  # a fifth of 141 GB for 16 GB of weights
    endpoint = world.endpoint(**asked, device_share=int(larger))
    assert outlook(endpoint)["verdict"] == "fits"
    asked |= {"name": "larger", "engine_args": {"max_model_len": 131072}}
    part, whole = (
        world.endpoint(**(asked | {"name": f"e{n}", "device_share": n})) for n in (400, 1000)
    )
    room = [outlook(one)["prediction"]["budget_bytes"] for one in (part, whole)]
    assert room[0] == pytest.approx(0.4 * room[1], rel=0.001)


def test_what_is_tight_warns_until_it_has_started(world: World, gpu: Node) -> None:
    asked = wish(world)
    with pytest.raises(DoesNotFit) as caught:
        world.endpoint(**asked)
    longest = caught.value.prediction["longest_context"]
    assert longest["p95"] < longest["p50"]
    made = world.endpoint(**asked, engine_args={"max_model_len": int(longest["p50"]) - 256})
    (said,) = preflight.of(made)
    assert said.startswith("It is tight on nvidia-l4") and "max_model_len = " in said
    # Nor is forbidden what only just does not fit: it is more likely not to, and may.
    more = world.endpoint(
        **asked, name="more", engine_args={"max_model_len": int(longest["p50"]) + 256}
    )
    assert preflight.of(more)[0].startswith("It is tight on nvidia-l4")
    world.replica(made, gpu, State.READY)
    assert preflight.of(made) == []


def test_a_model_without_a_cache_has_no_bound(world: World, gpu: Node) -> None:
    embeds = upload(world, BERT)
    made = world.endpoint(source="upload", model=embeds.id, device_kind=L4)
    assert outlook(made)["verdict"] == "fits"
    assert outlook(made)["prediction"]["concurrency"] == {"p50": None, "p95": None}


def test_the_largest_device_of_a_kind_decides_and_the_smallest_warns(world: World) -> None:
    gpus(world, H200)
    gpus(world, H200, 2, memory=24 * GIB)  # as a part of one has
    made = world.endpoint(**wish(world, device_kind=H200))
    (said,) = preflight.of(made)
    assert said.startswith("It is tight on nvidia-h200 with 24.0 GiB")
    assert said.endswith("larger ones too, with 139.8 GiB.")


def test_what_nobody_knows_yet_passes_and_says_what_is_missing(world: World, gpu: Node) -> None:
    made = world.endpoint(device_kind=L4)
    (said,) = preflight.of(made)
    assert "the config.json of org/model: no node has brought it yet" in said
    strange = upload(world, {**EIGHT, "model_type": "nobody-knows"})
    made = world.endpoint(name="strange", source="upload", model=strange.id, device_kind=L4)
    (said,) = preflight.of(made)
    assert "it takes model type 'nobody-knows'" in said
    assert ModelFacts.objects.filter(model=strange.id).exists()


def test_what_a_node_read_where_it_brought_it_decides(world: World, gpu: Node) -> None:
    node = gpu
    pull = pulls.pull_model(
        actor=ACTOR,
        project=world.project,
        pool=world.pool,
        spec=pulls.PullSpec("org/model"),
        now=world.now,
    )
    facts = wire.ModelFacts(
        pull_id=pull.id,
        revision="c0ffee",
        config=json.dumps(EIGHT),
        tensors={"layers.0.": EIGHT_BYTES},
        public=True,
    )
    for _ in range(2):  # it may be told twice
        news = model_facts.note(node, [facts], world.now)
    assert (ModelFacts.objects.count(), news) == (1, [])
    for revision in ("", "c0ffee"):
        with pytest.raises(DoesNotFit):
            world.endpoint(device_kind=L4, revision=revision)
    (said,) = preflight.of(world.endpoint(device_kind=L4, revision="v2", name="other"))
    assert "org/model@v2" in said
    # Its nodes serve one organization and may be its own: what they say is for its project.
    stranger = organization("stranger")
    assert model_facts.find(stranger, Wish("hub", "org/model"), world.now) is None
    assert places.forget(world.project.id, world.now) == 1


def test_who_was_told_of_a_missing_fact_is_told_once_it_is_known(world: World, gpu: Node) -> None:
    made, short = (
        world.endpoint(name=name, device_kind=L4, engine_args=arguments)
        for name, arguments in (("chat", {}), ("short", {"max_model_len": 8192}))
    )
    replica = world.replica(made, gpu, State.FETCHING)
    said = wire.ModelFacts(replica_id=replica.id, config=json.dumps(EIGHT))
    news = model_facts.note(gpu, [said], world.now)
    assert preflight.renew(news, world.now) == 2
    (told,) = preflight.of(made)
    assert told.startswith("It does not fit on nvidia-l4") and "max_model_len = " in told
    assert (outlook(short)["verdict"], preflight.of(short)) == ("fits", [])
    assert preflight.renew(news, world.now) == 0
    with pytest.raises(IntegrityError), transaction.atomic():
        made.versions.update(spec={})  # all else of a version stays as it was asked for


def test_a_model_that_is_open_to_all_is_known_to_all(db: None) -> None:
    world = World.build(shared=True)
    node = gpus(world, L4)
    replicas = [world.replica(world.endpoint(device_kind=L4), node)]
    other = gpus(world, L4, 2)
    facts = wire.ModelFacts(replica_id=replicas[0].id, config=json.dumps(SMALL), revision="1")
    model_facts.note(other, [facts], world.now)  # whose replica that is not
    assert not ModelFacts.objects.exists()
    stranger = organization("stranger")
    for public, expected in ((False, None), (True, "1")):
        said = wire.ModelFacts(
            replica_id=replicas[0].id, config=json.dumps(SMALL), revision="1", public=public
        )
        model_facts.note(node, [said], world.now)
        found = model_facts.find(stranger, Wish("hub", "org/model"), world.now)
        assert (found.revision if found else None) == expected


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[]",
        "{",
        '{"num_hidden_layers": 1e9}',
        '{"text_config": {"n_layer": 99999999}}',
        '{"hybrid_override_pattern": "%s"}' % ("M" * 5000),
        '{"a": "\\u0000"}',
        '{"\\ud800": 1}',
        '{"hidden_size": 1e400}',
        "[" * 100_000,
        '{"a":' * 50 + "1" + "}" * 50,
        '{"a": "%s"}' % ("x" * (256 << 10)),
    ],
    ids=range(12),
)
def test_a_configuration_that_cannot_be_is_not_kept(world: World, gpu: Node, config: str) -> None:
    replica = world.replica(world.endpoint(device_kind=L4), gpu)
    said = wire.ModelFacts(replica_id=replica.id, config=config, tensors={"rest": 1})
    model_facts.note(gpu, [said], world.now)
    assert not ModelFacts.objects.exists()


def test_sizes_that_cannot_be_are_not_known(world: World, gpu: Node) -> None:
    replica = world.replica(world.endpoint(device_kind=L4), gpu)
    for tensors in ({"a": -1}, {"a": 1 << 60}, {"\0": 1}, {"x" * 81: 1}):
        said = wire.ModelFacts(replica_id=replica.id, config=json.dumps(SMALL), tensors=tensors)
        model_facts.note(gpu, [said], world.now)
        assert ModelFacts.objects.get().tensors == {}


nonsense = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**50), 2**50),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-2, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.dictionaries(st.sampled_from(sorted(LLAMA)), nonsense, min_size=1, max_size=4))
def test_nonsense_is_refused_and_breaks_nothing(changed: dict[str, Any]) -> None:
    try:
        stated = plausible.parsed(json.dumps({**LLAMA, **changed}))
        facts = ModelFacts(config=stated, tensors={}, seen_at=START)
        with questions.sense():
            found = questions.of(facts)
            asked = questions.arguments("m", {})
            predict(questions.question(found, devices.find(L4), asked, "0.32.0", []))
    except Refusal as refusal:
        assert refusal.fact


def test_a_change_is_looked_at_and_what_serves_is_not_forbidden(world: World, gpu: Node) -> None:
    made = world.endpoint(**wish(world, engine_args={"max_model_len": 8192}))

    def change(actor: audit.Actor = ACTOR, **changes: Any) -> str:
        versions.change(actor=actor, endpoint=made, changes=changes, now=world.now)
        return str(outlook(made)["verdict"])

    with pytest.raises(DoesNotFit, match="131,072 tokens"):
        change(engine_args={})
    assert made.versions.count() == 1
    assert change(engine_args={"max_model_len": 4096}) == "fits"
    # Nobody asks again where nothing of it changes; what was said stays with the version.
    facts = ModelFacts.objects.get(model=made.model)
    facts.config, facts.tensors = {**EIGHT, "num_hidden_layers": 64}, {}
    facts.save()
    made.refresh_from_db()
    assert change(capabilities=["tools"]) == "fits"
    # Off an engine that is blocked it is rolled whatever is predicted.
    assert change(audit.SYSTEM, engine_args={"max_model_len": 2048}) == "does not fit"


def test_on_a_cpu_only_what_is_sure_is_refused(world: World) -> None:
    world.node(devices=4, memory=4 * GIB)
    made = world.endpoint(**wish(world, device_kind="cpu", name="known"))
    assert outlook(made)["verdict"] == "not judged" and "CPU" in outlook(made)["text"]
    assert preflight.of(made) == []
    thrice = upload(world, EIGHT, {"model.layers.0.weight": 3 * EIGHT_BYTES})
    with pytest.raises(DoesNotFit, match=r"weights take 4\d.\d GiB, the largest node .* 16.0 GiB"):
        world.endpoint(source="upload", model=thrice.id)
    assert preflight.of(world.endpoint(name="unseen")) == []


def test_what_is_read_here_goes_with_the_upload(world: World, gpu: Node) -> None:
    asked = wish(world)
    with pytest.raises(DoesNotFit):
        world.endpoint(**asked)
    mine = Upload.objects.get(id=asked["model"])
    assert ModelFacts.objects.get().tensors == {"layers.0.": EIGHT_BYTES}
    uploads.delete_upload(actor=ACTOR, upload=mine, now=world.now)
    assert not ModelFacts.objects.exists()


def test_the_files_that_the_engine_reads_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(header({f"{name}.w": 100}))
    names = [path.name for path in tmp_path.iterdir()]

    def read() -> dict[str, int]:
        return checkpoint.read(names, lambda name: (tmp_path / name).open("rb")).tensors

    assert read() == {"rest": 200}
    (tmp_path / checkpoint.INDEX).write_text('{"weight_map": {"w": "model-2.safetensors"}}')
    names.append(checkpoint.INDEX)
    assert read() == {"rest": 100}
    (tmp_path / checkpoint.INDEX).write_text("[1")
    assert read() == {"rest": 200}
    (tmp_path / "model-1.safetensors").write_bytes(b"short")
    assert read() == {}  # half of them would be wrong
