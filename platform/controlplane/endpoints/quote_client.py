"""`stoa predict MODEL --load … | --job …`: on what, how fast, for how much. From files alone.

Prices are those that are given: `--price h100=3.20` in EUR for a device-hour; what has a price is
offered, and what --gpu names. Lists are NAME=NUMBER, with commas between.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from billing.rating import PriceVersion
from controlplane.placement import costs, devices, offers, quote_bodies, quotes
from controlplane.placement.devices import Device
from controlplane.placement.memory.predict import Question
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import refining
from controlplane.placement.speed.corrections import Canary
from controlplane.placement.speed.engines import Learned
from controlplane.placement.speed.load import Job

LOAD = {
    "rate": "requests_per_second",
    "prompt": "prompt_tokens",
    "output": "output_tokens",
    "cached": "cached_share",
    "spread": "spread",
}
JOB = {"requests": "requests", "deadline": "deadline_s"} | {
    name: field for name, field in LOAD.items() if name != "rate"
}
SLO = {"ttft": "ttft_p95_s", "tpot": "tpot_p95_s"}
CANARY = {"seconds": "seconds", "tokens": "tokens", "requests": "requests"}
SHOWN = 12  # of the reasons why others lost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load", help="rate=5,prompt=1000,output=250[,cached=0.4][,spread=0.85]")
    parser.add_argument("--job", help="requests=10000,prompt=1000,output=250[,deadline=3600]")
    parser.add_argument("--slo", help="ttft=1,tpot=0.05: seconds at p95")
    parser.add_argument("--price", action="append", default=[], metavar="GPU=EUR", help="an hour")
    parser.add_argument("--allow", action="append", default=[], help="quantization: fp8, …")
    parser.add_argument("--canary", help="seconds=60,tokens=90000,requests=40: of a running job")


@dataclass(frozen=True)
class Told:
    """`fits` is whether any way keeps the SLO."""

    facts: dict[str, Any]
    fits: bool


def told(asked: Question, name: str, chosen: argparse.Namespace) -> Told:
    """Raises `Refusal` with what is missing or cannot be read."""
    body: dict[str, Any] = {}
    if chosen.load:
        body["load"] = _named("--load", chosen.load, LOAD)
    if chosen.job:
        body["job"] = _named("--job", chosen.job, JOB)
    if chosen.slo:
        body["slo"] = _named("--slo", chosen.slo, SLO)
    try:
        demand, slo = quote_bodies.demand(body), quote_bodies.slo(body)
    except quote_bodies.BadBody as bad:
        raise Refusal(f"another {bad.field}: {bad.message}") from None
    ask = offers.Ask(
        question=asked,
        name=name,
        demand=demand,
        offers=_offers(chosen.price, chosen.gpu),
        slo=slo,
        quantizations=(offers.AS_IT_IS, *chosen.allow),
        learned=Learned({}, refining.installed()),
    )
    found = quotes.quote(ask)
    facts = quote_bodies.answer(found)
    if chosen.canary:
        facts["canary"] = _canary(found, demand, chosen.canary)
    return Told(facts, found.best is not None)


def _named(flag: str, text: str, fields: Mapping[str, str]) -> dict[str, float]:
    """`rate=5,prompt=1000` by the fields' own names."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in fields:
            raise Refusal(f"{flag} with {', '.join(f'{each}=…' for each in fields)}, not {part!r}")
        try:
            found[fields[name.strip()]] = float(value)
        except ValueError:
            raise Refusal(f"a number for {name} in {flag}, not {value!r}") from None
    return found


def _offers(prices: Sequence[str], gpu: str | None) -> list[offers.Offer]:
    offered: dict[str, offers.Offer] = {}
    for each in prices:
        name, _, amount = each.partition("=")
        device = devices.find(name)
        offered[device.name] = offers.Offer(device, _price(device, amount))
    for name in gpu.split(",") if gpu else ():
        device = devices.find(name)
        offered.setdefault(device.name, offers.Offer(device, None))
    if not offered:
        known: list[Device] = [each for each in devices.known().values() if each.throughput]
        return [offers.Offer(each, None) for each in known]
    return list(offered.values())


def _price(device: Device, amount: str) -> PriceVersion:
    try:
        return PriceVersion(
            "", "device_seconds", Decimal(amount), datetime.min.replace(tzinfo=UTC), device.name
        )
    except (InvalidOperation, TypeError):
        raise Refusal(f"a price in EUR for {device.name}, not {amount!r}") from None


def _canary(found: offers.Quote, demand: object, text: str) -> dict[str, Any]:
    stated = _named("--canary", text, CANARY)
    if not isinstance(demand, Job) or found.best is None or found.best.runtime is None:
        raise Refusal("a --job that some device can do, for a --canary")
    if missing := [name for name in CANARY if name not in stated]:
        raise Refusal(f"{', '.join(missing)} of the --canary")
    predicted = found.best.runtime.canary_tokens
    canary = Canary(stated["seconds"], stated["tokens"], predicted, int(stated["requests"]))
    try:
        seconds, cost, corrected = costs.after_canary(found.best, demand, canary)
    except ValueError as why:
        raise Refusal(str(why)) from None
    return {
        "runtime_s": quote_bodies.pair(seconds, 1),
        "cost": None if cost is None else f"{cost:f}",
        "slower": round(corrected.slower, 3),
        "move": corrected.move,
    }


def text(facts: Mapping[str, Any]) -> str:
    """A table, best first, and why the others lost."""
    if not facts["candidates"]:
        lines = ["nothing keeps it:"]
    elif "runtime_s" in facts["candidates"][0]:
        lines = _jobs(facts["candidates"])
    else:
        lines = _loads(facts["candidates"])
    if facts["candidates"]:
        starts = facts["candidates"][0]["starts_s"]
        said = ", ".join(
            f"{tier} {each['p50']:.0f}-{each['p95']:.0f} s" for tier, each in starts.items()
        )
        lines += [f"a start of the first: {said}", ""]
    if canary := facts.get("canary"):
        span = canary["runtime_s"]
        moved = "; better moved to another device" if canary["move"] else ""
        lines += [
            f"by its canary the job takes {span['p50']:,.0f} to {span['p95']:,.0f} s and costs "
            f"{canary['cost'] or '?'}: {canary['slower']} times as long as predicted{moved}",
            "",
        ]
    rejected = facts["rejected"]
    for each in rejected[:SHOWN]:
        lines.append(f"not {_way(each)}: {each['reason']}")
    if len(rejected) > SHOWN:
        lines.append(f"and {len(rejected) - SHOWN} more (--json)")
    return "\n".join(lines)


def _way(each: Mapping[str, Any]) -> str:
    parts = [each["device"]]
    if each["tensor_parallel_size"]:
        parts.append(f"TP{each['tensor_parallel_size']}")
    if (each["pipeline_parallel_size"] or 1) > 1:
        parts.append(f"PP{each['pipeline_parallel_size']}")
    if (each["data_parallel_size"] or 1) > 1:
        parts.append(f"DP{each['data_parallel_size']}")
    if each["quantization"]:
        parts.append(each["quantization"])
    return " ".join(parts)


def _loads(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{'':26}{'replicas':>9}{'seqs':>6}{'first token, ms':>18}{'token, ms':>14}"
        f"{'tokens/s':>10}{'most':>9}{'EUR/h':>10}{'EUR/M':>9}{'EUR/M out':>11}"
    ]
    for each in candidates:
        price = each["price"]
        lines.append(
            f"{_way(each):26}{each['replicas']:>9}{each['max_num_seqs']:>6}"
            f"{_span(each['ttft_s'], 0):>18}{_span(each['tpot_s'], 1):>14}"
            f"{each['output_tokens_per_second']:>10,.0f}"
            f"{each['output_tokens_per_second_at_most']:>9,.0f}"
            f"{price['hour'] or '-':>10}{price['million_tokens'] or '-':>9}"
            f"{price['million_output_tokens'] or '-':>11}"
        )
    return lines


def _span(each: Mapping[str, float], places: int) -> str:
    return f"{1000 * each['p50']:,.{places}f} - {1000 * each['p95']:,.{places}f}"


def _jobs(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{'':26}{'replicas':>9}{'seqs':>6}{'runtime, s':>20}{'tokens/s':>11}"
        f"{'EUR/h':>10}{'EUR':>11}{'at p95':>11}"
    ]
    for each in candidates:
        price, span = each["price"], each["runtime_s"]
        lines.append(
            f"{_way(each):26}{each['replicas']:>9}{each['max_num_seqs']:>6}"
            f"{span['p50']:>11,.0f} -{span['p95']:>7,.0f}{each['tokens_per_second']:>11,.0f}"
            f"{price['hour'] or '-':>10}{price['job'] or '-':>11}{price['job_p95'] or '-':>11}"
        )
    return lines
