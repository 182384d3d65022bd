"""Which engine settings a tenant may choose, by vLLM's own names. Pure.

An allow-list: what is not in it does not reach an engine. The names that people are likely to
try and may not have are listed with the reason.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.endpoints import parallel
from controlplane.endpoints.errors import Invalid

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Whole:
    low: int
    high: int

    def problem(self, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "expected a whole number"
        return "" if self.low <= value <= self.high else f"expected {self.low} to {self.high}"


@dataclass(frozen=True)
class Fraction:
    low: float
    high: float

    def problem(self, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "expected a number"
        return "" if self.low <= value <= self.high else f"expected {self.low} to {self.high}"


@dataclass(frozen=True)
class Switch:
    def problem(self, value: object) -> str:
        return "" if isinstance(value, bool) else "expected true or false"


@dataclass(frozen=True)
class OneOf:
    choices: tuple[str, ...]

    def problem(self, value: object) -> str:
        return "" if value in self.choices else "expected one of " + ", ".join(self.choices)


@dataclass(frozen=True)
class OneNumberOf:
    choices: tuple[int, ...]

    def problem(self, value: object) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and value in self.choices
        return "" if fits else "expected one of " + ", ".join(map(str, self.choices))


@dataclass(frozen=True)
class Name:
    """A word that selects one of vLLM's registered parsers: never a path."""

    def problem(self, value: object) -> str:
        fits = isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum()
        return "" if fits and len(str(value)) <= 64 else "expected a name such as `hermes`"


@dataclass(frozen=True)
class JsonObject:
    """Text that holds a JSON object with these keys at most."""

    keys: tuple[str, ...]

    def problem(self, value: object) -> str:
        expected = "expected a JSON object as text, of " + ", ".join(self.keys)
        if not isinstance(value, str) or len(value) > 2000:
            return expected
        try:
            found = json.loads(value)
        except ValueError:
            return expected
        plain = isinstance(found, dict) and found.keys() <= set(self.keys)
        return "" if plain else expected


Rule = Whole | Fraction | Switch | OneOf | OneNumberOf | Name | JsonObject

ALLOWED: dict[str, Rule] = {
    "max_model_len": Whole(16, 16_777_216),
    "max_num_seqs": Whole(1, 16_384),
    "max_num_batched_tokens": Whole(1, 16_777_216),
    "gpu_memory_utilization": Fraction(0.05, 0.99),
    "kv_cache_memory_bytes": Whole(1 << 20, 1 << 44),
    "kv_cache_dtype": OneOf(("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")),
    "quantization": OneOf(
        (
            "awq",
            "awq_marlin",
            "bitsandbytes",
            "compressed-tensors",
            "fp8",
            "gptq",
            "gptq_marlin",
            "modelopt",
            "modelopt_fp4",
            "mxfp4",
        )
    ),
    "dtype": OneOf(("auto", "bfloat16", "float16", "float32", "half", "float")),
    "tensor_parallel_size": Whole(1, 64),
    "pipeline_parallel_size": Whole(1, 64),
    "enable_prefix_caching": Switch(),
    "enable_chunked_prefill": Switch(),
    "enforce_eager": Switch(),
    "block_size": Whole(1, 256),
    "enable_auto_tool_choice": Switch(),
    "tool_call_parser": Name(),
    "reasoning_parser": Name(),
    "runner": OneOf(("auto", "generate", "pooling")),
    "convert": OneOf(("auto", "none", "embed", "classify", "reward")),
    "seed": Whole(0, 2**32 - 1),
    "max_lora_rank": OneNumberOf((1, 8, 16, 32, 64, 128, 256, 320, 512)),
    "max_loras": Whole(1, 256),
    "max_logprobs": Whole(0, 1_000),
    "structured_outputs_config": JsonObject(
        ("backend", "disable_any_whitespace", "disable_additional_properties", "reasoning_parser")
    ),
    "generation_config": OneOf(("auto", "vllm")),
}

_OURS = "the platform sets it"
FORBIDDEN: dict[str, str] = {
    "trust_remote_code": "it runs code from the model's repository, which needs a container",
    "api_key": "the gateway checks keys; engines hold no secret",
    "host": "engines listen only where the node's agent reaches them",
    "port": "engines listen only where the node's agent reaches them",
    "uds": "engines listen only where the node's agent reaches them",
    "model": "it is the endpoint's own `model`",
    "revision": "it is the endpoint's own `revision`",
    "tokenizer": "it comes with the model",
    "served_model_name": "it is the endpoint's own `name`",
    "lora_modules": "they are the endpoint's own `adapters`",
    "enable_lora": "it follows from the endpoint's `adapters`",
    "download_dir": _OURS,
    "chat_template": "a template is code of the engine; it comes with the model",
    "allowed_local_media_path": "engines read no files for clients",
    "tool_parser_plugin": "it loads code into the engine",
    "middleware": "it loads code into the engine",
    "worker_cls": "it loads code into the engine",
    "worker_extension_cls": "it loads code into the engine",
    "hf_overrides": "it can name code to load",
    "hf_token": "engines hold no secret",
    "enable_sleep_mode": "the platform lets an idle endpoint sleep where that frees memory",
    "enable_log_requests": "prompts are never logged",
    "enable_log_outputs": "answers are never logged",
    "data_parallel_size": "replicas of the endpoint do this: set `max_replicas`",
    "distributed_executor_backend": _OURS,
    "kv_transfer_config": _OURS,
    "otlp_traces_endpoint": "engines send nothing anywhere",
    "config": "settings are given one by one",
}


def validate(
    args: Mapping[str, Any], device_count: int, device_kind: str = "", node_count: int = 1
) -> dict[str, Value]:
    """The settings as an engine may have them, names in snake_case; else Invalid says which not.

    Dashes in names count as underscores. `device_count` is what a replica holds on each of its
    nodes: tensor times pipeline parallelism must use exactly what it holds.
    """
    found: dict[str, Value] = {}
    for given, value in args.items():
        name = given.removeprefix("--").replace("-", "_")
        if name in FORBIDDEN:
            raise _refused(name, f"{name} cannot be set: {FORBIDDEN[name]}", "engine_arg_forbidden")
        if name not in ALLOWED:
            raise _refused(name, _unknown(name), "engine_arg_unknown")
        if name in found:
            raise _refused(name, f"{name} is given twice", "engine_arg_invalid")
        if problem := ALLOWED[name].problem(value):
            raise _refused(name, f"{name}: {problem}, not {_shown(value)}", "engine_arg_invalid")
        found[name] = value
    try:
        found = parallel.settle(
            found, device_count=device_count, node_count=node_count, device_kind=device_kind
        )
    except parallel.Misfit as error:
        raise _refused("tensor_parallel_size", str(error), "engine_arg_invalid") from None
    return _together(found)


def _together(args: dict[str, Value]) -> dict[str, Value]:
    if args.get("enable_auto_tool_choice") and not args.get("tool_call_parser"):
        message = "enable_auto_tool_choice needs a tool_call_parser"
        raise _refused("tool_call_parser", message, "engine_arg_invalid")
    batched, length = args.get("max_num_batched_tokens"), args.get("max_model_len")
    whole_prompts = args.get("enable_chunked_prefill") is False
    if whole_prompts and batched and length and int(batched) < int(length):
        message = f"max_num_batched_tokens {batched} is below max_model_len {length}"
        raise _refused("max_num_batched_tokens", message, "engine_arg_invalid")
    return args


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, ALLOWED, n=1, cutoff=0.0)
    shown = "".join(mark if mark.isprintable() else "?" for mark in name[:64])
    return f"{shown} is not an engine setting that can be chosen; the nearest is {near[0]}"


def _shown(value: object) -> str:
    return repr(value)[:80]


def _refused(name: str, message: str, code: str) -> Invalid:
    return Invalid(message, code=code, field=f"engine_args.{name[:64]}")
