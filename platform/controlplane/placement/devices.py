"""Accelerators as engines see them. Memory is what CUDA or HIP calls total, not what is sold.

Sources of each figure stand in devices.json.
"""

import json
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
    """By id, or by any name that contains one; of several, the longest. Raises `Refusal`."""
    if name in known():
        return known()[name]
    wanted = _letters(name)
    fitting = [each for each in known().values() if _letters(each.name) in wanted]
    if wanted and not fitting:
        fitting = [each for each in known().values() if wanted in _letters(each.name)]
    if not fitting:
        raise Refusal(f"the memory of device {name!r}")
    return max(fitting, key=lambda one: (len(one.name), one.memory_bytes))


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
