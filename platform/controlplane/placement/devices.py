"""Accelerators as engines see them. Memory is what CUDA or HIP calls total, not what is sold.

Sources of each figure stand in devices.json.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from controlplane.placement.refusals import Refusal

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """`capability` is CUDA's compute capability times ten (90: Hopper); None: not CUDA."""

    name: str
    memory_bytes: int
    capability: int | None = None
    unified: bool = False  # memory shared with the host

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
        )
        for each in stated["devices"]
    ]
    return {each.name: each for each in sorted(found, key=lambda one: one.memory_bytes)}


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
