"""Whether what somebody wishes for can fit, before a device is touched.

What cannot fit on any device of its pool is refused, with the numbers and what would make it fit.
What is tight passes with a warning; so does what nobody can tell yet, with the fact that is
missing: a prediction never stands in the way of what it does not know.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import F

from controlplane.endpoints import (
    images,
    measured_starts,
    offers,
    predict_client,
    questions,
    shares,
    version_spec,
)
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import Endpoint, EndpointVersion, ModelFacts, Start
from controlplane.endpoints.questions import CPU
from controlplane.endpoints.spec import EndpointSpec
from controlplane.fleet.engines.vllm import ALLOWED
from controlplane.fleet.models import Device as DeviceRow
from controlplane.fleet.models import Pool
from controlplane.placement.devices import GIB, Device
from controlplane.placement.memory import advice, weights
from controlplane.placement.memory.advice import Change
from controlplane.placement.memory.engine import Arguments, Behaviour, version
from controlplane.placement.memory.predict import (
    Prediction,
    Question,
    Verdict,
    predict,
    smallest,
)
from controlplane.placement.mix import WHOLE
from controlplane.placement.refusals import Refusal
from controlplane.tenancy.models import Project

UNKNOWN, NOT_JUDGED = "unknown", "not judged"
_STEP = 50  # thousandths of a device, between shares that are tried
MOST = 50  # endpoints of one model that are looked at again; the others' warning stays
# Of a wish, what a prediction goes by: a change of anything else is none of its business.
FIELDS = (
    *("source", "model", "revision", "engine", "engine_version", "engine_args", "image"),
    *("device_kind", "device_count", "node_count", "device_share"),
)


class DoesNotFit(Invalid):
    """`prediction`: the numbers, as of `stoa predict --json`."""

    code = "does_not_fit"

    def __init__(self, message: str, *, field: str, prediction: Mapping[str, Any]) -> None:
        super().__init__(message, field=field)
        self.prediction = dict(prediction)


@dataclass(frozen=True)
class Outlook:
    """What is said of a wish: kept with its version.

    `verdict`: a memory.predict.Verdict, UNKNOWN, or NOT_JUDGED. `text`: the numbers, the fact that
    is missing, or why it is not judged, in a person's words.
    """

    verdict: str
    text: str = ""
    blames: str = ""  # the field of the wish that would have to change first
    prediction: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, Any]:
        return asdict(self)


def check(spec: EndpointSpec, pool: Pool, project: Project, now: datetime) -> Outlook:
    """Raises DoesNotFit."""
    found = look(spec, pool, project, now)
    if found.verdict == Verdict.DOES_NOT_FIT:
        raise DoesNotFit(found.text, field=found.blames, prediction=found.prediction)
    return found


def warnings(outlook: Mapping[str, Any] | None) -> list[str]:
    """Of an outlook as it is kept: what whoever wished for it should know."""
    if not outlook or outlook["verdict"] in (Verdict.FITS, NOT_JUDGED):
        return []
    return [str(outlook["text"])]


def kept(endpoint: Endpoint) -> Mapping[str, Any] | None:
    """The outlook of the version that is wished for, as it is kept."""
    row = endpoint.versions.filter(number=endpoint.generation).only("outlook").first()
    return row.outlook if row else None


def of(endpoint: Endpoint) -> list[str]:
    """The warnings that still hold: what its version showed by starting needs no prediction."""
    found = warnings(kept(endpoint))
    started = Start.objects.filter(replica__generation=endpoint.generation, ready=True)
    return [] if found and started.filter(endpoint=endpoint).exists() else found


def renew(news: Iterable[ModelFacts], now: datetime) -> int:
    """Look again at what was wished for before anybody knew these models; how many that was.

    Nothing is refused any more: the warning then says what is not known no longer.
    """
    count = 0
    for facts in news:
        rows = EndpointVersion.objects.filter(
            outlook__verdict=UNKNOWN,
            spec__source=facts.source,
            spec__model=facts.model,
            number=F("endpoint__generation"),
            endpoint__deleted_at=None,
        )
        if facts.project_id is not None:
            rows = rows.filter(endpoint__project_id=facts.project_id)
        for row in rows.select_related("endpoint__pool", "endpoint__project__organization")[:MOST]:
            endpoint = row.endpoint
            spec = EndpointSpec(name=endpoint.name, **{**version_spec.ADDED, **row.spec})
            found = look(spec, endpoint.pool, endpoint.project, now)
            EndpointVersion.objects.filter(pk=row.pk).update(outlook=found.kept)
            count += 1
    return count


def look(spec: EndpointSpec, pool: Pool, project: Project, now: datetime) -> Outlook:
    """What can be said of it; nothing is raised. `spec` in its final form."""
    if why := _not_judged(spec):
        return Outlook(NOT_JUDGED, why)
    try:
        with questions.sense():
            return _judged(spec, pool, project, now)
    except Refusal as refusal:
        return Outlook(UNKNOWN, f"Whether it fits is not known: it takes {refusal.fact}.")


def _not_judged(spec: EndpointSpec) -> str:
    if spec.engine == images.CUSTOM:
        return "what an image of one's own takes is not known"
    if spec.engine != "vllm":
        return f"predictions are of vLLM's memory, not of {spec.engine}'s"
    return ""


def _judged(spec: EndpointSpec, pool: Pool, project: Project, now: datetime) -> Outlook:
    if spec.image is not None:
        raise Refusal("the version of vLLM that the image has")
    wish = Wish(spec.source, spec.model, spec.revision)
    asked = questions.arguments(spec.model, spec.engine_args)
    chosen = questions.version(spec.engine_version)
    if spec.device_kind == CPU:
        return _on_cpu(wish, asked, chosen, pool, project, now)
    found = questions.known(project, wish, now)
    there = _devices(pool, spec.device_kind)
    starts = measured_starts.starts(project.organization, there[-1].name)
    least, most = (
        questions.shared(
            questions.question(found, device, asked, chosen, starts), spec.device_share
        )
        for device in (there[0], there[-1])
    )
    told, about = predict(most), most
    verdict = told.verdict
    if verdict is Verdict.DOES_NOT_FIT and not _sure(told, most.device):
        verdict = Verdict.TIGHT
    if verdict is Verdict.FITS and least.device != most.device:
        smaller = predict(least)
        if smaller.verdict is not Verdict.FITS:
            verdict, told, about = Verdict.TIGHT, smaller, least
    changes = [] if verdict is Verdict.FITS else _changes(about, spec, pool, project)
    numbers = predict_client.facts(about, told, changes, None)
    text = _text(verdict, told, about, spec, changes)
    if about.device != most.device:
        text += f" The pool has larger ones too, with {_gib(most.device.memory_bytes)}."
    return Outlook(
        verdict=verdict.value,
        text=text,
        blames=_blames(changes),
        prediction=predict_client.finite({**numbers, "verdict": verdict.value}),
    )


def _sure(found: Prediction, device: Device) -> bool:
    """Whether it would not fit either if all took as much less as it may take more: only then is it
    forbidden."""
    need = found.weights + found.activations + found.non_torch
    less = need.p95 - need.p50
    stated = found.arguments.kv_cache_memory_bytes is not None
    left = found.kv_bytes.p50 + (0 if stated else less)
    if device.memory_bytes - need.p50 + less <= 0 or (left <= 0 and found.cache.groups):
        return True
    return found.cache.concurrency(left, found.arguments.max_model_len or 0) < 1


def _devices(pool: Pool, kind: str) -> list[Device]:
    """Those of the pool that are of this kind, by their memory. Raises Refusal for none."""
    rows = DeviceRow.objects.filter(node__pool=pool, node__removed_at=None, healthy=True, kind=kind)
    sizes = sorted(set(rows.values_list("memory_bytes", flat=True)))
    if not sizes:
        raise Refusal(f"the memory of a device of kind {kind}")
    found = [questions.device(kind, size) for size in sizes]
    return sorted(found, key=lambda one: one.memory_bytes)


def _changes(question: Question, spec: EndpointSpec, pool: Pool, project: Project) -> list[Change]:
    """What would make it fit and can be wished for here: settings, more devices, other devices."""
    if spec.device_share < WHOLE:
        return _changes_of_share(question, spec)
    there = offers.devices([pool])
    nearby = next((one.most_on_a_node for one in there if one.kind == spec.device_kind), 1)
    found = []
    for one in advice.changes(question, []):
        if one.argument == "tensor_parallel_size":
            if spec.node_count == 1 and spec.device_count < int(one.value) <= nearby:
                found.append(Change("device_count", one.value, one.kv_bytes, one.concurrency))
        elif one.argument in ALLOWED:
            found.append(one)
    if (other := _other(question, spec, project)) is not None:
        found.append(other)
    return found


def _changes_of_share(question: Question, spec: EndpointSpec) -> list[Change]:
    """Settings, or a larger share, up to a whole device."""
    found = [
        one
        for one in advice.changes(question, [])
        if one.argument in ALLOWED and one.argument not in shares.MEMORY
    ]
    found = [one for one in found if one.argument != "tensor_parallel_size"]
    for share in range(spec.device_share // _STEP * _STEP + _STEP, WHOLE + 1, _STEP):
        told = predict(questions.shared(question, share))
        if told.verdict is Verdict.FITS:
            return [*found, Change(shares.FIELD, str(share), told.kv_bytes.p95, 0.0)]
    return found


def _other(question: Question, spec: EndpointSpec, project: Project) -> Change | None:
    """The least of the other kinds that the organization may use."""
    found: list[tuple[int, str, Device, int]] = []
    for offer in offers.devices(offers.pools(project.organization)):
        if offer.kind in (CPU, spec.device_kind) or offer.memory_bytes <= 0:
            continue
        device = questions.device(offer.kind, offer.memory_bytes)
        least = smallest(question, [device])
        if least is not None and least[1] <= offer.most_on_a_node:
            found.append((device.memory_bytes * least[1], offer.kind, device, least[1]))
    if not found:
        return None
    _, kind, device, count = min(found, key=lambda one: one[:2])
    return Change("device_kind", kind if count == 1 else f"{count} x {kind}", 0.0, 0.0)


def _on_cpu(
    wish: Wish, asked: Arguments, chosen: str, pool: Pool, project: Project, now: datetime
) -> Outlook:
    """All that is sure: weights that no node of the pool has the memory for do not fit.

    What else lies in the memory of a machine, its agent and other engines, is not known.
    """
    rows = DeviceRow.objects.filter(node__pool=pool, node__removed_at=None, healthy=True, kind=CPU)
    nodes: dict[str, int] = {}
    for node, size in rows.values_list("node_id", "memory_bytes"):
        nodes[node] = nodes.get(node, 0) + size
    most = max(nodes.values(), default=0)
    need = _weights(wish, asked, chosen, project, now)
    if need is None or need <= most:
        return Outlook(NOT_JUDGED, "what else is in the memory of a CPU's machine is not known")
    told = {"verdict": Verdict.DOES_NOT_FIT.value, "weights_bytes": need, "memory_bytes": most}
    text = (
        f"It does not fit: its weights take {_gib(need)}, the largest node of the pool has "
        f"{_gib(most)} of memory."
    )
    return Outlook(Verdict.DOES_NOT_FIT.value, text, "device_kind", told)


def _weights(
    wish: Wish, asked: Arguments, chosen: str, project: Project, now: datetime
) -> float | None:
    """All of a model's, in bytes; None where they are not known."""
    try:
        found = questions.known(project, wish, now)
        whole = Arguments(dtype=asked.dtype)
        stored = weights.loaded(found.tensors, found.model, whole) if found.tensors else None
        behaviour = Behaviour(version(chosen))
        return weights.estimate(found.model, whole, Device(CPU, 0), behaviour, stored).bytes.p50
    except Refusal:
        return None


def _blames(changes: Sequence[Change]) -> str:
    """What to change first: the share, or the context, where the model itself fits."""
    said = {one.argument for one in changes}
    if shares.FIELD in said:
        return shares.FIELD
    return "engine_args.max_model_len" if "max_model_len" in said else "device_kind"


def _text(
    verdict: Verdict,
    found: Prediction,
    question: Question,
    spec: EndpointSpec,
    changes: Sequence[Change],
) -> str:
    beginning = {
        Verdict.FITS: "It fits on",
        Verdict.TIGHT: "It is tight on",
        Verdict.DOES_NOT_FIT: "It does not fit on",
    }[verdict]
    count = spec.device_count * spec.node_count
    where = f"{count} x {spec.device_kind}" if count > 1 else spec.device_kind
    if spec.device_share < WHOLE:
        where = f"{spec.device_share} thousandths of {where}"
    of_each = " of each device" if count > 1 else ""
    # Of what is tight, the start that is not the best: that is what it is tight for.
    rank = "p95" if verdict is Verdict.TIGHT else "p50"

    def size(estimate: Any) -> str:
        return _gib(getattr(estimate, rank))

    left = getattr(found.kv_bytes, rank)
    cache = f"{_gib(left)} are left for" if left > 0 else f"{_gib(-left)} are missing even without"
    text = (
        f"{beginning} {where} with {_gib(question.device.memory_bytes)}: of "
        f"{_gib(found.budget_bytes)} for the engine{of_each}, weights take "
        f"{size(found.weights)}, activations {size(found.activations)}, all else "
        f"{size(found.non_torch)}; {cache} the cache, where a request of "
        f"{found.arguments.max_model_len:,} tokens takes {_gib(found.request_bytes)}."
    )
    if verdict is not Verdict.FITS:
        ways = [f"{one.argument} = {one.value}" for one in changes]
        text += f" It fits with {', or '.join(ways)}." if ways else " Nothing here makes it fit."
    return text


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
