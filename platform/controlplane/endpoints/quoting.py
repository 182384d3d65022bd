"""What a model would run on, how fast, for how much: of the devices that an organization may have.

The one place that makes a question for `placement.quotes` of what the control plane knows: the
model's facts, the pools and their free devices, billing's prices, what starts took, and how fast
engines were.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from billing import rating
from billing.models import Meter
from billing.pricing import prices
from controlplane.endpoints import (
    corrections_kept,
    engine_args,
    engine_versions,
    measured_starts,
    questions,
    sources,
    start_times,
)
from controlplane.endpoints import offers as there
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.questions import Known
from controlplane.fleet import engines
from controlplane.fleet.models import Device, Pool
from controlplane.placement import devices, quote_bodies, quotes
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.models import plausible, reading
from controlplane.placement.offers import AS_IT_IS, Ask, Candidate, Offer, Quote, Slo
from controlplane.placement.quote_bodies import BadBody
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import refining
from controlplane.placement.speed.corrections import likeness
from controlplane.placement.speed.engines import Learned
from controlplane.placement.speed.load import Job, Load
from controlplane.placement.speed.starts import Tier
from controlplane.tenancy.models import Organization, Project

_T = TypeVar("_T", dict[str, Any], list[Any])

FIELDS = (
    *("source", "model", "revision", "config", "engine_version"),
    *("load", "job", "slo", "arguments", "quantizations"),
)
MOST_QUANTIZATIONS = 3
# What a quote looks for itself.
SEARCHED = ("tensor_parallel_size", "pipeline_parallel_size", "quantization")
MOST = {  # of what is asked; beyond it nobody means it
    **{"requests_per_second": 1e5, "requests": 1e9, "deadline_s": 1e8},
    **{"prompt_tokens": 1e8, "output_tokens": 1e8},
}


@dataclass(frozen=True)
class Demand:
    """What is asked: of a model that is known here, or of one whose `config` is given."""

    demand: Load | Job
    wish: Wish | None
    config: Mapping[str, Any] | None = None
    slo: Slo = field(default_factory=Slo)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    quantizations: tuple[str, ...] = ()
    engine_version: str = ""  # as chosen; empty: as nodes have it


class Unquotable(Invalid):
    """A fact is missing: of the model, its devices or its flags. `fact` names it."""

    code = "fact_missing"

    def __init__(self, fact: str, *, field: str = "model") -> None:
        super().__init__(f"It takes {fact}.", field=field)
        self.fact = fact


def read(body: Mapping[str, Any]) -> Demand:
    """Of a body as POST /api/v1/quotes has it, without its project; null is what is left out.

    Raises Invalid with the field.
    """
    body = {name: value for name, value in body.items() if value is not None}
    for name in body:
        if name not in FIELDS:
            raise Invalid(f"one of {', '.join(FIELDS)}", code="invalid_quote", field=name[:64])
    try:
        demand = quote_bodies.demand(_bounded(body))
        slo = quote_bodies.slo(body)
    except BadBody as bad:
        raise Invalid(bad.message, code="invalid_quote", field=bad.field) from None
    arguments = _arguments(_of(dict, body, "arguments"))
    quantizations = tuple(_quantization(one) for one in _of(list, body, "quantizations"))
    if len(quantizations) > MOST_QUANTIZATIONS:
        message = f"at most {MOST_QUANTIZATIONS}"
        raise Invalid(message, code="invalid_quote", field="quantizations")
    version = engine_versions.choose(
        engines.ENGINES["vllm"], _text(body, "engine_version"), own_image=False
    )
    asked = Demand(demand, None, None, slo, arguments, quantizations, version)
    if ("config" in body) == bool(body.get("model")):
        raise Invalid("one of model and config", code="invalid_quote", field="model")
    if "config" in body:
        return replace(asked, config=_of(dict, body, "config"))
    wish = Wish(_text(body, "source"), _text(body, "model"), _text(body, "revision"))
    return replace(asked, wish=replace(wish, source=sources.check(wish)))


def answer(project: Project, asked: Demand, *, now: datetime) -> Quote:
    """Best first, with why the others lost. Raises Unquotable with what is missing."""
    try:
        with questions.sense():
            return quotes.quote(terms(project, asked, now=now))
    except Refusal as refusal:
        raise Unquotable(refusal.fact, field=_blamed(asked)) from None


def terms(project: Project, asked: Demand, *, now: datetime) -> Ask:
    """What `answer` asks placement. Raises Refusal, Invalid."""
    organization = project.organization
    found = known(project, asked, now)
    offered = offers(organization, now)
    there_are = [one.device for one in offered]
    name = asked.wish.model if asked.wish else ""
    like = likeness(found.model)
    question = questions.question(
        found,
        there_are[0],
        questions.arguments(name, asked.arguments),
        questions.version(asked.engine_version),
        measured_starts.starts(organization, *{one.name for one in there_are}),
    )
    return Ask(
        question=question,
        name=name,
        demand=asked.demand,
        offers=offered,
        slo=asked.slo,
        quantizations=(AS_IT_IS, *asked.quantizations),
        learned=Learned(
            corrections_kept.of(organization, like),
            refining.installed(),
            _starts(project, asked, offered),
            corrections_kept.of(organization, like, "ratio_ttft"),
        ),
        shares=False,  # no endpoint starts such engines
    )


def known(project: Project, asked: Demand, now: datetime) -> Known:
    """The model that is asked about. Raises Refusal with what is missing of it."""
    if asked.config is None:
        assert asked.wish is not None
        return questions.known(project, asked.wish, now)
    with questions.sense():
        stated = plausible.parsed(json.dumps(asked.config))
        return Known(reading.read(stated), {}, stated)


def offers(organization: Organization, now: datetime) -> list[Offer]:
    """Each kind of device of each pool that it may use, at its price. Raises Refusal for none.

    An endpoint stands in one pool, so pools are offered apart; one that has nothing which another
    does not have is left out.
    """
    account = organization.account
    listed = rating.PriceTable(
        prices.versions(account.currency, account.id), account.currency, account.id
    )
    found: list[Offer] = []
    own_first = sorted(
        there.pools(organization), key=lambda pool: (pool.organization_id is None, pool.id)
    )
    for pool in own_first:
        free = _free(pool)
        for one in there.devices([pool]):
            price = listed.at(Meter.DEVICE_SECONDS, one.kind, now)
            device = _device(one.kind, one.memory_bytes)
            nodes = free.get(one.kind, ())
            new = Offer(
                device, price, one.most_on_a_node, one.free, one.kind, pool=pool.id, nodes=nodes
            )
            if not any(_has_all(other, new) for other in found):
                found = [other for other in found if not _has_all(new, other)] + [new]
    if not found:
        raise Refusal("a pool with devices that the organization may use")
    return found


def _free(pool: Pool) -> dict[str, tuple[int, ...]]:
    """By kind, the free devices of each node that takes work and has any."""
    rows = Device.objects.filter(
        node__pool=pool, node__removed_at=None, node__cordoned_at=None, healthy=True
    )
    counts = Counter(rows.filter(deviceclaim=None).values_list("kind", "node_id"))
    found: dict[str, list[int]] = defaultdict(list)
    for (kind, _), count in sorted(counts.items()):
        found[kind].append(count)
    return {kind: tuple(each) for kind, each in found.items()}


def _has_all(one: Offer, other: Offer) -> bool:
    """Whether whatever stands on the other has room on this one, too."""
    return (
        one.device == other.device
        and one.kind == other.kind
        and one.most >= other.most
        and (one.free or 0) >= (other.free or 0)
        and all(one.room(ranks) >= other.room(ranks) for ranks in quotes.RANKS)
    )


def endpoint(candidate: Candidate, asked: Demand) -> dict[str, Any]:
    """What of an endpoint's body makes it run as this candidate does."""
    arguments = {
        **asked.arguments,
        "max_num_seqs": candidate.max_num_seqs,
        "max_model_len": candidate.max_model_len,
    }
    if candidate.quantization:
        arguments["quantization"] = candidate.quantization
    return {
        "pool": candidate.pool,
        "device_kind": candidate.kind,
        "device_count": candidate.tensor_parallel_size,
        "node_count": candidate.pipeline_parallel_size,
        "max_replicas": candidate.replicas,
        "engine_args": arguments,
    }


def facts(found: Quote, asked: Demand) -> dict[str, Any]:
    """The answer as JSON; of each candidate with the `endpoint` that it is."""
    told = quote_bodies.answer(found)
    for shown, candidate in zip(told["candidates"], found.ranked, strict=True):
        shown["endpoint"] = endpoint(candidate, asked)
    return told


def _device(kind: str, memory_bytes: int) -> devices.Device:
    """What is not the whole device that was measured (a part of one, another memory) has no speed
    that anybody knows."""
    try:
        found = questions.device(kind, memory_bytes)
    except Refusal:
        return devices.Device(kind, memory_bytes)
    return found if questions.whole(found) else replace(found, throughput=None)


def _starts(
    project: Project, asked: Demand, offered: Iterable[Offer]
) -> Mapping[str, Mapping[Tier, Estimate]]:
    if asked.wish is None:
        return {}
    names = {one.kind: one.device.name for one in offered if one.device.throughput}
    return start_times.of(project, asked.wish, names)


def _blamed(asked: Demand) -> str:
    return "config" if asked.wish is None else "model"


def _bounded(body: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("load", "job"):
        stated = body.get(name)
        for key, value in stated.items() if isinstance(stated, Mapping) else ():
            if isinstance(value, int | float) and value > MOST.get(key, float("inf")):
                raise BadBody(f"{name}.{key}", f"at most {MOST[key]:,.0f}")
    return body


def _arguments(stated: Mapping[str, Any]) -> dict[str, Any]:
    for name in SEARCHED:
        if name in stated:
            message = "a quote looks for it itself"
            message += "; allow it in quantizations" if name == "quantization" else ""
            raise Invalid(message, code="invalid_quote", field=f"arguments.{name}")
    try:
        return dict(engine_args.validate(stated, 1))
    except Invalid as bad:
        where = bad.field.replace("engine_args", "arguments")
        raise Invalid(bad.message, code=bad.code, field=where) from None


def _quantization(value: object) -> str:
    try:
        engine_args.validate({"quantization": value}, 1)
    except Invalid as bad:
        raise Invalid(bad.message, code="invalid_quote", field="quantizations") from None
    return str(value)


def _of(kind: type[_T], body: Mapping[str, Any], name: str) -> _T:
    value = body.get(name, kind())
    if not isinstance(value, kind):
        what = "an object" if kind is dict else "a list"
        raise Invalid(what, code="invalid_quote", field=name)
    return value


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or "\0" in value or len(value) > 300:
        raise Invalid("a text", code="invalid_quote", field=name)
    return value
