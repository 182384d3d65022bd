"""What a form shows of the wish that is being typed: whether it fits, what it costs. Pure.

The figures are the preflight's and billing's; here they are only laid out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from controlplane.endpoints.foresight import Foresight, StartTime
from controlplane.endpoints.preflight import NOT_JUDGED, UNKNOWN, Outlook
from controlplane.endpoints.spec import EndpointSpec
from controlplane.placement.memory.predict import Verdict
from controlplane.placement.mix import WHOLE
from frontend.quote_form import place_of
from frontend.templatetags.console import money

WIDTH = 1000.0  # of the bar
_TITLES = {
    Verdict.FITS: ("Fits", "good"),
    Verdict.TIGHT: ("Tight", "busy"),
    Verdict.DOES_NOT_FIT: ("Does not fit", "bad"),
    UNKNOWN: ("Not known yet", "busy"),
    NOT_JUDGED: ("Not judged", "calm"),
}
# What advice fills in, as a button says it.
_LABELS = {
    "max_model_len": "Context of {:,} tokens",
    "max_num_seqs": "{:,} requests at once",
    "gpu_memory_utilization": "{} of the memory",
    "kv_cache_dtype": "KV cache in {}",
    "device_count": "{} devices",
    "device_share": "{} thousandths",
    "device_kind": "{}",
}


@dataclass(frozen=True)
class Part:
    """Of the bar: `x` and `width` in its units."""

    name: str
    label: str
    bytes: float
    x: float
    width: float


@dataclass(frozen=True)
class Advice:
    """`fills`: field to value, all of which one button fills in."""

    id: str
    label: str
    fills: Mapping[str, str]


@dataclass(frozen=True)
class Price:
    """Of an hour, in the account's currency; `least` and `most` of all replicas together."""

    currency: str
    replica: Decimal
    least: Decimal
    most: Decimal
    min_replicas: int
    max_replicas: int


@dataclass(frozen=True)
class Panel:
    """`figures`: Outlook.prediction. `says`: for those who listen; empty: nothing worth it."""

    title: str
    tone: str
    text: str = ""
    where: str = ""
    blames: str = ""  # the field of the form that the text is about
    figures: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    budget_x: float | None = None  # where the engine's share ends, if what it needs is more
    advice: Sequence[Advice] = ()
    price: Price | None = None
    starts: Sequence[StartTime] = ()
    model: str = ""  # the query of a page that asks for a quote
    says: str = ""


def waiting(text: str, *, blames: str = "", title: str = "Whether it fits") -> Panel:
    """Before there is something to judge, or where it cannot be wished for so."""
    return Panel(title=title, tone="bad" if blames else "calm", text=text, blames=blames)


def price(spec: EndpointSpec, device_hour: Decimal | None, currency: str) -> Price | None:
    if device_hour is None:
        return None
    each = device_hour * spec.device_count * spec.node_count * spec.device_share / WHOLE
    return Price(
        currency=currency,
        replica=each,
        least=each * spec.min_replicas,
        most=each * spec.max_replicas,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
    )


def of(found: Foresight, costs: Price | None) -> Panel:
    spec, outlook = found.spec, found.outlook
    title, tone = _TITLES[_key(outlook.verdict)]
    told = outlook.prediction if "budget_bytes" in outlook.prediction else {}
    count = spec.device_count * spec.node_count
    where = f"{count} x {spec.device_kind}"
    if spec.device_share < WHOLE:
        where = f"{spec.device_share} thousandths of {spec.device_kind}"
    parts, budget_x = _bar(told)
    return Panel(
        title=title,
        tone=tone,
        text="" if outlook.verdict == Verdict.FITS else outlook.text,
        where=where,
        figures=told,
        parts=parts,
        budget_x=budget_x,
        advice=[_advice(one) for one in told.get("advice", ())],
        price=costs,
        starts=found.starts,
        model=urlencode(place_of(spec.source, spec.model, spec.revision)) if told else "",
        says=_said(f"{title} on {where}", outlook, told, costs),
    )


def _key(verdict: str) -> str:
    return Verdict(verdict) if verdict in set(Verdict) else verdict


def _said(beginning: str, outlook: Outlook, told: Mapping[str, Any], costs: Price | None) -> str:
    parts = [beginning]
    if not told:
        parts = [f"{beginning}. {outlook.text}"]
    elif outlook.verdict != Verdict.DOES_NOT_FIT and told["concurrency"]["p50"] is not None:
        length = told["max_model_len"]
        parts.append(f"{told['concurrency']['p50']:,.1f} requests of {length:,} tokens at once")
    if costs is not None:
        parts.append(f"{money(costs.replica, costs.currency)} an hour for a replica")
    return ", ".join(parts)


def _bar(told: Mapping[str, Any]) -> tuple[list[Part], float | None]:
    """What lies in the engine's share of a device, end to end, and what is missing there; where
    the share ends, if something is."""
    if not told:
        return [], None
    left = told["kv_bytes"]["p50"] or 0.0
    request = told["kv_bytes_per_request"] or 0.0
    sizes = [
        ("weights", "Weights", told["weights_bytes"]["p50"]),
        ("activations", "Activations", told["activations_bytes"]["p50"]),
        ("other", "All else", told["non_torch_bytes"]["p50"]),
        ("cache", "KV cache", max(0.0, left)),
        ("missing", "Missing for one request", max(0.0, request - max(0.0, left))),
    ]
    sizes = [one for one in sizes if one[2] > 0]
    whole = max(told["budget_bytes"], sum(each for _, _, each in sizes))
    parts, x = [], 0.0
    for name, label, each in sizes:
        width = WIDTH * each / whole
        parts.append(Part(name, label, each, round(x, 1), round(width, 1)))
        x += width
    over = whole > told["budget_bytes"]
    return parts, round(WIDTH * told["budget_bytes"] / whole, 1) if over else None


def _advice(one: Mapping[str, Any]) -> Advice:
    argument, value = one["argument"], str(one["value"])
    fills = {argument: value}
    if argument == "device_kind" and " x " in value:
        count, _, kind = value.partition(" x ")
        fills = {"device_kind": kind, "device_count": count}
    shown: Any = int(value) if value.isdecimal() else value
    label = _LABELS.get(argument, f"{argument} = {{}}").format(shown)
    return Advice(id=f"fill-{argument}", label=label, fills=fills)
