"""What placement.memory is asked about an endpoint's wish, from what is known of its model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from controlplane.endpoints import engine_versions, model_facts, recipes
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import ModelFacts
from controlplane.fleet.engines import vllm
from controlplane.fleet.wire import SourceKind
from controlplane.placement import devices
from controlplane.placement.devices import Device
from controlplane.placement.memory import engine, weights
from controlplane.placement.memory.engine import Arguments
from controlplane.placement.memory.learning import Start
from controlplane.placement.memory.predict import Question
from controlplane.placement.mix import WHOLE
from controlplane.placement.models import reading
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal
from controlplane.tenancy.models import Project

CPU = "cpu"
SAME = 0.05  # so far a device's memory may be from what is measured of its kind
_POOLING = ("embed", "classify", "reward")
_MEMORY = frozenset(each.name for each in fields(Arguments))


@dataclass(frozen=True)
class Known:
    """A model, and the bytes of its tensors where they are known."""

    model: Model
    tensors: Mapping[str, int]
    config: Mapping[str, Any] = field(default_factory=dict)


def known(project: Project, wish: Wish, now: datetime) -> Known:
    """Raises Refusal with what is missing."""
    found = model_facts.find(project, wish, now)
    if found is None:
        raise Refusal(_unseen(wish))
    return of(found)


def of(facts: ModelFacts) -> Known:
    """Raises Refusal for a configuration that is not known, or that nobody can make sense of."""
    with sense():
        return Known(reading.read(facts.config), facts.tensors, facts.config)


@contextmanager
def sense() -> Iterator[None]:
    """Around whatever computes with a configuration: it is a stranger's, and may be nonsense.

    Raises Refusal.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Refusal(f"a config.json that makes sense ({type(error).__name__})") from error


def question(
    found: Known, device: Device, asked: Arguments, version: str, starts: list[Start]
) -> Question:
    return Question(
        model=found.model,
        device=device,
        arguments=asked,
        engine_version=version,
        backend=found.model.quantization.scheme,
        stored_bytes=weights.loaded(found.tensors, found.model, asked) if found.tensors else None,
        starts=starts,
        config=found.config,
    )


def shared(asked: Question, share: int) -> Question:
    """The same of so many thousandths of its device, of which others have all the rest."""
    if share >= WHOLE:
        whole = replace(asked.arguments, gpu_memory_utilization=None)
        return replace(asked, arguments=whole, occupied_bytes=0) if asked.occupied_bytes else asked
    others = asked.device.memory_bytes * vllm.utilization(WHOLE - share)
    mine = replace(asked.arguments, gpu_memory_utilization=vllm.utilization(share))
    return replace(asked, arguments=mine, occupied_bytes=others)


def arguments(model: str, engine_args: Mapping[str, Any]) -> Arguments:
    """Those that change memory: the wish's own, over those of the recipe that fits its name."""
    recipe = recipes.named(model)
    given = {**(recipe.engine_args if recipe else {}), **engine_args}
    if given.get("convert") in _POOLING:
        given.setdefault("runner", "pooling")
    return engine.arguments(
        {name: value for name, value in given.items() if name in _MEMORY and _stated(value)}
    )


def _stated(value: object) -> bool:
    return value is not None and value != "auto"  # both are vLLM's default


def device(kind: str, memory_bytes: int) -> Device:
    """As measured where its kind is known, else with the memory that its node says.

    A part of one is another device than the whole. Raises Refusal.
    """
    if memory_bytes <= 0:
        raise Refusal(f"the memory of a device of kind {kind}")
    try:
        found = devices.find(kind)
    except Refusal:
        return Device(kind, memory_bytes)
    if abs(found.memory_bytes - memory_bytes) <= SAME * found.memory_bytes:
        return found
    return replace(found, name=kind, memory_bytes=memory_bytes)


def whole(device: Device) -> bool:
    """Whether it is one that placement knows, and no part of one."""
    return devices.known().get(device.name) == device


def version(chosen: str) -> str:
    """The one that was chosen, else what nodes bring themselves."""
    return chosen or max(engine_versions.shipped("vllm"), key=engine.version)


def _unseen(wish: Wish) -> str:
    if wish.source == SourceKind.UPLOAD:
        return "a config.json in the upload that can be read"
    where = f"{wish.model}@{wish.revision}" if wish.revision else wish.model
    return f"the config.json of {where}: no node has brought it yet"
