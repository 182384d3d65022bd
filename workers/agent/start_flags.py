"""What cuts an engine's start: a policy that is data, with what each flag gave and who measured.

Chosen by the device, the shape and what the node has; what an endpoint sets itself stays as it is.
What was added stands in the replica's `start_flags`. A start that failed with flags of ours is
tried without them next time.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from controlplane.fleet import wire

Value = bool | int | float | str | None
LEARNED = "learned"  # the value of a flag that the last start of the same shape tells


@dataclass(frozen=True)
class Rule:
    """`flag`: the engine's argument, in snake_case, or a variable of its environment in capitals.

    `package`: what the engine's environment must hold. `unless`: arguments with which it is left
    out. Of rules for the same flag the first that applies counts.
    """

    flag: str
    value: Value
    gave: str
    source: str
    devices: str = "nvidia-"  # how their kind begins
    least_devices: int = 1
    package: str = ""
    unless: tuple[str, ...] = ()
    only_to_zero: bool = False  # for endpoints that may scale to zero, which start often
    engine: str = "vllm"


POLICY: tuple[Rule, ...] = (
    Rule(
        flag="kv_cache_memory_bytes",
        value=LEARNED,
        unless=("gpu_memory_utilization",),
        gave="skips the profiling run; it was most of a 6.8 s engine init with few graphs",
        source="vLLM's log of an 8B model on H200; vLLM's own hint after each start",
    ),
    Rule(
        flag="load_format",
        value="fastsafetensors",
        package="fastsafetensors",
        unless=("quantization",),
        gave="start 12.4 to 4.7 s and 16.0 to 6.9 s; 26.4 GB/s with GPUDirect storage",
        source="fastsafetensors (IBM), published figures",
    ),
    Rule(
        flag="load_format",
        value="instanttensor",
        package="instanttensor",
        unless=("quantization",),
        gave="not measured by us",
        source="vLLM's documentation of load formats",
    ),
    Rule(
        flag="load_format",
        value="runai_streamer",
        package="runai_model_streamer",
        unless=("quantization",),
        gave="reads with 16 to 32 streams at once instead of one",
        source="vLLM's documentation of load formats",
    ),
    Rule(
        flag="max_cudagraph_capture_size",
        value=64,
        unless=("max_num_seqs", "enforce_eager"),
        only_to_zero=True,
        gave="captures in 1 to 2 s instead of 4 to 10; more than 64 at once run without a graph",
        source="vLLM's logs, versions 0.1x to 0.2x",
    ),
    Rule(
        flag="VLLM_SKIP_P2P_CHECK",
        value="1",
        least_devices=2,
        gave="60 s of peer-to-peer trials on 8 devices; vLLM 0.32's own default",
        source="vLLM issue 19824",
    ),
)


@dataclass(frozen=True)
class Chosen:
    arguments: dict[str, Value] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, str]:
        return {name: str(value) for name, value in {**self.arguments, **self.environment}.items()}


class Learned(msgspec.Struct):
    """What the last start of a shape showed."""

    kv_cache_bytes: int = 0
    failed: bool = False  # with flags of ours


def choose(
    spec: wire.ReplicaSpec,
    *,
    device_kind: str,
    packages: Path,
    learned: Learned,
    policy: tuple[Rule, ...] = POLICY,
) -> Chosen:
    """`packages`: the site-packages of the engine's environment."""
    chosen = Chosen()
    if learned.failed:
        return chosen
    for rule in policy:
        value = learned.kv_cache_bytes or None if rule.value == LEARNED else rule.value
        if value is None or not _applies(rule, spec, device_kind, packages):
            continue
        if rule.flag.isupper():
            chosen.environment.setdefault(rule.flag, str(value))
        else:
            chosen.arguments.setdefault(rule.flag, value)
    return chosen


def _given(spec: wire.ReplicaSpec) -> set[str]:
    """What the endpoint settles itself; a share settles the memory."""
    return {*spec.engine_args, *(("gpu_memory_utilization",) if spec.device_share < 1000 else ())}


def _applies(rule: Rule, spec: wire.ReplicaSpec, device_kind: str, packages: Path) -> bool:
    return (
        spec.engine == rule.engine
        and device_kind.startswith(rule.devices)
        and len(spec.device_indexes) >= rule.least_devices
        and not {rule.flag, *rule.unless} & _given(spec)
        and (spec.may_sleep or not rule.only_to_zero)
        and (not rule.package or (packages / rule.package).is_dir())
    )
