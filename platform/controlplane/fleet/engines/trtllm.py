"""TensorRT-LLM: `trtllm-serve` from an image, as NVIDIA documents it; docs/engines.md says what of
this is unproven. It has no unix socket, so it listens on loopback of a namespace of its own.

Settings go into its YAML file, under the names of its LlmArgs: releases differ in whether a flag or
the file wins where both say something, so nothing is said twice.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.fleet import wire
from controlplane.fleet.engines import parallel
from controlplane.fleet.engines.base import (
    Can,
    Engine,
    Figures,
    Place,
    Refused,
    Shape,
    SpecError,
    Value,
    Way,
)
from controlplane.fleet.engines.rules import (
    Fraction,
    Name,
    OneNumberOf,
    OneOf,
    Rule,
    Switch,
    Whole,
    checked,
)

CONFIG = "trtllm.yaml"

# Settings that are a part of a nested one.
_PARTS: dict[str, tuple[str, ...]] = {
    "kv_cache_free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
    "kv_cache_max_tokens": ("kv_cache_config", "max_tokens"),
    "kv_cache_dtype": ("kv_cache_config", "dtype"),
    "kv_cache_tokens_per_block": ("kv_cache_config", "tokens_per_block"),
    "enable_block_reuse": ("kv_cache_config", "enable_block_reuse"),
    "cuda_graph_max_batch_size": ("cuda_graph_config", "max_batch_size"),
    "cuda_graph_padding": ("cuda_graph_config", "enable_padding"),
}
_FLAGS = ("tool_parser", "reasoning_parser")  # of the server, and no part of its LlmArgs

ALLOWED: dict[str, Rule] = {
    "max_batch_size": Whole(1, 16_384),
    "max_num_tokens": Whole(1, 16_777_216),
    "max_seq_len": Whole(16, 16_777_216),
    "tensor_parallel_size": Whole(1, 64),
    "pipeline_parallel_size": Whole(1, 64),
    "moe_expert_parallel_size": Whole(1, 64),
    "dtype": OneOf(("auto", "bfloat16", "float16", "float32")),
    "kv_cache_free_gpu_memory_fraction": Fraction(0.05, 0.95),
    "kv_cache_max_tokens": Whole(16, 1 << 40),
    "kv_cache_dtype": OneOf(("auto", "fp8", "nvfp4")),
    "kv_cache_tokens_per_block": OneNumberOf((16, 32, 64, 128)),
    "enable_block_reuse": Switch(),
    "cuda_graphs": Switch(),
    "cuda_graph_max_batch_size": Whole(1, 16_384),
    "cuda_graph_padding": Switch(),
    "enable_chunked_prefill": Switch(),
    "disable_overlap_scheduler": Switch(),
    "attn_backend": OneOf(("TRTLLM", "FLASHINFER", "VANILLA")),
    "guided_decoding_backend": OneOf(("xgrammar", "llguidance")),
    "tool_parser": Name(),
    "reasoning_parser": Name(),
}

_OURS = "the platform sets it"
FORBIDDEN: dict[str, str] = {
    "model": "it is the endpoint's own `model`",
    "revision": "it is the endpoint's own `revision`",
    "tokenizer": "it comes with the model",
    "custom_tokenizer": "it loads code into the engine",
    "custom_module_dirs": "it loads code into the engine",
    "checkpoint_loader": "it loads code into the engine",
    "trust_remote_code": "it runs code from the model's repository",
    "chat_template": "a template is code of the engine; it comes with the model",
    "host": "engines listen only where the node's agent reaches them",
    "port": "engines listen only where the node's agent reaches them",
    "config": "settings are given one by one",
    "extra_llm_api_options": "settings are given one by one",
    "set": "settings are given one by one",
    "backend": _OURS,
    "gpus_per_node": _OURS,
    "enable_iter_perf_stats": _OURS,
    "grpc": "the gateway speaks HTTP",
    "lora_config": "this engine takes no adapters here",
    "otlp_traces_endpoint": "engines send nothing anywhere",
    "telemetry": "engines send nothing anywhere",
    "telemetry_config": "engines send nothing anywhere",
    "env_overrides": "an image's variables are the endpoint's own `image`",
    "server_role": "replicas serve whole requests",
    "disagg_cluster_uri": "replicas serve whole requests",
    "metadata_server_config_file": "replicas serve whole requests",
}


class TrtLlm(Engine):
    name = "trtllm"
    ways = frozenset({Way.CONTAINER})
    # It loads LoRA from paths that requests name, which no request may; its routes that free
    # memory are for training. Tools it may well do: our proof of them speaks vLLM's own fields.
    can = Can(proofs=frozenset({wire.Capability.JSON_SCHEMA}))
    program = ("trtllm-serve",)

    def serves(self, device_kind: str) -> bool:
        return device_kind.startswith("nvidia-")

    def arguments(self, spec: wire.ReplicaSpec, place: Place) -> list[str]:
        """Of the model's name it says nothing: its server answers to any, with its folder's."""
        argv = [str(place.model), "--host=127.0.0.1", f"--port={place.port}"]
        argv.append(f"--config={place.home / CONFIG}")
        for name in _FLAGS:
            if (value := spec.engine_args.get(name)) is not None:
                argv.append(f"--{name}={value}")
        if place.template is not None:
            argv.append(f"--chat_template={place.template}")
        return argv

    def variables(self, spec: wire.ReplicaSpec, place: Place) -> dict[str, str]:
        kept = place.kept or place.home / "cache"
        return {
            "TRTLLM_NO_USAGE_STATS": "1",
            "TELEMETRY_DISABLED": "true",
            # It would keep answers of /v1/responses for whoever names them.
            "TRTLLM_RESPONSES_API_DISABLE_STORE": "1",
            "TORCHINDUCTOR_CACHE_DIR": f"{kept}/inductor",
            "TRITON_CACHE_DIR": f"{kept}/triton",
        }

    def files(self, spec: wire.ReplicaSpec, place: Place) -> dict[Path, str]:
        """Its configuration; JSON is YAML."""
        return {place.home / CONFIG: json.dumps(_config(spec, place), indent=1, sort_keys=True)}

    # Whether it is busy the connections to it say: its figures are gone once read, and say nothing
    # while it computes a long step.

    def figures(self, body: bytes) -> Figures:
        """A JSON list of its newest iterations since somebody last asked; often an empty one."""
        try:
            iterations = json.loads(body)
        except (ValueError, RecursionError):
            return Figures()
        last = iterations[-1] if isinstance(iterations, list) and iterations else None
        if isinstance(last, str):  # some releases give each iteration as JSON text
            return self.figures(f"[{last}]".encode())
        if not isinstance(last, dict):
            return Figures()
        cache = last.get("kvCacheStats")
        used, most = (
            (_count(cache, "usedNumBlocks"), _count(cache, "maxNumBlocks"))
            if isinstance(cache, dict)
            else (None, None)
        )
        return Figures(
            running=_count(last, "numActiveRequests"),
            waiting=_count(last, "numQueuedRequests"),
            kv_cache_usage=used / most if used is not None and most else None,
        )

    def check(self, args: Mapping[str, object], shape: Shape) -> dict[str, Value]:
        found = parallel.settle(checked(args, ALLOWED, FORBIDDEN), shape)
        graphs = sorted(name for name in found if name.startswith("cuda_graph_"))
        if found.get("cuda_graphs") is False and graphs:
            raise Refused(graphs[0], f"{graphs[0]} needs cuda_graphs")
        batch, graph = found.get("max_batch_size"), found.get("cuda_graph_max_batch_size")
        if batch and graph and int(graph) > int(batch):
            name = "cuda_graph_max_batch_size"
            raise Refused(name, f"{name} {graph} is above max_batch_size {batch}")
        return found


def _config(spec: wire.ReplicaSpec, place: Place) -> dict[str, Any]:
    """Raises SpecError."""
    found: dict[str, Any] = {"enable_iter_perf_stats": True, "guided_decoding_backend": "xgrammar"}
    for name, value in {**place.added, **spec.engine_args}.items():
        if name not in ALLOWED:
            raise SpecError(f"engine argument {name!r} is not allowed")
        if value is None or name in _FLAGS:
            continue
        if name == "cuda_graphs":
            if value is False:
                found["cuda_graph_config"] = None
        elif name in _PARTS:
            outer, inner = _PARTS[name]
            if (part := found.setdefault(outer, {})) is not None:
                part[inner] = value
        else:
            found[name] = value
    return found


def _count(stats: Mapping[str, Any], name: str) -> int | None:
    value = stats.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
