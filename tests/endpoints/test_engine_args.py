"""Which engine settings a tenant may choose."""

from typing import Any

import pytest

from controlplane.endpoints import engine_args
from controlplane.endpoints.errors import Invalid
from controlplane.fleet.engines import vllm


def refused(args: dict[str, Any], devices: int = 1) -> Invalid:
    with pytest.raises(Invalid) as error:
        engine_args.validate(args, devices)
    return error.value


def test_names_as_people_write_them() -> None:
    args = {"--max-model-len": 4096, "gpu-memory-utilization": 0.9, "enforce_eager": True}
    assert engine_args.validate(args, 1) == {
        "max_model_len": 4096,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": True,
    }


def test_no_name_is_both_allowed_and_forbidden() -> None:
    assert not vllm.ALLOWED.keys() & vllm.FORBIDDEN.keys()


@pytest.mark.parametrize("name", sorted(vllm.FORBIDDEN))
def test_a_forbidden_one_says_why(name: str) -> None:
    error = refused({name: True})
    assert error.code == "engine_arg_forbidden"
    assert vllm.FORBIDDEN[name] in str(error)
    assert error.field == f"engine_args.{name}"


@pytest.mark.parametrize(
    ("name", "nearest"), [("max_modellen", "max_model_len"), ("max-num-seq", "max_num_seqs")]
)
def test_an_unknown_one_names_the_nearest(name: str, nearest: str) -> None:
    error = refused({name: 1})
    assert error.code == "engine_arg_unknown"
    assert str(error).endswith(f"the nearest is {nearest}")


@pytest.mark.parametrize("name", ["", "\0", "x" * 9999, "ключ", "--"])
def test_nonsense_is_refused_like_the_unknown(name: str) -> None:
    error = refused({name: 1})
    assert error.code == "engine_arg_unknown"
    assert len(str(error)) < 300
    assert "\0" not in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_model_len", 15),
        ("max_model_len", "4096"),
        ("max_model_len", True),
        ("max_model_len", None),
        ("max_model_len", 4096.0),
        ("gpu_memory_utilization", 1.5),
        ("gpu_memory_utilization", float("nan")),
        ("gpu_memory_utilization", False),
        ("enforce_eager", 1),
        ("kv_cache_dtype", "fp4"),
        ("kv_cache_dtype", ["auto"]),
        ("quantization", {}),
        ("tool_call_parser", "../../etc/passwd"),
        ("tool_call_parser", "x" * 65),
        ("max_lora_rank", 7),
        ("seed", -1),
        ("structured_outputs_config", "{"),
        ("structured_outputs_config", "[]"),
        ("structured_outputs_config", '{"grammar_file": "/etc/passwd"}'),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    error = refused({name: value})
    assert error.code == "engine_arg_invalid"
    assert str(error).startswith(f"{name}: expected")


def test_devices_and_parallelism_agree() -> None:
    assert engine_args.validate({}, 4) == {"tensor_parallel_size": 4}
    pipelined = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    assert engine_args.validate(pipelined, 4) == pipelined
    assert "uses 2 devices, the endpoint has device_count 4" in str(
        refused({"tensor_parallel_size": 2}, 4)
    )
    assert "device_count 1" in str(refused({"pipeline_parallel_size": 2}, 1))
    assert "uses 1 device, " in str(refused({"tensor_parallel_size": 1}, 2))


def test_over_nodes_the_model_is_cut_into_stages() -> None:
    """Tensor parallelism stays inside a node; the CPU's engine has nothing else."""
    staged = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    assert engine_args.validate({}, 4, "nvidia-h200", 2) == staged
    assert engine_args.validate({}, 4, "cpu", 2) == {"tensor_parallel_size": 8}
    whole = {"tensor_parallel_size": 8}
    assert engine_args.validate(whole, 4, "nvidia-h200", 2) == whole
    with pytest.raises(Invalid, match="has device_count 4 on each of 2 nodes"):
        engine_args.validate({"tensor_parallel_size": 4}, 4, "nvidia-h200", 2)
    with pytest.raises(Invalid, match="for CPUs has no pipeline parallelism"):
        engine_args.validate({"pipeline_parallel_size": 2}, 2, "cpu")


def test_settings_that_need_each_other() -> None:
    assert "needs a tool_call_parser" in str(refused({"enable_auto_tool_choice": True}))
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    assert engine_args.validate(tools, 1) == tools
    small = {
        "max_model_len": 4096,
        "max_num_batched_tokens": 2048,
        "enable_chunked_prefill": False,
    }
    assert "below max_model_len" in str(refused(small))


def test_one_setting_twice() -> None:
    assert "given twice" in str(refused({"max-model-len": 64, "max_model_len": 64}))
