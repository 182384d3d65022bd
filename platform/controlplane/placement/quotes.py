"""A quote: on what a model should run for a load or a job, how fast, for how much, and why not
on anything else. Pure; seconds are predicted, money is exact.

Candidates are tried cheapest first, by the least that each could cost; those that could not come
among the best any more are not simulated, and their reason is that least.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from billing.rating import rounded
from controlplane.placement import costs
from controlplane.placement.devices import GIB
from controlplane.placement.memory.predict import Question, served
from controlplane.placement.models import tensors
from controlplane.placement.offers import NONE, Ask, Candidate, Lost, Offer, Quote, Slo, Split
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import engines, forecasts, starts
from controlplane.placement.speed.engines import Engine, TooSmall
from controlplane.placement.speed.forecasts import Forecast, Runtime
from controlplane.placement.speed.load import Job, Load

RANKS, STAGES, SHARES = (1, 2, 4, 8), (1, 2, 4), (2, 4, 8)
SEQUENCES = (256, 128, 64, 32, 16, 8, 4)
KEPT = 5  # of the best that are simulated in full
MOST_REPLICAS = 256


@dataclass(frozen=True)
class _Way:
    """A configuration that fits, with the least replicas that could do."""

    offer: Offer
    split: Split
    quantization: str
    engine: Engine
    least: int
    stored_bytes: float = 0

    @property
    def price(self) -> Fraction:
        """Of a replica-hour; by devices where nothing has a price."""
        each = Fraction(self.offer.price.amount) if self.offer.price else Fraction(1)
        return self.engine.devices * each

    def lost(self, reason: str) -> Lost:
        return Lost(self.offer.device.name, self.split, self.quantization, reason)


# Without a price, what it costs in its unit, the p95 of a first token or of the job, devices.
_Rank = tuple[bool, Fraction, float, int]


@dataclass
class _Search:
    ask: Ask
    found: list[tuple[_Rank, Candidate]] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)


def quote(ask: Ask) -> Quote:
    """Raises `Refusal` where nothing can be said of the model on any of the devices."""
    search = _Search(ask)
    ways = sorted(_ways(search), key=lambda way: (not way.offer.price, _least(way, ask)))
    for way in ways:
        _try(search, way)
    ranked = sorted(search.found, key=lambda one: one[0])
    return Quote(tuple(one for _, one in ranked), tuple(search.lost + _dearer(ranked)))


def _dearer(ranked: Sequence[tuple[_Rank, Candidate]]) -> list[Lost]:
    """Why those behind the first are behind it."""
    said = []
    for (unpriced, cost, _, _), each in ranked[1:]:
        best_unpriced, least, _, _ = ranked[0][0]
        if unpriced > best_unpriced:
            reason = "nothing is known of its price"
        elif cost > least:
            unit = "takes {:.0f} % more devices" if unpriced else "costs {:.0f} % more"
            reason = "it keeps the SLO and " + unit.format(float(cost / least - 1) * 100)
        else:
            reason = "it costs as much and is slower" if not unpriced else "it is slower"
        said.append(Lost(each.device, each.split, each.quantization, reason))
    return said


def _least(way: _Way, ask: Ask) -> Fraction:
    """What it costs at the least: of an hour, or of a job."""
    hour = way.least * way.price
    if isinstance(ask.demand, Job):
        most = way.engine.most(ask.demand.shape, way.engine.machine) * way.least
        return hour * Fraction(ask.demand.requests / most / costs.HOUR_S)
    return hour


def _ways(search: _Search) -> Iterator[_Way]:
    ask = search.ask
    for offer in ask.offers:
        if offer.device.throughput is None:
            reason = "its speed is not known from two sources"
            search.lost.append(Lost(offer.device.name, NONE, "", reason))
            continue
        for quantization in ask.quantizations:
            yield from _of_device(search, offer, quantization)


def _of_device(search: _Search, offer: Offer, quantization: str) -> Iterator[_Way]:
    """Each split over one node; over several (stages) only where none of those fits."""
    splits = [Split(ranks) for ranks in RANKS]
    if search.ask.question.model.sparse and search.ask.shares:
        splits += [Split(ranks, 1, shares) for ranks in RANKS for shares in SHARES]
    staged = [Split(ranks, stages) for stages in STAGES[1:] for ranks in RANKS]
    fitted = False
    for split in splits + staged:
        if split.node_devices > offer.most or (split.stages > 1 and fitted):
            continue
        way = _way(search.ask, offer, quantization, split)
        if isinstance(way, Lost):
            search.lost.append(way)
            continue
        fitted = True
        yield way


def _way(ask: Ask, offer: Offer, quantization: str, split: Split) -> _Way | Lost:
    given = ask.question.arguments
    arguments = replace(
        given,
        tensor_parallel_size=split.ranks,
        pipeline_parallel_size=split.stages,
        data_parallel_size=split.shares,
        enable_expert_parallel=given.enable_expert_parallel or split.shares > 1,
        quantization=quantization or given.quantization,
        max_model_len=engines.longest(ask.question, ask.demand.shape),
    )
    question = replace(
        ask.question,
        device=offer.device,
        arguments=arguments,
        weights_bytes=None,
        stored_bytes=None if quantization else ask.question.stored_bytes,
    )
    try:
        _weighed(question)
        engine = _sized(ask, question)
    except (TooSmall, Refusal) as why:
        said = f"it takes {why}" if isinstance(why, Refusal) else str(why)
        return Lost(offer.device.name, split, quantization, said)
    stored = engine.prediction.weights.p50 * engine.devices
    least = _replicas_at_least(ask, engine)
    way = _Way(offer, split, quantization, engine, least, stored)
    return way if way.least else way.lost(_unkept(ask, engine))


def _weighed(question: Question) -> None:
    """Raises `TooSmall` where the weights alone are more than all memory: no need to look on."""
    model = served(question.model, question.arguments)
    bits = min(model.quantization.bits, 16)
    weights = sum(each.parameters for each in tensors.of(model)) * bits / 8
    arguments = question.arguments
    memory = question.device.memory_bytes * arguments.ranks * arguments.data_parallel_size
    if weights > memory:
        held, there = weights / GIB, memory / GIB
        raise TooSmall(f"it does not fit: its weights are {held:.0f} GiB, the memory {there:.0f}")


def _sized(ask: Ask, question: Question) -> Engine:
    """With as many requests at once as the SLO for each token allows, and the cache holds."""
    shape, limit = ask.demand.shape, ask.slo.tpot_s
    if question.arguments.max_num_seqs:
        return engines.build(question, ask.name, shape, ask.learned)
    most = _with(question, SEQUENCES[0])
    engine = engines.build(most, ask.name, shape, ask.learned)
    if limit is None:
        return engine
    slow, held = engine.machine.with_margin(), max(1.0, engine.limits.tokens / shape.prompt)
    for sequences in SEQUENCES:
        at_once = min(sequences / engine.lanes, held)
        if engine.tpot_s(shape, at_once, slow) <= limit:
            break
    if sequences == SEQUENCES[0]:
        return engine
    return engines.build(_with(question, sequences), ask.name, shape, ask.learned)


def _with(question: Question, sequences: int) -> Question:
    arguments = replace(question.arguments, max_num_seqs=sequences)
    return replace(question, arguments=arguments)


def _replicas_at_least(ask: Ask, engine: Engine) -> int:
    """0: no number of them keeps the SLO."""
    demand = ask.demand
    if isinstance(demand, Job):
        if demand.deadline_s is None:
            return 1
        most = engine.most(demand.shape, engine.machine.with_margin())
        return max(1, math.ceil(demand.requests / most / demand.deadline_s))
    if _unkept(ask, engine):
        return 0
    most = engine.most(demand.shape, engine.machine.with_margin()) * forecasts.BUSY
    return max(1, math.ceil(demand.rate / most))


def _unkept(ask: Ask, engine: Engine) -> str:
    """Which bound is broken although one request has the engine to itself; empty: none."""
    shape, slo = ask.demand.shape, ask.slo
    slow = engine.machine.with_margin()
    alone = engine.tpot_s(replace(shape, spread=0), 1, slow)
    if slo.tpot_s is not None and alone > slo.tpot_s:
        return f"a token takes {_ms(alone)} even of one request, {_ms(slo.tpot_s)} are allowed"
    return ""


def _try(search: _Search, way: _Way) -> None:
    ask = search.ask
    unpriced, least = not way.offer.price, _least(way, ask)
    kept = sorted(rank[:2] for rank, _ in search.found)
    if len(kept) >= KEPT and (unpriced, least) > kept[KEPT - 1]:
        unit = "for the job" if isinstance(ask.demand, Job) else "an hour"
        what = way.offer.price.currency if way.offer.price else "device-hours"
        search.lost.append(way.lost(f"it costs {rounded(least, 2)} {what} {unit} at the least"))
        return
    found = _job(ask, way) if isinstance(ask.demand, Job) else _load(ask, ask.demand, way)
    if isinstance(found, str):
        search.lost.append(way.lost(found))
        return
    cost, slowness = found.replicas * way.price, 0.0
    if found.runtime is not None:
        cost *= Fraction(found.runtime.seconds.p50) / costs.HOUR_S
        slowness = found.runtime.seconds.p95
    elif found.forecast is not None:
        slowness = found.forecast.ttft_s.p95
    search.found.append(((unpriced, cost, slowness, found.devices), found))


def _load(ask: Ask, load: Load, way: _Way) -> Candidate | str:
    """With the least replicas that keep the SLO, or why none do."""
    replicas = _enough(ask, load, way)
    if replicas is None:
        ttft, tpot = forecasts.slow(way.engine, load, MOST_REPLICAS)
        return _broken(ask.slo, ttft, tpot)
    if short := _missing(way, replicas):
        return short
    forecast = forecasts.of_load(way.engine, load, replicas)
    return _candidate(ask, way, replicas, forecast, None)


def _enough(ask: Ask, load: Load, way: _Way) -> int | None:
    """Fewest replicas: doubled until they do, then halved between."""
    if ask.slo.ttft_s is None and ask.slo.tpot_s is None:
        return way.least

    def does(replicas: int) -> bool:
        ttft, tpot = forecasts.slow(way.engine, load, replicas)
        return not _broken(ask.slo, ttft, tpot)

    high = way.least
    low = high - 1
    if does(high):
        return high
    if not does(MOST_REPLICAS):
        return None
    while not does(high):
        if high >= MOST_REPLICAS:
            return None
        low, high = high, min(2 * high, MOST_REPLICAS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


def _broken(slo: Slo, ttft_s: float, tpot_s: float) -> str:
    if slo.ttft_s is not None and ttft_s > slo.ttft_s:
        return f"the first token takes {_ms(ttft_s)} at p95, {_ms(slo.ttft_s)} are allowed"
    if slo.tpot_s is not None and tpot_s > slo.tpot_s:
        return f"a token takes {_ms(tpot_s)} at p95, {_ms(slo.tpot_s)} are allowed"
    return ""


def _ms(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{1000 * seconds:.0f} ms"


def _job(ask: Ask, way: _Way) -> Candidate | str:
    job = ask.demand
    if not isinstance(job, Job):
        raise TypeError("a job is asked for")
    replicas = way.least
    runtime = forecasts.of_job(way.engine, job, replicas)
    while job.deadline_s is not None and runtime.seconds.p95 > job.deadline_s:
        if replicas >= min(job.requests, MOST_REPLICAS):
            return (
                f"it takes {runtime.seconds.p95:,.0f} s at p95, {job.deadline_s:,.0f} are allowed"
            )
        more = math.ceil(replicas * runtime.seconds.p95 / job.deadline_s)
        replicas = min(max(replicas + 1, more), job.requests, MOST_REPLICAS)
        runtime = forecasts.of_job(way.engine, job, replicas)
    if short := _missing(way, replicas):
        return short
    return _candidate(ask, way, replicas, None, runtime)


def _missing(way: _Way, replicas: int) -> str:
    free, wanted = way.offer.free, replicas * way.engine.devices
    if free is not None and wanted > free:
        return f"it takes {wanted} devices, {free} are free"
    each, times = way.split.node_devices, replicas * way.split.stages
    if way.offer.nodes and (room := way.offer.room(each)) < times:
        return f"it takes {times} times {each} devices of one node, there is room for {room}"
    return ""


def _candidate(
    ask: Ask,
    way: _Way,
    replicas: int,
    forecast: Forecast | None,
    runtime: Runtime | None,
) -> Candidate:
    arguments = way.engine.arguments
    device = way.offer.device
    if device.throughput is None:
        raise Refusal(f"the checked speed of device {device.name!r}")
    held = starts.Weights(way.engine.prediction.weights.p50, way.stored_bytes, way.engine.devices)
    return Candidate(
        device=device.name,
        tensor_parallel_size=arguments.tensor_parallel_size,
        pipeline_parallel_size=arguments.pipeline_parallel_size,
        data_parallel_size=arguments.data_parallel_size,
        replicas=replicas,
        quantization=way.quantization,
        max_num_seqs=arguments.max_num_seqs or 0,
        max_model_len=arguments.max_model_len or 0,
        forecast=forecast,
        runtime=runtime,
        starts=starts.seconds(held, device.throughput, ask.learned.starts.get(device.name)),
        money=costs.of(way.offer.price, replicas * way.engine.devices, ask.demand, runtime),
        refined_by=way.engine.refined_by,
        kind=way.offer.kind,
        pool=way.offer.pool,
    )
