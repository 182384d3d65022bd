"""Flags that cut a start: chosen by data, never against what an endpoint says, and recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet import wire
from controlplane.fleet.engines import Place, vllm
from tests.agent.node import spec
from workers.agent import engines
from workers.agent.environment import Environment
from workers.agent.start_flags import LEARNED, POLICY, Chosen, Learned, choose
from workers.agent.tuning import Tuning

H100 = "nvidia-h100"


def chosen(
    packages: Path, kind: str = H100, learned: Learned | None = None, **facts: Any
) -> Chosen:
    return choose(spec(**facts), device_kind=kind, packages=packages, learned=learned or Learned())


def test_each_rule_says_what_it_gave_and_who_says_so() -> None:
    for rule in POLICY:
        assert rule.gave and rule.source and rule.devices
        assert rule.flag not in vllm.RESERVED


def test_by_device_shape_and_what_the_node_has(tmp_path: Path) -> None:
    assert chosen(tmp_path).told == {}
    assert chosen(tmp_path, "cpu", Learned(kv_cache_bytes=5), may_sleep=True).told == {}
    assert chosen(tmp_path, may_sleep=True).arguments == {"max_cudagraph_capture_size": 64}
    assert chosen(tmp_path, device_indexes=[0, 1]).environment == {"VLLM_SKIP_P2P_CHECK": "1"}
    assert chosen(tmp_path, learned=Learned(kv_cache_bytes=5)).arguments == {
        "kv_cache_memory_bytes": 5
    }
    # A share says how much memory there is; what another start found was of another time.
    assert chosen(tmp_path, learned=Learned(kv_cache_bytes=5), device_share=400).told == {}
    assert chosen(tmp_path, learned=Learned(kv_cache_bytes=5, failed=True)) == Chosen()


def test_weights_are_loaded_past_the_host_only_where_the_driver_does_and_nobody_sleeps(
    tmp_path: Path,
) -> None:
    """Without GPUDirect storage it was three times as slow as vLLM's own; with sleep mode the
    engine ran out of memory (H100)."""
    (tmp_path / "fastsafetensors").mkdir()
    disk = tmp_path / "nvidia-fs0"
    policy = tuple(replace(one, needs=str(disk) if one.needs else "") for one in POLICY)

    def loader(**facts: Any) -> object:
        found = choose(
            spec(**facts), device_kind=H100, packages=tmp_path, learned=Learned(), policy=policy
        )
        return found.arguments.get("load_format")

    assert loader() is None
    disk.touch()
    assert loader() == "fastsafetensors"
    assert loader(may_sleep=True) is None
    assert loader(engine_args={"quantization": "fp8"}) is None


@pytest.mark.parametrize(
    "said",
    [{rule.flag: 7} for rule in POLICY if not rule.flag.isupper()]
    + [{"gpu_memory_utilization": 0.5, "quantization": "fp8", "max_num_seqs": 8}],
)
def test_what_the_endpoint_says_stays(tmp_path: Path, said: dict[str, Any]) -> None:
    for rule in POLICY:
        if rule.package:
            (tmp_path / rule.package).mkdir(exist_ok=True)
    learned = Learned(kv_cache_bytes=1 << 30)
    flags = chosen(tmp_path, learned=learned, may_sleep=True, engine_args=said)
    assert not flags.arguments.keys() & said.keys()
    added = {**flags.arguments, **dict.fromkeys(said, 99)}
    here = Place(Path("/m"), Path("/h"), Path("/s"), H100, socket=Path("/s/e"), added=added)
    argv = vllm.Vllm().arguments(spec(engine_args=said), here)
    for name, value in said.items():
        assert f"--{name.replace('_', '-')}={value}" in argv
    assert not [flag for flag in argv if flag.endswith("=99")]


def test_a_start_teaches_the_next_of_its_shape(tmp_path: Path) -> None:
    one = Environment("vllm-cuda", tmp_path / "bin/python", tmp_path)
    tuning = Tuning(tmp_path / "shapes")
    first = spec()
    assert tuning.choose(first, one, H100).told == {}
    tuning.proved(running(first, {}), wire.EngineReport(kv_cache_bytes=1000 << 20))
    second = tuning.choose(spec(), one, H100)
    assert second.arguments == {"kv_cache_memory_bytes": int((1000 << 20) * 0.99)}
    assert tuning.choose(spec(engine_args={"max_model_len": 1024}), one, H100).told == {}
    assert tuning.choose(spec(), one, "nvidia-h200").told == {}


def test_a_start_that_failed_with_flags_is_tried_without(tmp_path: Path) -> None:
    one = Environment("vllm-cuda", tmp_path / "bin/python", tmp_path)
    tuning = Tuning(tmp_path / "shapes")
    for may_fail in (True, False):
        wish = spec(may_sleep=True)
        flags = tuning.choose(wish, one, H100)
        assert flags.told == {"max_cudagraph_capture_size": "64"}
        if not may_fail:
            tuning.failed(running(wish, flags.told))
        else:  # it came to serve, and died for reasons of its own
            tuning.proved(running(wish, flags.told), wire.EngineReport())
            tuning.failed(running(wish, flags.told))
    assert tuning.choose(spec(may_sleep=True), one, H100).told == {}


def test_learned_is_no_value_of_its_own(tmp_path: Path) -> None:
    assert LEARNED not in chosen(tmp_path, learned=Learned()).told.values()


def running(wish: wire.ReplicaSpec, flags: dict[str, str]) -> engines.Running:
    return engines.Running(
        replica_id=wish.replica_id, pid=1, start_time=1, boot_id="", socket="", log="",
        tier=wire.StartTier.WARM, directory="", home="", exit_file="", flags=flags,
    )  # fmt: skip
