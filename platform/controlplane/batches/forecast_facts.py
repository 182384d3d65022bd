"""What is kept and shown of a batch's forecast, as JSON has it. Pure.

Durations are seconds of an engine's time, money is text, `p95` is what 95 of
100 such batches do not exceed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from controlplane.batches.spans import Work
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.quote_bodies import pair
from controlplane.placement.speed.corrections import Corrected
from controlplane.placement.speed.forecasts import Runtime


@dataclass(frozen=True)
class Cost:
    """`by`: what is paid for, `device_seconds` or `tokens`."""

    currency: str
    by: str
    p50: Decimal
    p95: Decimal

    @property
    def facts(self) -> dict[str, str]:
        return {
            "currency": self.currency,
            "by": self.by,
            "p50": f"{self.p50:f}",
            "p95": f"{self.p95:f}",
        }


def missing(why: str) -> dict[str, Any]:
    """Of a prediction that cannot be made."""
    return {"missing": why}


def predicted(
    runtime: Runtime, tokens: tuple[float, float], devices: int, cost: Cost | None
) -> dict[str, Any]:
    """`tokens`: of all prompts, estimated, and of answers as long as they may get."""
    return {
        "runtime_s": pair(runtime.seconds, 1),
        "tokens_per_second": round(runtime.tokens_s, 1),
        "prompt_tokens": round(tokens[0]),
        "output_tokens": round(tokens[1]),
        "devices": devices,
        "cost": _money(cost),
    }


def canary(
    done: Work, seconds: Estimate, corrected: Corrected | None, devices: int, cost: Cost | None
) -> dict[str, Any]:
    """`runtime_s` and `cost` are of the whole batch, as it now looks. `slower` and `move` (more
    than a quarter off: another device may be better) are null where nothing was predicted to
    compare it with."""
    return {
        "seconds": round(done.seconds, 3),
        "requests": done.requests,
        "prompt_tokens": round(done.prompt),
        "output_tokens": round(done.output),
        "runtime_s": pair(seconds, 1),
        "slower": None if corrected is None else round(corrected.slower, 3),
        "move": None if corrected is None else corrected.move,
        "devices": devices,
        "cost": _money(cost),
    }


def actual(done: Work, cost: Cost | None) -> dict[str, Any]:
    money = _money(cost)
    return {
        "runtime_s": round(done.seconds, 3),
        "requests": done.requests,
        "prompt_tokens": round(done.prompt),
        "output_tokens": round(done.output),
        "cost": None if money is None else {k: v for k, v in money.items() if k != "p95"},
    }


def whole(parts: Iterable[Mapping[str, Any]], requests: int) -> dict[str, Any]:
    """Of a batch of so many requests, from its parts: each has `requests`, `predicted`, `canary`
    and `actual`. Models are run beside each other, so the longest decides, and costs add up. What
    is not known of one of them is not known of the whole."""
    listed = list(parts)
    latest = [each["canary"] or each["predicted"] or {} for each in listed]
    complete = sum(each["requests"] for each in listed) == requests
    spans = [each.get("runtime_s") for each in latest]
    known = complete and bool(spans) and all(spans)
    return {
        "runtime_s": _longest(spans) if known else None,
        "cost": _sum([each.get("cost") for each in latest]) if known else None,
        "move": any(each.get("move") for each in latest),
        "models": listed,
    }


def _longest(spans: list[Any]) -> dict[str, float]:
    return {name: max(each[name] for each in spans) for name in ("p50", "p95")}


def _sum(costs: list[Any]) -> dict[str, str] | None:
    if not all(costs) or len({each["currency"] for each in costs}) != 1:
        return None
    total = {
        name: f"{sum((Decimal(each[name]) for each in costs), Decimal(0)):f}"
        for name in ("p50", "p95")
    }
    return {"currency": costs[0]["currency"], **total}


def _money(cost: Cost | None) -> dict[str, str] | None:
    return None if cost is None else cost.facts
