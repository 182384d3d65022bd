"""How long a replica takes from the wish until it serves, by the tiers of docs/starts.md.

A sum of parts: what the engine needs whatever the model, and the bytes of weights over the
slowest thing that they pass. Starts that were measured for this model and device come first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.placement.devices import Throughput
from controlplane.placement.memory.estimates import Estimate

REACHED = 0.86  # of the host link's peak: 55 of 64 GB/s, pinned memory on an H100 (thaw-vllm)
DISK_BYTES_S = 6.5e9  # one PCIe 4 drive
NETWORK_BYTES_S = 1.2e9  # a 10 Gbit line
CONTROL_S = 1.0  # the control plane's messages, and the smallest inference at the end
WAKE_S = 0.5  # graphs are kept; the cache is made anew
CONTEXT_S = 0.7  # of CUDA
RANKS_S = 1.5  # finding each other, where there are several
BUILD_S = 17.5  # 8B on an H100, all cached: 7 s of compiled code, 9 of graphs (2026-11-26)
IMPORTS_S = 19.0  # vLLM and torch, in two processes; 16 cores, the same day
ENVIRONMENT_BYTES = 9e9  # of an engine that is not there yet
SPREAD = {"wake": 0.5, "standby": 0.6, "warm": 0.6, "cold": 1.0}  # of the p95 beyond the p50


class Tier(StrEnum):
    WAKE = "wake"
    STANDBY = "standby"
    WARM = "warm"
    COLD = "cold"


@dataclass(frozen=True)
class Weights:
    """`device_bytes`: on one device; `stored_bytes`: of the whole checkpoint."""

    device_bytes: float
    stored_bytes: float
    ranks: int


def seconds(
    weights: Weights, device: Throughput, measured: Mapping[Tier, Estimate] | None = None
) -> dict[Tier, Estimate]:
    """From the wish to the first answer. `measured` is what such starts took."""
    link = device.host_bytes_s * REACHED
    joined = RANKS_S if weights.ranks > 1 else 0.0
    build = CONTROL_S + CONTEXT_S + joined + BUILD_S
    disk = weights.stored_bytes / DISK_BYTES_S
    parts = {
        Tier.WAKE: CONTROL_S + WAKE_S + weights.device_bytes / link,
        Tier.STANDBY: build + max(disk, weights.device_bytes / link),
    }
    parts[Tier.WARM] = parts[Tier.STANDBY] + IMPORTS_S
    fetched = (weights.stored_bytes + ENVIRONMENT_BYTES) / NETWORK_BYTES_S
    parts[Tier.COLD] = parts[Tier.WARM] + fetched
    guessed = {tier: Estimate(s, s * (1 + SPREAD[tier])) for tier, s in parts.items()}
    return guessed | dict(measured or {})
