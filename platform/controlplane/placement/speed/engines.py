"""One engine on some devices: whether it fits, how much its cache holds, how fast it steps."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controlplane.placement.memory.engine import Arguments, Behaviour, version
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.predict import Prediction, Question, Verdict, predict, served
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import factors, refining, work
from controlplane.placement.speed.corrections import Correction, Key, likeness
from controlplane.placement.speed.load import Shape
from controlplane.placement.speed.machine import Batch, Machine, machine
from controlplane.placement.speed.refining import Point, Refiner
from controlplane.placement.speed.simulation import Limits
from controlplane.placement.speed.starts import Tier


@dataclass(frozen=True)
class Learned:
    """What makes predictions of this installation better than the formula's."""

    corrections: Mapping[Key, Correction]
    refiners: Iterable[Refiner] = ()
    # By the device's name: what starts of this model took there.
    starts: Mapping[str, Mapping[Tier, Estimate]] = field(default_factory=dict)
    first_tokens: Mapping[Key, Correction] = field(default_factory=dict)


NOTHING = Learned({})


@dataclass(frozen=True)
class Engine:
    """`machine` and `limits` are of one lane: a pipeline has one for each of its stages, and
    attention that is data-parallel one for each of its shares, which step together."""

    name: str
    arguments: Arguments  # resolved
    prediction: Prediction
    machine: Machine
    limits: Limits
    lanes: int
    refined_by: str = ""
    late: float = 1.0  # by which first tokens take longer than its steps explain

    @property
    def devices(self) -> int:
        return self.arguments.ranks * self.shares

    @property
    def shares(self) -> int:
        return self.arguments.data_parallel_size

    def most(self, shape: Shape, of: Machine) -> float:
        """Requests a second that all lanes keep up with, one in the mean like the other.

        A prompt costs its lane what it adds to a step, and the shares that step with it, too; an
        answer costs its part of each step.
        """
        context, new = _mean(shape)
        batch = min(self.limits.sequences, max(1.0, self.limits.tokens / context))
        step = of.seconds(Batch(batch, context))
        prompt = _added(of, batch, context, new) * self._crowding(shape, batch)
        return self.lanes / (prompt + shape.output * step / batch)

    def tpot_s(self, shape: Shape, at_once: float, of: Machine) -> float:
        """Of one lane with so many requests at once, prompts coming in as answers end."""
        context, new = _mean(shape)
        step = of.seconds(Batch(at_once, context))
        prompts = at_once / shape.output * self._crowding(shape, at_once)
        return step + prompts * _added(of, at_once, context, new)

    def beside(self, rate: float, shape: Shape, of: Machine) -> Machine:
        """As one lane sees it when all get `rate`: the other shares' prompts hold it up, too."""
        if self.shares == 1:
            return of
        context, new = _mean(shape)
        chunks = self._chunks(new)
        batch = max(1.0, min(self.limits.sequences, self.limits.tokens / context) / 2)
        step = of.seconds(Batch(batch, context))
        added = _added(of, batch, context, new) / chunks
        own = min(1.0, rate / self.lanes * chunks * step)
        others = (1 - own) * (1 - (1 - own) ** (self.shares - 1))
        return replace(of, slower=of.slower * (1 + others * added / (step + own * added)))

    def _crowding(self, shape: Shape, batch: float) -> float:
        """How many times a prompt is paid for: the steps in which any share reads one, over those
        in which a given one does. From all shares (few prompts) down to 1 (one in each step)."""
        own = min(1.0, self._chunks(_mean(shape)[1]) * batch / shape.output)
        return float((1 - (1 - own) ** self.shares) / own)

    def _chunks(self, new: float) -> int:
        return max(1, math.ceil(new / self.limits.batched))


def _mean(shape: Shape) -> tuple[float, float]:
    """Tokens that a request holds in the mean of its life, and of its prompt those computed."""
    return shape.prompt + shape.output / 2, shape.prompt * (1 - shape.cached)


def _added(of: Machine, batch: float, context: float, new: float) -> float:
    """Seconds that one prompt adds to the steps that it is read in."""
    beside = Batch(batch, context, new, 0, 1)
    return max(0.0, of.seconds(beside) - of.seconds(Batch(batch, context)))


class TooSmall(Exception):
    """It does not fit, or only just; the message is for a person."""


@dataclass(frozen=True)
class Running:
    """What an engine that runs says that it holds: requests at once, and tokens in its cache."""

    sequences: int
    tokens: int


def build(
    question: Question,
    name: str,
    shape: Shape,
    learned: Learned = NOTHING,
    running: Running | None = None,
) -> Engine:
    """Raises `TooSmall`, and `Refusal` for what is not known of model, device or flags. What is
    `running` fits."""
    found = predict(question)
    if running is None:
        _fits(found)
    behaviour = Behaviour(version(question.engine_version))
    model = served(question.model, question.arguments)
    arguments, device = found.arguments, question.device
    load = work.count(model, arguments, device, behaviour)
    made = machine(load, device, model.quantization, factors.factors(model, device))
    correction = Correction()
    if learned.corrections:
        correction = learned.corrections.get(key(question), correction)
    made = replace(
        made,
        slower=correction.factor,
        factors=replace(made.factors, margin=correction.margin(made.factors.margin)),
    )
    stages = arguments.pipeline_parallel_size
    mean = max(1, round(_mean(shape)[0]))
    sequences = arguments.max_num_seqs or 256
    tokens = found.cache.concurrency(found.kv_bytes.p95, mean) * mean
    if running is not None:
        sequences, tokens = running.sequences, running.tokens
    limits = Limits(
        sequences=max(1, sequences // stages),
        batched=arguments.max_num_batched_tokens or 2048,
        tokens=tokens / stages,
    )
    lanes = stages * arguments.data_parallel_size
    engine = Engine(
        name, arguments, found, made, limits, lanes, late=_late(question, learned, correction)
    )
    return engine if correction.count else _refined(engine, question, shape, learned)


def _late(question: Question, learned: Learned, of_steps: Correction) -> float:
    """Each prompt takes steps, which are corrected already."""
    if not learned.first_tokens:
        return 1.0
    seen = learned.first_tokens.get(key(question), Correction())
    return seen.factor / of_steps.factor if seen.count else 1.0


def key(question: Question) -> Key:
    """What measurements of this engine are found by."""
    model = served(question.model, question.arguments)
    ranks, scheme = question.arguments.ranks, model.quantization.scheme
    return Key(likeness(question.model), question.device.name, ranks, scheme)


def _fits(found: Prediction) -> None:
    if found.verdict is Verdict.FITS:
        return
    short = found.request_bytes - found.kv_bytes.p95
    if found.verdict is Verdict.TIGHT:
        raise TooSmall("it fits only tightly: one start in twenty would fail")
    raise TooSmall(
        f"it does not fit: {max(short, 0) / 2**30:.1f} GiB are missing on each device for one "
        f"request of {found.arguments.max_model_len:,} tokens"
    )


def _refined(engine: Engine, question: Question, shape: Shape, learned: Learned) -> Engine:
    """By another tool, where nothing was measured here."""
    refiners = tuple(learned.refiners)
    if not refiners:
        return engine
    at_once = min(32, engine.limits.sequences)
    point = Point(
        config=question.config,
        device=question.device,
        arguments=engine.arguments,
        prompt=round(shape.prompt),
        cached=int(shape.prompt * shape.cached),
        output=round(shape.output),
        at_once=at_once,
        sparse=question.model.sparse,
        tpot_s=engine.tpot_s(shape, at_once, engine.machine),
    )
    factor, by = refining.slower(point, refiners)
    return replace(engine, machine=replace(engine.machine, slower=factor), refined_by=by)


def longest(question: Question, shape: Shape) -> int:
    """`max_model_len` where none is asked for: four mean requests, in the model's own bounds."""
    if (given := question.arguments.max_model_len) is not None:
        if shape.prompt + shape.output > given:
            raise Refusal(f"requests of up to {given:,} tokens, its max_model_len")
        return given
    wanted = max(8192, int(4 * (shape.prompt + shape.output)))
    if shape.prompt + shape.output > question.model.max_position:
        raise Refusal(f"requests of up to {question.model.max_position:,} tokens")
    return min(question.model.max_position, wanted)
