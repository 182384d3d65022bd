"""Accelerators as engines see them. Memory is what CUDA or HIP calls total, not what is sold.

Sources of each figure stand in devices.json.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from controlplane.placement.refusals import Refusal

GIB = 1 << 30
GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Throughput:
    """What the maker states, dense. Bytes and operations a second; links one way."""

    memory_bytes_s: float
    bf16_flops: float
    fp8_flops: float | None
    fp4_flops: float | None
    link_bytes_s: float  # to the other devices of its node
    host_bytes_s: float
    watts: float
    generation: str  # those that share factors of efficiency
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Device:
    """`capability` is CUDA's compute capability times ten (90: Hopper); None: not CUDA.

    `throughput` is None where its figures have not been checked against a second source.
    """

    name: str
    memory_bytes: int
    capability: int | None = None
    unified: bool = False  # memory shared with the host
    throughput: Throughput | None = None

    @property
    def ampere(self) -> bool:
        """An A100, to which vLLM gives the defaults of smaller devices."""
        return "a100" in self.name.lower()


@cache
def known() -> dict[str, Device]:
    """By id, smallest first."""
    stated = json.loads(files("controlplane.placement").joinpath("devices.json").read_text())
    found = [
        Device(
            each["id"],
            int(each["memory_gib"] * GIB),
            each.get("capability"),
            each.get("unified", False),
            _throughput(each.get("speed")),
        )
        for each in stated["devices"]
    ]
    return {each.name: each for each in sorted(found, key=lambda one: one.memory_bytes)}


def _throughput(stated: dict[str, Any] | None) -> Throughput | None:
    if stated is None:
        return None

    def flops(kind: str) -> float | None:
        return stated[kind] * TERA if kind in stated else None

    return Throughput(
        memory_bytes_s=stated["bandwidth_gbs"] * GIGA,
        bf16_flops=stated["bf16"] * TERA,
        fp8_flops=flops("fp8"),
        fp4_flops=flops("fp4"),
        link_bytes_s=stated["link_gbs"] * GIGA,
        host_bytes_s=stated["host_gbs"] * GIGA,
        watts=stated["watts"],
        generation=stated["generation"],
        sources=tuple(stated["sources"]),
    )


def find(name: str) -> Device:
    """By id, or by a name that has each word of one: `NVIDIA A100-SXM4-80GB` is a100-80.

    Of several the one with most words. Raises `Refusal` for none, and where several could be meant.
    """
    if name in known():
        return known()[name]
    said = set(re.findall(r"[a-z0-9]+", name.lower()))
    said |= {word.removesuffix("gb") for word in said}
    fitting = [each for each in known().values() if set(each.name.split("-")) <= said]
    if fitting:
        return max(fitting, key=lambda one: len(one.name.split("-")))
    meant = [each.name for each in known().values() if said & set(each.name.split("-")[:1])]
    if len(meant) > 1:
        raise Refusal(f"which device is meant by {name!r}: {', '.join(meant)}")
    raise Refusal(f"the memory of device {name!r}")
