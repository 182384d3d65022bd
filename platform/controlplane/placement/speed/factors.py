"""How much of what makers state engines reach: factors by class of model and generation of device.

Each stands in factors.json with where it comes from. What was not measured is lent by the nearest
that was, and its margin says so.
"""

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib.resources import files

from controlplane.placement.devices import Device
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal


class Class(StrEnum):
    DENSE = "dense"
    SPARSE = "sparse"  # mixture of experts
    HYBRID = "hybrid"  # states of fixed size in the place of some caches


@dataclass(frozen=True)
class Factors:
    """`margin`: the p95 of measured over predicted, less one; at least as wide for the p5."""

    weights: float  # of the memory's bandwidth, reading matrices
    experts: float  # of it, reading experts
    cache: float  # of it, reading keys and values
    compute: float  # of the operations, in matrices
    experts_compute: float  # of them, in experts' matrices
    attention: float  # of them, in attention to a prompt
    link: float  # of the link's bandwidth, in an all-reduce
    reduce_s: float  # of an all-reduce, however small
    layer_s: float  # of a layer, whatever it computes
    step_s: float  # of a step: scheduling, sampling, detokenising
    request_s: float  # of a step, for each request in it
    first_s: float  # of a first token: HTTP, tokenising, the way to the engine and back
    margin: float
    sources: tuple[str, ...] = ()


def class_of(model: Model) -> Class:
    if model.sparse:
        return Class.SPARSE
    return Class.HYBRID if model.recurrent else Class.DENSE


def factors(model: Model, device: Device) -> Factors:
    """Of this class of model on this generation of device. Raises `Refusal` for one not known."""
    generation = device.throughput.generation if device.throughput else ""
    found = _known()[class_of(model)].get(generation)
    if found is None:
        raise Refusal(f"the checked speed of device {device.name!r}")
    return found


@cache
def _known() -> dict[Class, dict[str, Factors]]:
    stated = json.loads(files("controlplane.placement.speed").joinpath("factors.json").read_text())
    whole = {name: value for name, value in stated["all"].items() if name != "sources"}
    found: dict[Class, dict[str, Factors]] = {}
    for kind in Class:
        of_class = whole | {k: v for k, v in stated["classes"][kind].items() if k != "sources"}
        sources = (*stated["all"]["sources"], *stated["classes"][kind]["sources"])
        plain = Factors(**of_class, sources=sources)
        found[kind] = {}
        for generation, changed in stated["generations"].items():
            own = {name: value for name, value in changed.items() if name != "sources"}
            margin = max(own.pop("margin", 0.0), plain.margin)
            if generation == stated["measured_on"]:
                margin = plain.margin
            found[kind][generation] = replace(
                plain, **own, margin=margin, sources=(*sources, *changed["sources"])
            )
    return found
