"""A quote's question and answer as JSON has them: `POST /api/v1/quotes` and `stoa predict`.

Durations end in `_s`, money is text (exact), devices are by id.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.offers import Candidate, Lost, Money, Quote, Slo
from controlplane.placement.speed.forecasts import Forecast, Runtime
from controlplane.placement.speed.load import SPREAD, Job, Load, Shape

SHAPE = ("prompt_tokens", "output_tokens", "cached_share", "spread")
LOAD = ("requests_per_second", *SHAPE)
JOB = ("requests", "deadline_s", *SHAPE)
SLO = ("ttft_p95_s", "tpot_p95_s")


class BadBody(ValueError):
    """`field` is where (`load.prompt_tokens`); the message is for a person."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def demand(body: Mapping[str, Any]) -> Load | Job:
    """Of exactly one of `load` and `job`. Raises `BadBody`."""
    if ("load" in body) == ("job" in body):
        raise BadBody("load", "one of load and job is asked for")
    name = "load" if "load" in body else "job"
    stated = body[name]
    if not isinstance(stated, Mapping):
        raise BadBody(name, "an object")
    _only(name, stated, LOAD if name == "load" else JOB)
    try:
        shape = _shape(name, stated)
        if name == "load":
            return Load(_number(name, stated, "requests_per_second"), shape)
        requests = _number(name, stated, "requests")
        if requests != int(requests):
            raise BadBody("job.requests", "a whole number")
        deadline = _number(name, stated, "deadline_s") if "deadline_s" in stated else None
        return Job(int(requests), shape, deadline)
    except BadBody:
        raise
    except ValueError as why:
        raise BadBody(name, str(why)) from None


def slo(body: Mapping[str, Any]) -> Slo:
    """Of `slo`, which may be left out. Raises `BadBody`."""
    stated = body.get("slo") or {}
    if not isinstance(stated, Mapping):
        raise BadBody("slo", "an object")
    _only("slo", stated, SLO)
    bounds = {name: _number("slo", stated, name) for name in SLO if stated.get(name) is not None}
    for name, bound in bounds.items():
        if bound <= 0:
            raise BadBody(f"slo.{name}", "more than 0 seconds")
    return Slo(bounds.get("ttft_p95_s"), bounds.get("tpot_p95_s"))


def _shape(name: str, stated: Mapping[str, Any]) -> Shape:
    def optional(key: str, default: float) -> float:
        return _number(name, stated, key) if key in stated else default

    return Shape(
        _number(name, stated, "prompt_tokens"),
        _number(name, stated, "output_tokens"),
        optional("cached_share", 0.0),
        optional("spread", SPREAD),
    )


def _only(name: str, stated: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in stated:
        if key not in known:
            raise BadBody(f"{name}.{key}", f"one of {', '.join(known)}")


def _number(name: str, stated: Mapping[str, Any], key: str) -> float:
    value = stated.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadBody(f"{name}.{key}", "a number")
    return value


def answer(quote: Quote) -> dict[str, Any]:
    return {
        "candidates": [_candidate(each) for each in quote.ranked],
        "rejected": [_lost(each) for each in quote.lost],
    }


def _candidate(found: Candidate) -> dict[str, Any]:
    told: dict[str, Any] = {
        "device": found.device,
        "device_kind": found.kind or found.device,
        "devices": found.devices,
        "tensor_parallel_size": found.tensor_parallel_size,
        "pipeline_parallel_size": found.pipeline_parallel_size,
        "data_parallel_size": found.data_parallel_size,
        "replicas": found.replicas,
        "quantization": found.quantization or None,
        "max_num_seqs": found.max_num_seqs,
        "max_model_len": found.max_model_len,
        "starts_s": {tier.value: pair(each, 1) for tier, each in found.starts.items()},
        "price": _money(found.money),
        "refined_by": found.refined_by or None,
    }
    if found.forecast is not None:
        told |= _forecast(found.forecast)
    if found.runtime is not None:
        told |= _runtime(found.runtime)
    return told


def _forecast(found: Forecast) -> dict[str, Any]:
    return {
        "ttft_s": pair(found.ttft_s, 4),
        "tpot_s": pair(found.tpot_s, 5),
        "e2e_s": pair(found.e2e_s, 3),
        "output_tokens_per_second": round(found.tokens_s, 1),
        "output_tokens_per_second_at_most": round(found.most_tokens_s, 1),
        "busy_share": round(found.busy, 3),
    }


def _runtime(found: Runtime) -> dict[str, Any]:
    return {
        "runtime_s": pair(found.seconds, 1),
        "tokens_per_second": round(found.tokens_s, 1),
        "tokens_in_canary": round(found.canary_tokens),
    }


def _money(money: Money) -> dict[str, str | None]:
    def text(amount: Decimal | None) -> str | None:
        return None if amount is None else f"{amount:f}"

    return {
        "currency": money.currency,
        "hour": text(money.hour),
        "million_tokens": text(money.million_tokens),
        "million_output_tokens": text(money.million_output_tokens),
        "job": text(money.job),
        "job_p95": text(money.job_p95),
    }


def _lost(each: Lost) -> dict[str, Any]:
    return {
        "device": each.device,
        "tensor_parallel_size": each.split.ranks or None,
        "pipeline_parallel_size": each.split.stages or None,
        "data_parallel_size": each.split.shares or None,
        "quantization": each.quantization or None,
        "reason": each.reason,
    }


def pair(estimate: Estimate, places: int) -> dict[str, float]:
    return {"p50": round(estimate.p50, places), "p95": round(estimate.p95, places)}
