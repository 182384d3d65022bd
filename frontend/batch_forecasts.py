"""A batch's forecast in words: predicted, after its first minute of work, and what it took."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frontend.templatetags.console import duration, money


@dataclass(frozen=True)
class Part:
    """Of its requests for one model; empty: not said (yet)."""

    model: str
    requests: int
    predicted: str
    missing: str
    canary: str
    advice: str
    actual: str


@dataclass(frozen=True)
class Told:
    parts: tuple[Part, ...]
    others: bool  # it has requests for models that nothing is said of


def told(forecast: Mapping[str, Any] | None, total: int) -> Told | None:
    if forecast is None or not forecast["models"]:
        return None
    parts = tuple(_part(each) for each in forecast["models"])
    return Told(parts, sum(each.requests for each in parts) < total)


def _part(said: Mapping[str, Any]) -> Part:
    predicted, canary = said["predicted"] or {}, said["canary"] or {}
    return Part(
        model=said["model"],
        requests=said["requests"],
        predicted=_span(predicted),
        missing=predicted.get("missing", ""),
        canary=_span(canary),
        advice=_advice(canary),
        actual=_took(said["actual"]),
    )


def _span(said: Mapping[str, Any]) -> str:
    if "runtime_s" not in said:
        return ""
    times = said["runtime_s"]
    text = f"{duration(times['p50'])}, at most {duration(times['p95'])}"
    cost = said["cost"]
    if cost is None:
        return text
    return f"{text}; {_money(cost, 'p50')}, at most {_money(cost, 'p95')}"


def _advice(canary: Mapping[str, Any]) -> str:
    if canary.get("slower") is None:
        return ""
    times = f"{canary['slower']:.2f} times as long as predicted"
    return f"{times}: another device may be better" if canary["move"] else times


def _took(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return ""
    text = duration(said["runtime_s"])
    return text if said["cost"] is None else f"{text}; {_money(said['cost'], 'p50')}"


def _money(cost: Mapping[str, str], which: str) -> str:
    return str(money(cost[which], cost["currency"]))
