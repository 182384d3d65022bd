"""Where another tool may refine a prediction. Without one everything works.

A refiner is an object with `refine`, found under the entry point `stoa.speed`; aiconfigurator is
asked without one, where it is installed. What a refiner says multiplies each step of the machine.
"""

import hashlib
import importlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from controlplane.placement.devices import Device
from controlplane.placement.memory.engine import Arguments

GROUP = "stoa.speed"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One state of one engine: `at_once` requests of these lengths; what is predicted for it."""

    config: Mapping[str, Any]  # the model's config.json; empty: not at hand
    device: Device
    arguments: Arguments  # resolved
    prompt: int
    cached: int  # tokens of it that are in the prefix cache
    output: int
    at_once: int  # requests of each share of data
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
    """NVIDIA's kernel measurements, where the package is there (0.12; docs/predictions.md).

    It is given the model's own configuration, in a folder: asked for a model by a name that it does
    not know, it would look on the internet, for a name that is a tenant's.
    """

    name = "aiconfigurator"

    def refine(self, point: Point) -> float | None:
        system, arguments = SYSTEMS.get(point.device.name), point.arguments
        if system is None or not point.config:
            return None
        if point.sparse:
            return None  # of those the factors here are off by less, where both were compared
        if arguments.quantization or arguments.pipeline_parallel_size > 1:
            return None  # what these are called there, and count, was not compared
        try:
            api = importlib.import_module("aiconfigurator.cli.api")
            version = _version(system)
        except ImportError:
            return None
        if version is None:  # it has not measured vLLM there
            return None
        try:
            estimate = api.cli_estimate(
                _folder(json.dumps(point.config, sort_keys=True)),
                system,
                backend_name="vllm",
                backend_version=version,
                isl=point.prompt,
                osl=point.output,
                prefix=point.cached,
                ctx_tokens=min(point.prompt, arguments.max_num_batched_tokens or point.prompt),
                batch_size=point.at_once,
                tp_size=arguments.tensor_parallel_size,
                kvcache_quant_mode="fp8" if _fp8_cache(arguments) else None,
            )
        except Exception as why:  # of another's package: most are models that it does not know
            LOG.info("aiconfigurator says nothing of %s: %s", point.config.get("model_type"), why)
            return None
        return float(estimate.tpot) / 1000


@cache
def _version(system: str) -> str | None:
    """Of its newest measurements of vLLM: finding them takes most of the time of an estimate."""
    database = importlib.import_module("aiconfigurator_core.sdk.perf_database")
    found: str | None = database.get_latest_database_version(system, "vllm")
    return found


@cache
def _shelf() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="stoa-configs-")


def _folder(config: str) -> str:
    """One for each configuration: what it reads there it remembers."""
    folder = Path(_shelf().name) / hashlib.sha256(config.encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    return str(folder)


def _fp8_cache(arguments: Arguments) -> bool:
    return arguments.kv_cache_dtype.startswith("fp8")
