"""A real vLLM that runs is given LoRA adapters, and they are taken from it again."""

import json
import shutil
from pathlib import Path

import pytest

from controlplane.fleet import wire
from controlplane.fleet.wire import AdapterReason, AdapterState
from tests.agent.engine_bench import Bench, ask, chat
from workers.agent import adapters, engines

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

ROOM = {"kv_cache_memory_bytes": 64 << 20, "max_loras": 2, "max_lora_rank": 8}


@pytest.fixture(scope="module")
def engine(bench: Bench) -> engines.Running:
    return bench.serve(bench.spec("rep_lora", engine_args=ROOM), bench.standby())


def settle(bench: Bench, engine: engines.Running, **wanted: Path) -> dict[str, wire.AdapterReport]:
    """By name; the id of a load is its name and its path."""
    wish = [
        wire.Adapter(id=f"adp_{name}_{path.name}", name=name, path=str(path))
        for name, path in wanted.items()
    ]
    spec = bench.spec("rep_lora", engine_args=ROOM, adapters=wish)
    reports = adapters.settle(engine, spec, lambda one: Path(one.path))
    return {one.name: report for one, report in zip(wish, reports, strict=True)}


def says(engine: engines.Running, model: str) -> str:
    text: str = chat(engine, model=model)["choices"][0]["message"]["content"]
    return text


def variant(bench: Bench, name: str, **config: object) -> Path:
    """A copy of the tiny model's adapter with another configuration."""
    folder = bench.root / name
    shutil.copytree(bench.tiny / "adapter", folder)
    known = json.loads((folder / adapters.CONFIG).read_text())
    (folder / adapters.CONFIG).write_text(json.dumps(known | config))
    return folder


def test_load_answer_unload(bench: Bench, engine: engines.Running) -> None:
    plain = says(engine, "ep_1")
    reports = settle(bench, engine, noisy=bench.tiny / "adapter")
    assert reports["noisy"].state is AdapterState.LOADED
    assert says(engine, "noisy") != plain
    assert says(engine, "ep_1") == plain
    assert settle(bench, engine) == {}
    assert adapters.loaded(engine) == []
    with pytest.raises(AssertionError, match="does not exist"):
        says(engine, "noisy")
    assert list(Path(engine.adapters).iterdir()) == []


def test_other_weights_under_the_same_name_do_not_meet_the_old_ones_cache(
    bench: Bench, engine: engines.Running
) -> None:
    settle(bench, engine, noisy=bench.tiny / "adapter")
    before = says(engine, "noisy")
    louder = variant(bench, "louder", lora_alpha=64)
    assert settle(bench, engine, noisy=louder)["noisy"].state is AdapterState.LOADED
    assert says(engine, "noisy") != before
    settle(bench, engine)


def test_what_is_wrong_with_one_is_said_of_it_alone(bench: Bench, engine: engines.Running) -> None:
    hidden = variant(bench, "hidden")
    (hidden / "adapter_model.safetensors").chmod(0o600)
    broken = variant(bench, "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no weights")
    reports = settle(
        bench,
        engine,
        gone=bench.root / "nowhere",
        high=variant(bench, "high", r=64),
        prefix=variant(bench, "prefix", peft_type="PREFIX_TUNING"),
        hidden=hidden,
        broken=broken,
        good=bench.tiny / "adapter",
    )
    reasons = {name: one.reason for name, one in reports.items()}
    assert reasons == {
        "gone": AdapterReason.NOT_FOUND,
        "high": AdapterReason.RANK_TOO_HIGH,
        "prefix": AdapterReason.INVALID,
        "hidden": AdapterReason.FETCH_FAILED,
        "broken": AdapterReason.REFUSED,
        "good": None,
    }
    assert "its rank is 64, the endpoint's max_lora_rank is 8" in reports["high"].detail
    assert reports["broken"].detail
    assert engines.alive(engine)
    assert says(engine, "good")
    assert ask(engine, "/v1/completions", {"prompt": "a", "max_tokens": 1})["choices"]
    settle(bench, engine)


def test_an_engine_without_room_says_so(bench: Bench, engine: engines.Running) -> None:
    spec = bench.spec("rep_plain")
    running = bench.serve(spec, bench.standby())
    spec.adapters = [wire.Adapter(id="adp_1", name="a", path=str(bench.tiny / "adapter"))]
    (report,) = adapters.settle(running, spec, lambda one: Path(one.path))
    assert (report.state, report.reason) == (AdapterState.FAILED, AdapterReason.NO_ROOM)
    engines.stop(running, 0.0)
