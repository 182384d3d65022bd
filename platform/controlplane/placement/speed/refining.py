"""Where another tool may refine a prediction. Without one everything works.

A refiner is an object with `refine`, found under the entry point `stoa.speed`; aiconfigurator is
asked without one, where it is installed. What a refiner says multiplies each step of the machine.
"""

import importlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol

from controlplane.placement.devices import Device
from controlplane.placement.memory.engine import Arguments

GROUP = "stoa.speed"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One state of one engine: `at_once` requests of these lengths; what is predicted for it."""

    source: str  # of the model: a hub's name or a folder, as the tenant gave it
    device: Device
    arguments: Arguments
    prompt: int
    output: int
    at_once: int
    sparse: bool
    tpot_s: float


class Refiner(Protocol):
    name: str

    def refine(self, point: Point) -> float | None:
        """Seconds of each token at this point; None: it does not know."""


@cache
def installed() -> tuple[Refiner, ...]:
    """What is installed here; one that cannot be loaded is left out, and said."""
    found: list[Refiner] = []
    for entry in entry_points(group=GROUP):
        try:
            found.append(entry.load()())
        except Exception:  # another's package, which may fail in any way
            LOG.exception("the refiner %s cannot be loaded", entry.name)
    found.append(Aiconfigurator())
    return tuple(found)


def slower(point: Point, refiners: Iterable[Refiner]) -> tuple[float, str]:
    """By what steps are multiplied, and who says so; 1 and nobody."""
    for refiner in refiners:
        try:
            said = refiner.refine(point)
        except Exception:
            LOG.exception("the refiner %s failed", refiner.name)
            continue
        if said is not None and said > 0:
            return min(max(said / point.tpot_s, LOW), HIGH), refiner.name
    return 1.0, ""


# A refiner that says more than this is talking of something else.
LOW, HIGH = 1 / 3, 3.0

SYSTEMS = {
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "a100-80": "a100_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "l40s": "l40s",
    "l4": "l4",
    "rtx-pro-6000": "rtx_pro_6000_server",
}


class Aiconfigurator:
    """NVIDIA's kernel measurements, where the package is there (0.9 and later)."""

    name = "aiconfigurator"

    def refine(self, point: Point) -> float | None:
        system = SYSTEMS.get(point.device.name)
        if system is None:
            return None
        try:
            api = importlib.import_module("aiconfigurator.cli.api")
        except ImportError:
            return None
        experts = {"moe_tp_size": point.arguments.tensor_parallel_size, "moe_ep_size": 1}
        estimate = api.cli_estimate(
            point.source,
            system,
            backend_name="vllm",
            isl=point.prompt,
            osl=point.output,
            batch_size=point.at_once,
            tp_size=point.arguments.tensor_parallel_size,
            pp_size=point.arguments.pipeline_parallel_size,
            **(experts if point.sparse else {}),
        )
        return float(estimate.tpot) / 1000
