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
GPUDIRECT = "/dev/nvidia-fs0"  # there where the driver reads a disk past the host's memory
LEARNED = "learned"  # the value of a flag that the last start of the same shape tells


@dataclass(frozen=True)
class Rule:
    """`flag`: the engine's argument, in snake_case, or a variable of its environment in capitals.

    `package`: what the engine's environment must hold, `needs`: a file of the machine. `unless`:
    arguments with which it is left out, `awake`: with sleep mode, too. Of rules for the same flag
    the first that applies counts.
    """

    flag: str
    value: Value
    gave: str
    source: str
    devices: str = "nvidia-"  # how their kind begins
    least_devices: int = 1
    package: str = ""
    needs: str = ""
    awake: bool = False
    unless: tuple[str, ...] = ()
    only_to_zero: bool = False  # for endpoints that may scale to zero, which start often
    engine: str = "vllm"


POLICY: tuple[Rule, ...] = (
    Rule(
        flag="kv_cache_memory_bytes",
        value=LEARNED,
        unless=("gpu_memory_utilization",),
        gave="no profiling run, and no trial of graphs: from compiled to serving 10.8 s, not 19.5",
        source="measured on an H100, 8B, 2026-11-26; vLLM's own hint after each start",
    ),
    Rule(
        flag="load_format",
        value="fastsafetensors",
        package="fastsafetensors",
        needs=GPUDIRECT,
        awake=True,
        unless=("quantization",),
        gave="26.4 GB/s from a disk that GPUDirect storage reads; without it 16 GB from the page"
        " cache took 7.7 to 9.3 s, where vLLM's own loader took 2.0 to 2.8",
        source="fastsafetensors (IBM), published; without: measured on an H100, 2026-11-26",
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
        # What it leaves reserved stays in sleep mode's pool: 10.7 GiB, and no room for the cache.
        and not (spec.may_sleep and rule.awake)
        and (not rule.needs or Path(rule.needs).exists())
        and (not rule.package or (packages / rule.package).is_dir())
    )
