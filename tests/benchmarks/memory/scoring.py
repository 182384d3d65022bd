"""What is predicted of each row, and how far off it is.

Nothing that was learned from a row's own release (0.11, whatever its patch) is used for it. What
a row does not state is not made up: it is refused by name, or shown unscored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from controlplane.placement.devices import GIB
from controlplane.placement.memory import kv_cache, learning, weights
from controlplane.placement.memory.engine import Arguments, Behaviour, version
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.learning import Start
from controlplane.placement.memory.predict import Question, Verdict, learned, predict
from controlplane.placement.memory.startup_log import Printed
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal
from tests.benchmarks.memory import truth
from tests.benchmarks.memory.truth import Row

# Of a row without a version: one of each way of accounting, the last first.
ASSUMED = ("0.26.0", "0.17.1", "0.11.0", "0.6.4")
FEW = 16  # sequences, for a start of which nothing is known
NEIGHBOUR_GIB = 1.5  # more than that outside torch on one device is not the engine's
PRINTED_GIB = 0.005  # half of the last digit that the engine prints


@dataclass(frozen=True)
class Quantity:
    """One figure of a row: reported, predicted, or why not. `scored`: it counts for the aim."""

    reported: float | None = None
    predicted: Estimate | None = None
    refused: str | None = None
    scored: bool = False

    @property
    def error(self) -> float | None:
        if self.reported is None or self.predicted is None:
            return None
        return self.predicted.p50 - self.reported

    @property
    def error_pct(self) -> float | None:
        return None if self.error is None or not self.reported else 100 * self.error / self.reported


@dataclass(frozen=True)
class Scored:
    row: Row
    weights: Quantity
    kv_gib: Quantity
    tokens: Quantity
    verdict: Verdict | None
    refused: tuple[str, ...]

    @property
    def right(self) -> bool | None:
        """Whether it was said to fit just if it ran; None: nothing was said."""
        if self.verdict is None:
            return None
        return (self.verdict is Verdict.DOES_NOT_FIT) == self.row.failed


def question(row: Row, model: Model, engine_version: str, starts: Sequence[Start]) -> Question:
    held = row.stated("non_torch") or 0
    return Question(
        model=model,
        device=row.device,
        arguments=row.arguments(),
        engine_version=engine_version,
        backend=model.quantization.scheme,
        occupied_bytes=held * GIB if held > NEIGHBOUR_GIB else 0,
        starts=[each for each in starts if release(each.engine_version) != row.release],
    )


def release(text: str) -> str:
    return ".".join(str(part) for part in version(text)[:2])


def text_only(row: Row, model: Model) -> bool:
    drafting = row.arguments().speculative_method is not None
    return not (model.towers or model.recurrent or model.encoder or drafting)


def starts(directory: Path, rows: Sequence[Row]) -> list[Start]:
    """Rows as starts to learn from: what each took beyond the formula."""
    found = []
    for row in rows:
        if None in (row.version, row.memory_gib, row.utilization, row.weights_gib, row.kv_gib):
            continue
        try:
            model = truth.model(directory, row)
            asked = question(row, model, row.version or "", ())
            if not text_only(row, model):
                continue
            printed = Printed(weights_gib=row.weights_gib, kv_gib=row.kv_gib)
            found.append(learned(asked, printed, row.source))
        except Refusal:
            continue
    return found


def score(row: Row, directory: Path, known: Sequence[Start]) -> Scored:
    try:
        model = truth.model(directory, row)
    except Refusal as refusal:
        nothing = Quantity(refused=refusal.fact)
        return Scored(row, nothing, nothing, nothing, None, (refusal.fact,))
    weighed = _weights(row, model)
    kept = _kv(row, model, known)
    tokens = _tokens(row, model)
    verdict, why = _verdict(row, model, known)
    facts = [each.refused for each in (weighed, kept, tokens)] + [why]
    said = tuple(dict.fromkeys(fact for fact in facts if fact))
    return Scored(row, weighed, kept, tokens, verdict, said)


def _weights(row: Row, model: Model) -> Quantity:
    if row.weights_gib is None:
        return Quantity()
    behaviour = Behaviour(version(row.version or ASSUMED[0]))
    sized = row if row.memory_gib else replace(row, memory_gib=80.0)
    arguments = row.arguments().resolved(sized.device, behaviour, model.max_position)
    found = weights.estimate(model, arguments, sized.device, behaviour).bytes
    predicted = Estimate(found.p50 / GIB, found.p95 / GIB)
    return Quantity(row.weights_gib, predicted, scored=public(model) and row.version is not None)


def public(model: Model) -> bool:
    """Whether what the checkpoint quantises, and how the engine holds it, is published."""
    return model.quantization.sure and model.quantization.scheme != "mxfp4"


def _questions(row: Row, model: Model, known: Sequence[Start]) -> Iterator[Question]:
    """One; of a row without a version those of each way of accounting, with few sequences, too."""
    for each in [row.version] if row.version else ASSUMED:
        asked = replace(question(row, model, each, known), weights_bytes=_loaded(row))
        yield asked
        if row.version is None and asked.arguments.max_num_seqs is None:
            yield replace(asked, arguments=replace(asked.arguments, max_num_seqs=FEW))


def _kv(row: Row, model: Model, known: Sequence[Start]) -> Quantity:
    if row.kv_gib is None:
        return Quantity()
    if row.utilization is None:
        return Quantity(row.kv_gib, refused="gpu_memory_utilization")
    try:
        found = [predict(asked).kv_bytes for asked in _questions(row, model, known)]
    except Refusal as refusal:
        return Quantity(row.kv_gib, refused=refusal.fact)
    predicted = Estimate(found[0].p50 / GIB, min(each.p95 for each in found) / GIB)
    # What a neighbour held is known from the row's own log: shown, and not counted.
    alone = (row.stated("non_torch") or 0) <= NEIGHBOUR_GIB
    complete = alone and None not in (row.version, row.weights_gib)
    return Quantity(row.kv_gib, predicted, scored=complete and text_only(row, model))


def _loaded(row: Row) -> float | None:
    return None if row.weights_gib is None else row.weights_gib * GIB


def _tokens(row: Row, model: Model) -> Quantity:
    """Of the bytes that were reported."""
    if row.kv_tokens is None or row.kv_gib is None:
        return Quantity()
    plain = model.plain and not model.encoder
    if row.version is None and not plain:
        return Quantity(row.kv_tokens, refused="the engine's version: how it counts a hybrid")
    behaviour = Behaviour(version(row.version or ASSUMED[0]))
    sized = row if row.memory_gib else replace(row, memory_gib=24.0)
    arguments = row.arguments().resolved(sized.device, behaviour, model.max_position)
    found = _counted(row, model, arguments, behaviour)
    # What is printed to two digits says less than half a percent of a small cache.
    fine = found[1] - found[0] <= 0.01 * found[0]
    at = _counted(row, model, arguments, behaviour, (0,))[0]
    # Of several ranks the one with the least decides, and a row has the bytes of one: another may
    # have a display, or a neighbour.
    told = row.version is not None or row.ranks == 1
    least = found[0] if plain else _doubted(row, model, arguments, behaviour)
    if not told:
        least = _counted(row, model, arguments, behaviour, (-NEIGHBOUR_GIB,))[0]
    return Quantity(row.kv_tokens, Estimate(at, least), scored=plain and fine and told)


def _counted(
    row: Row,
    model: Model,
    arguments: Arguments,
    behaviour: Behaviour,
    off: Sequence[float] = (-PRINTED_GIB, PRINTED_GIB),
) -> list[int]:
    cache = kv_cache.lay_out(model, arguments, behaviour)
    length = arguments.max_model_len or 0
    return [cache.tokens(((row.kv_gib or 0) + each) * GIB, length) for each in off]


def _doubted(row: Row, model: Model, arguments: Arguments, behaviour: Behaviour) -> int:
    """The least that flags which the row does not state would leave."""
    batched = arguments.max_num_batched_tokens or 2048
    if row.arguments().max_num_batched_tokens is None:
        batched = max(batched, 8192)
    doubted = replace(arguments, max_num_batched_tokens=batched, enable_prefix_caching=True)
    both = (arguments, doubted)
    return min(_counted(row, model, each, behaviour)[0] for each in both)


def _verdict(row: Row, model: Model, known: Sequence[Start]) -> tuple[Verdict | None, str | None]:
    """Refused where what the row does not state decides."""
    try:
        found = [predict(asked).verdict for asked in _questions(row, model, known)]
        if len({each is Verdict.DOES_NOT_FIT for each in found}) > 1:
            return None, "the engine's version and its max_num_seqs"
        if found[0] is Verdict.DOES_NOT_FIT and row.max_model_len is None:
            shortest = [
                replace(asked, arguments=replace(asked.arguments, max_model_len=1))
                for asked in _questions(row, model, known)
            ]
            if any(predict(each).verdict is not Verdict.DOES_NOT_FIT for each in shortest):
                return None, "max_model_len"
    except Refusal as refusal:
        return None, refusal.fact
    return found[0], None


def all_of(path: Path, directory: Path, known: Sequence[Start] | None = None) -> list[Scored]:
    given = learning.published() if known is None else known
    return [score(row, directory, given) for row in truth.rows(path)]
