"""Does it fit, and what is left? Pure: the same question has the same answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from controlplane.placement.devices import GIB, Device
from controlplane.placement.memory import activations, kv_cache, learning, weights
from controlplane.placement.memory.engine import Arguments, Behaviour, version
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.kv_cache import Cache
from controlplane.placement.memory.learning import Key, Start
from controlplane.placement.memory.startup_log import Printed
from controlplane.placement.models import quantization, tensors
from controlplane.placement.models.layers import Attention, Latent
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal

RANKS = (1, 2, 4, 8)


class Verdict(StrEnum):
    FITS = "fits"
    TIGHT = "tight"  # it should, but one start in twenty or more would not
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class Question:
    """`stored_bytes`: of the tensors that load, from safetensors headers; None: by the config.

    `weights_bytes` are of one device where they are known from a start. `occupied_bytes` is what
    others hold there; the engine before 0.9 counts it as its own, and since does not start where
    it leaves less than the budget.
    """

    model: Model
    device: Device
    arguments: Arguments
    engine_version: str
    backend: str = ""
    stored_bytes: int | None = None
    weights_bytes: float | None = None
    occupied_bytes: float = 0
    starts: Sequence[Start] = ()
    config: Mapping[str, Any] = field(default_factory=dict)  # the model's, for other tools


@dataclass(frozen=True)
class Prediction:
    """All bytes are of one device, the fullest. `kv_bytes` may be negative: what is missing."""

    verdict: Verdict
    arguments: Arguments  # resolved
    budget_bytes: int
    weights: Estimate
    activations: Estimate
    non_torch: Estimate
    graphs: Estimate
    kv_bytes: Estimate
    cache: Cache
    tokens: Estimate
    concurrency: Estimate
    longest: Estimate
    parameters: int

    @property
    def token_bytes(self) -> float:
        """Of the cache, for one more token of one request."""
        return self.cache.token_bytes

    @property
    def request_bytes(self) -> int:
        """Of the cache, for one request of max_model_len."""
        return self.cache.request_bytes(self.arguments.max_model_len or 0)

    @property
    def required_bytes(self) -> Estimate:
        """For one request of max_model_len, with everything else."""
        return self.weights + self.activations + self.non_torch + Estimate.exact(self.request_bytes)


def predict(question: Question) -> Prediction:
    """Raises `Refusal` with the fact that is missing, or the argument that cannot be."""
    model, device = served(question.model, question.arguments), question.device
    behaviour = Behaviour(version(question.engine_version))
    arguments = question.arguments.resolved(device, behaviour, model.max_position)
    check(model, arguments)
    budget = int(device.memory_bytes * (arguments.gpu_memory_utilization or 0))
    weighed = weights.estimate(model, arguments, device, behaviour, question.stored_bytes)
    loaded = _corrected(weighed.bytes, question, arguments)
    if question.weights_bytes is not None:
        loaded = Estimate.exact(question.weights_bytes)
    peak = activations.estimate(model, arguments, behaviour)
    beyond = _beyond(question, arguments, behaviour)
    graphs = _graphs(arguments, behaviour)
    need = loaded + peak + beyond
    left = Estimate(budget - need.p50, budget - need.p95)
    if arguments.kv_cache_memory_bytes is not None:
        left = Estimate.exact(arguments.kv_cache_memory_bytes)
    cache = kv_cache.lay_out(model, arguments, behaviour)
    length = arguments.max_model_len or 0
    room = device.memory_bytes
    if not behaviour.profiled_context:  # there, what others hold is in the need already
        room -= int(question.occupied_bytes)
    free = Estimate(room - need.p50, room - need.p95)
    held_back = arguments.kv_cache_memory_bytes is None and budget > room
    return Prediction(
        verdict=Verdict.DOES_NOT_FIT if held_back else _verdict(cache, left, free, length),
        arguments=arguments,
        budget_bytes=budget,
        weights=loaded,
        activations=peak,
        non_torch=beyond,
        graphs=graphs,
        kv_bytes=left,
        cache=cache,
        tokens=_both(left, lambda available: cache.tokens(available, length)),
        concurrency=_both(left, lambda available: cache.concurrency(available, length)),
        longest=_both(left, lambda available: cache.longest(available, model.max_position)),
        parameters=weighed.parameters,
    )


def served(model: Model, arguments: Arguments) -> Model:
    """As the engine holds it: `--quantization` applies where the checkpoint has none of its own."""
    if arguments.quantization is None or model.quantization.scheme != "none":
        return model
    return replace(model, quantization=quantization.named(arguments.quantization))


def _both(left: Estimate, of: Callable[[float], float]) -> Estimate:
    return Estimate(float(of(left.p50)), float(of(left.p95)))


def check(model: Model, arguments: Arguments) -> None:
    """What the engine itself would refuse."""
    ranks = arguments.tensor_parallel_size
    for layer in model.layers:
        if isinstance(layer.mixer, Attention | Latent) and layer.mixer.heads % ranks:
            raise Refusal(
                f"a tensor_parallel_size that divides {layer.mixer.heads} attention heads"
            )
    if arguments.pipeline_parallel_size > len(model.layers):
        raise Refusal(f"a pipeline_parallel_size up to {len(model.layers)}, its layers")
    utilization = arguments.gpu_memory_utilization or 0
    if not 0 < utilization <= 1:
        raise Refusal("a gpu_memory_utilization above 0 and up to 1")
    if ranks % arguments.decode_context_parallel_size:
        raise Refusal("a decode_context_parallel_size that divides tensor_parallel_size")


def _beyond(question: Question, arguments: Arguments, behaviour: Behaviour) -> Estimate:
    key = _key(question, arguments)
    own = learning.residual(question.starts, key, behaviour)
    own += Estimate.exact(learning.graphs(arguments, behaviour))
    if not behaviour.profiled_context:
        return own
    return Estimate(own.p50 + question.occupied_bytes, own.p95 + question.occupied_bytes)


def _corrected(formula: Estimate, question: Question, arguments: Arguments) -> Estimate:
    """By what the same model, backend, device and version loaded before."""
    ratio, count = learning.ratio(question.starts, _key(question, arguments))
    if not count or question.stored_bytes is not None:
        return formula
    margin = (formula.p95 - formula.p50) / (count + 1)
    return Estimate(formula.p50 * ratio, formula.p50 * ratio + margin)


def _key(question: Question, arguments: Arguments) -> Key:
    return Key(
        question.engine_version,
        question.model.architecture,
        question.device.name,
        question.backend,
        arguments.ranks,
    )


def _graphs(arguments: Arguments, behaviour: Behaviour) -> Estimate:
    """Of captured graphs. From 0.20 on they are in the budget, and so within what is beyond."""
    if arguments.enforce_eager:
        return Estimate.exact(0)
    if behaviour.estimates_graphs:
        return Estimate.exact(learning.graphs(arguments, behaviour))
    return Estimate(0.5 * GIB, 1.0 * GIB)


def _verdict(cache: Cache, left: Estimate, free: Estimate, length: int) -> Verdict:
    def holds(available: float, outside: float) -> bool:
        if (available <= 0 and cache.groups) or available > outside:
            return False
        return outside > 0 and cache.concurrency(available, length) >= 1

    if holds(left.p95, free.p95):
        return Verdict.FITS
    return Verdict.TIGHT if holds(left.p50, free.p50) else Verdict.DOES_NOT_FIT


def smallest(question: Question, devices: Sequence[Device]) -> tuple[Device, int] | None:
    """The device, and how many of it, with the least memory in all that fits at p95."""
    model, arguments = question.model, question.arguments
    whole = (
        sum(each.parameters for each in tensors.of(model)) * min(model.quantization.bits, 16) / 8
    )
    offered = sorted(
        ((device, ranks) for device in devices for ranks in RANKS),
        key=lambda one: (one[0].memory_bytes * one[1], one[1], one[0].name),
    )
    for device, ranks in offered:
        if device.memory_bytes * ranks < whole / 2:  # far from it, whatever else there is
            continue
        split = replace(arguments, tensor_parallel_size=ranks)
        tried = replace(question, device=device, arguments=split, weights_bytes=None)
        try:
            if predict(tried).verdict is Verdict.FITS:
                return device, ranks
        except Refusal:
            continue
    return None


def learned(question: Question, printed: Printed, source: str = "") -> Start:
    """What a start of exactly this question teaches. Raises `Refusal` if the log does not tell."""
    if printed.kv_gib is None:
        raise Refusal('"Available KV cache memory" in the log')
    loaded = printed.weights_gib
    if loaded is None:
        raise Refusal('"Model loading took" in the log')
    model = served(question.model, question.arguments)
    behaviour = Behaviour(version(question.engine_version))
    arguments = question.arguments.resolved(question.device, behaviour, model.max_position)
    budget = question.device.memory_bytes * (arguments.gpu_memory_utilization or 0)
    peak = activations.estimate(model, arguments, behaviour).p50
    peak += learning.graphs(arguments, behaviour)
    held = question.occupied_bytes if behaviour.profiled_context else 0
    formula = weights.estimate(model, arguments, question.device, behaviour).bytes.p50
    key = _key(question, arguments)
    return Start(
        key.engine_version,
        key.architecture,
        key.device,
        key.backend,
        key.ranks,
        residual_bytes=math.floor(budget - loaded * GIB - printed.kv_gib * GIB - peak - held),
        weights_ratio=round(loaded * GIB / formula, 4),
        source=source,
    )
