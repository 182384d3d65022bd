"""A quote beside what happened on the endpoints that were made with it, day by day."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.rating import rounded
from controlplane.endpoints.models import Endpoint, Quote, ServedDay
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.speed import corrections
from controlplane.placement.speed.corrections import Compared

DAYS = 7  # of each endpoint, the newest
MONEY_PLACES = 4
HOUR_S, MILLION = 3600, 1_000_000


@dataclass(frozen=True)
class Outcome:
    """One day of one endpoint. `came` is what was asked of it, in the quote's own terms;
    `candidate` what it was quoted as, None where it runs as nothing that was quoted does."""

    endpoint: Endpoint
    day: date
    came: Mapping[str, float | None]
    candidate: Mapping[str, Any] | None
    compared: tuple[Compared, ...]
    amounts: Mapping[str, Decimal | None]  # of money: exact


def of(quote: Quote) -> list[Outcome]:
    """Newest day first."""
    found: list[Outcome] = []
    for endpoint in quote.endpoints.filter(deleted_at=None).order_by("id"):
        found += outcomes(endpoint, quote)
    return sorted(found, key=lambda one: (one.day, one.endpoint.id), reverse=True)


def outcomes(endpoint: Endpoint, quote: Quote) -> list[Outcome]:
    candidate = quoted_as(endpoint, quote)
    rows = ServedDay.objects.filter(endpoint=endpoint).order_by("-day")[:DAYS]
    return [_outcome(endpoint, row.day, row.figures, candidate) for row in rows]


def _outcome(
    endpoint: Endpoint,
    day: date,
    figures: Mapping[str, Any],
    candidate: Mapping[str, Any] | None,
) -> Outcome:
    compared = _beside(candidate, figures)
    return Outcome(endpoint, day, came(figures), candidate, compared, money(figures))


def quoted_as(endpoint: Endpoint, quote: Quote) -> Mapping[str, Any] | None:
    """The candidate that stands on the same devices in the same way."""
    for candidate in quote.answer["candidates"]:
        said = candidate["endpoint"]
        same = (
            said["device_kind"] == endpoint.device_kind
            and said["device_count"] == endpoint.device_count
            and said["node_count"] == endpoint.node_count
            and said["engine_args"].get("quantization") == endpoint.engine_args.get("quantization")
        )
        if same:
            return dict(candidate)
    return None


def came(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """Means of the day; a rate is over the time in which it served."""
    requests, served_s = figures["requests"], figures["served_s"]
    return {
        "requests": requests,
        "requests_per_second": round(requests / served_s, 4) if served_s else None,
        "prompt_tokens": round(figures["input_tokens"] / requests, 1),
        "output_tokens": round(figures["output_tokens"] / requests, 1),
        "cached_share": round(figures["cached_tokens"] / max(1, figures["input_tokens"]), 3),
    }


def _beside(
    candidate: Mapping[str, Any] | None, figures: Mapping[str, Any]
) -> tuple[Compared, ...]:
    if candidate is None:
        return ()
    return corrections.beside(dict(_predicted(candidate)), dict(_measured(figures)))


def _predicted(candidate: Mapping[str, Any]) -> Iterator[tuple[str, Estimate]]:
    for name in ("ttft", "tpot"):
        if pair := candidate.get(f"{name}_s"):
            yield f"{name}_p50_s", Estimate(pair["p50"], pair["p95"])
            yield f"{name}_p95_s", Estimate.exact(pair["p95"])
    if (most := candidate.get("output_tokens_per_second_at_most")) is not None:
        yield "output_tokens_per_second", Estimate(candidate["output_tokens_per_second"], most)
    for tier, pair in candidate["starts_s"].items():
        yield f"start_{tier}_s", Estimate(pair["p50"], pair["p95"])
    for name, amount in candidate["price"].items():
        if name in ("hour", "million_tokens") and amount is not None:
            yield f"price_{name}", Estimate.exact(float(amount))


def _measured(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("ttft", "tpot"):
        if pair := figures[f"{name}_s"]:
            yield f"{name}_p50_s", pair["p50"]
            yield f"{name}_p95_s", pair["p95"]
    if figures["served_s"]:
        rate = figures["output_tokens"] / figures["served_s"]
        yield "output_tokens_per_second", round(rate, 2)
    for tier, pair in figures["starts_s"].items():
        yield f"start_{tier}_s", pair["p50"]
    for name, amount in money(figures).items():
        if amount is not None:
            yield f"price_{name}", float(amount)


def money(figures: Mapping[str, Any]) -> dict[str, Decimal | None]:
    """Of an hour in which it served, and of a million tokens read and written: each exact until it
    is rounded, once."""
    if figures["cost"] is None:
        return {"hour": None, "million_tokens": None}
    cost = Fraction(figures["cost"])
    tokens = figures["input_tokens"] + figures["output_tokens"]
    served_s = figures["served_s"]
    return {
        "hour": rounded(cost * HOUR_S / served_s, MONEY_PLACES) if served_s else None,
        "million_tokens": rounded(cost * MILLION / tokens, MONEY_PLACES) if tokens else None,
    }


def facts(outcome: Outcome) -> dict[str, Any]:
    """As JSON: an amount of money is text on both sides."""
    candidate = outcome.candidate
    return {
        "endpoint": outcome.endpoint.id,
        "day": outcome.day.isoformat(),
        "came": outcome.came,
        "quoted_as": None if candidate is None else _way(candidate),
        "figures": [_told(one, outcome) for one in outcome.compared],
    }


def _way(candidate: Mapping[str, Any]) -> dict[str, Any]:
    names = ("device_kind", "devices", "tensor_parallel_size", "pipeline_parallel_size")
    return {name: candidate[name] for name in (*names, "replicas", "quantization")}


def _told(one: Compared, outcome: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = {
        "figure": one.figure,
        "predicted": one.predicted,
        "predicted_p95": one.predicted_p95,
        "measured": one.measured,
        "off": round(one.off, 4),
        "kept": one.kept,
    }
    name = one.figure.removeprefix("price_")
    if name in outcome.amounts and outcome.candidate is not None:
        amount = outcome.candidate["price"][name]
        told |= {"predicted": amount, "predicted_p95": amount}
        told |= {"measured": f"{outcome.amounts[name]:f}"}
    return told
