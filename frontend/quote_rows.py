"""A quote's answer as its page lays it out; the figures are as they were quoted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compliance import ids
from controlplane.endpoints.models import Quote
from controlplane.placement.speed.starts import Tier
from controlplane.tenancy.models import Project
from frontend.endpoint_form import COMMON
from frontend.quote_form import model_of


@dataclass(frozen=True)
class Way:
    """One candidate; `told` is quote_bodies' own, `number` its place from 0."""

    number: int
    told: Mapping[str, Any]
    how: str

    @property
    def starts(self) -> list[tuple[str, float, float]]:
        """The quickest tier first."""
        seconds = self.told["starts_s"]
        return [(t, seconds[t]["p50"], seconds[t]["p95"]) for t in Tier if t in seconds]


@dataclass(frozen=True)
class Loser:
    device: str
    how: str
    reason: str


def found(project: Project, id: str | None) -> Quote | None:
    """Of this project; None for whatever else somebody names."""
    return project.quotes.filter(id=id).first() if id and ids.valid(id, "quo") else None


def ways(quote: Quote) -> list[Way]:
    """Best first."""
    candidates = quote.answer["candidates"]
    return [Way(number, told, _how(told)) for number, told in enumerate(candidates)]


def losers(quote: Quote) -> list[Loser]:
    return [Loser(one["device"], _how(one), one["reason"]) for one in quote.answer["rejected"]]


def _how(told: Mapping[str, Any]) -> str:
    """How it stands on its devices, in a few words."""
    parts = []
    replicas = told.get("replicas") or 1
    if replicas > 1:
        parts.append(f"{replicas} replicas")
    sizes: Sequence[tuple[str, str]] = (
        ("tensor_parallel_size", "devices each"),
        ("pipeline_parallel_size", "nodes each"),
        ("data_parallel_size", "shares each"),
    )
    parts += [f"{told[name]} {words}" for name, words in sizes if (told.get(name) or 1) > 1]
    parts.append(told.get("quantization") or "as the checkpoint is")
    if told.get("max_num_seqs"):
        parts.append(f"{told['max_num_seqs']} requests at once")
    return ", ".join(parts)


def begins(quote: Quote, number: int) -> dict[str, Any]:
    """What the form that makes an endpoint begins with: this way of the quote, or its model."""
    model = {**model_of(quote), "quote_id": quote.id}
    candidates = quote.answer["candidates"]
    if not 0 <= number < len(candidates):
        return model
    endpoint = candidates[number]["endpoint"]
    arguments = endpoint["engine_args"]
    rest = {name: value for name, value in arguments.items() if name not in COMMON}
    return {
        **model,
        **{name: _typed(value) for name, value in arguments.items() if name in COMMON},
        **{name: value for name, value in endpoint.items() if name != "engine_args"},
        "more": "\n".join(f"{name}={_typed(value)}" for name, value in rest.items()),
        "engine_version": quote.body.get("engine_version") or "",
    }


def _typed(value: object) -> str:
    """As somebody would type it."""
    return value if isinstance(value, str) else json.dumps(value)
