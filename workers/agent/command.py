"""The command line and the environment of an engine, from what its replica should be. Pure."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from controlplane.fleet import wire
from workers.agent import shared_libraries, tunnel
from workers.agent.launcher import isolation

Value = bool | int | float | str | None

_NAME = re.compile(r"[a-z][a-z0-9_]*")

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

# What an engine on a CPU gets unless its endpoint says otherwise; None leaves vLLM's default.
# vLLM would take a share of the machine's memory and compile for half a minute.
CPU_DEFAULTS: Mapping[str, Value] = {
    "block_size": 32,
    "distributed_executor_backend": "uni",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 << 20,
    "max_model_len": "auto",
    "max_num_seqs": 32,
}


_NOTHING: Mapping[str, Value] = MappingProxyType({})
SHUTDOWN_S = 3  # for what still runs when it is told to end: the agent has waited before
GANG_PORT = 29_501  # where the members of a gang first meet, at rank 0


class SpecError(ValueError):
    """An engine argument that cannot be; the message names it."""


def arguments(
    spec: wire.ReplicaSpec,
    *,
    model: Path,
    socket: Path,
    device_kind: str,
    template: Path | None = None,
    added: Mapping[str, Value] = _NOTHING,
) -> list[str]:
    """What follows `vllm serve`; `added` by us, unless the endpoint says it. Raises SpecError."""
    chosen: dict[str, Value] = dict(CPU_DEFAULTS) if device_kind == "cpu" else {}
    if len(spec.device_indexes) > 1 or spec.seat is not None:
        # A process for each device; the endpoint's settings say how they share the model.
        chosen["distributed_executor_backend"] = "mp"
    chosen.update(added)
    chosen.update(spec.engine_args)
    argv = [str(model), f"--served-model-name={spec.served_name}", f"--uds={socket}"]
    argv += ["--enable-prompt-tokens-details", "--enable-per-request-metrics"]
    argv += ["--no-enable-log-requests"]
    argv += ["--disable-uvicorn-access-log", "--enable-server-load-tracking"]
    argv.append(f"--shutdown-timeout={SHUTDOWN_S}")
    if spec.may_sleep and device_kind.startswith("nvidia-"):
        argv += ["--enable-sleep-mode"]
    if takes_adapters(spec):
        argv.append("--enable-lora")
    if template is not None:
        argv.append(f"--chat-template={template}")
    for name, value in sorted(chosen.items()):
        argv += _flag(name, value)
    if spec.seat is not None:
        argv += [f"--nnodes={spec.seat.size}", f"--node-rank={spec.seat.rank}"]
        argv += [f"--master-addr={tunnel.address(0)}", f"--master-port={GANG_PORT}"]
        argv += ["--headless"] if spec.seat.rank else []
    return argv


def takes_adapters(spec: wire.ReplicaSpec) -> bool:
    """Whether the engine has room for LoRA adapters; which, it is told while it runs."""
    return bool(spec.engine_args.get("max_loras"))


def environment(
    *,
    home: Path,
    scratch: Path,
    bin_directory: Path,
    device_kind: str,
    device_indexes: list[int],
    threads: int,
    engine_args: Mapping[str, Value],
    cache: Path | None = None,
    may_sleep: bool = False,
    seat: wire.Seat | None = None,
) -> dict[str, str]:
    """The whole environment of an engine. `home` and `scratch` belong to its uid; `scratch`
    must be short, for it holds unix sockets. `cache`: what outlives it, by default in `home`."""
    env = {
        "PATH": f"{bin_directory}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": shared_libraries.folder(bin_directory.parent),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        # A uid of ours has no line in the user database; libraries ask for a name.
        "USER": "engine",
        "LOGNAME": "engine",
        "TMPDIR": str(scratch),
        "VLLM_RPC_BASE_PATH": str(scratch),
        "XDG_CACHE_HOME": f"{home}/cache",
        "XDG_CONFIG_HOME": f"{home}/config",
        "HF_HOME": f"{home}/cache/huggingface",
        "VLLM_CONFIG_ROOT": f"{home}/config/vllm",
        **_caches(cache or home / "cache"),
        # The weights are here already, and an engine behind its walls reaches no hub.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "SPT_NOENV": "1",  # process titles would overwrite the marks (processes.py)
        "VLLM_LOGGING_COLOR": "0",
        **_network(seat),
    }
    if engine_args.get("max_loras"):
        # On its socket, which the agent and gateways reach; a gateway passes on no such path.
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if device_kind == "cpu":
        env["OMP_NUM_THREADS"] = env["OPENBLAS_NUM_THREADS"] = str(threads)
        # With this, one process for the engine core and its worker is allowed on a CPU.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if engine_args.get("enforce_eager", True):
            # The sampler would still compile itself, 5 to 15 s into the first `logprobs`.
            env["TORCHDYNAMO_DISABLE"] = "1"
    elif device_kind.startswith("nvidia-"):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in device_indexes)
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        if may_sleep:
            # Its routes to sleep and wake, and others, which only the agent can reach.
            env["VLLM_SERVER_DEV_MODE"] = "1"
    return env


def _caches(kept: Path) -> dict[str, str]:
    return {
        "VLLM_CACHE_ROOT": f"{kept}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{kept}/inductor",
        "TRITON_CACHE_DIR": f"{kept}/triton",
        "NUMBA_CACHE_DIR": f"{kept}/numba",
    }


def _network(seat: wire.Seat | None) -> dict[str, str]:
    """Its namespace has loopback and nothing else, but for the way to the others of its gang."""
    name = "lo" if seat is None else isolation.GANG
    address = "127.0.0.1" if seat is None else tunnel.address(seat.rank)
    return {"VLLM_HOST_IP": address, "GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


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
