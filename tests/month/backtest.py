"""How often a month ended within the range that was foretold for it, on days 5, 10 and 20.

    python -m tests.month.backtest --companies 300 --pods openb_pods_default.csv

Two kinds of traffic: companies with bursts on working days (with four weeks of history or none),
and, where the public trace of a GPU cluster is at hand, its pods dealt out to tenants: one month of
fast growth, the same for all of them.
"""

import argparse
import csv
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django

from billing.pricing.charges import Used
from billing.rating import PriceVersion
from billing.reports import forecast
from tests.benchmarks.books.stand import standing
from tests.benchmarks.peers.arithmetic import table

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
DAYS = (5, 10, 20)
_PRICE = PriceVersion(
    "prc_1", "device_seconds", Decimal(1), START - 99 * DAY, "gpu", "EUR", None, ""
)
_WARM_S = 900  # a burst's endpoint waits so long for the next
_FIRST = 118 * DAY  # of the trace: before it, next to nothing runs


@dataclass(frozen=True)
class Held:
    """Of `months` months: how many ended within, below and above the range; `width`: the median of
    the range's, as a part of what the month came to."""

    months: int
    within: int
    below: int
    above: int
    width: float

    @property
    def share(self) -> float:
        return self.within / self.months


def of(months: Iterable[Sequence[Used]], day: int) -> Held:
    """`months`: the usage of one account each, from before START to END."""
    now, found, widths = START + day * DAY, [0, 0, 0], []
    since = min(START, now - forecast.LOOK_BACK)
    for used in months:
        came_to = sum(one.quantity for one in used if one.at >= START) / 3600
        if came_to < 1:
            continue
        made = forecast.to_month_end(
            (one for one in used if since <= one.at < now),
            [_PRICE],
            account_id="acc_1",
            currency="EUR",
            start=START,
            end=END,
            now=now,
        )
        low, high = float(made.low), float(made.high)
        found[0 if came_to < low - 0.01 else 2 if came_to > high + 0.01 else 1] += 1
        widths.append((high - low) / came_to)
    below, within, above = found
    return Held(sum(found), within, below, above, statistics.median(widths))


def companies(count: int, seed: int, history: int = 28) -> Iterator[list[Used]]:
    """From `history` days before the month on. Django is ready."""
    luck = random.Random(seed)
    for _ in range(count):
        endpoints = [
            SimpleNamespace(id=f"ep_{n}", project_id="p") for n in range(luck.choice((1, 2, 3)))
        ]
        mine, hours = random.Random(luck.randrange(10**9)), defaultdict[Any, int](int)
        for endpoint in endpoints:
            devices = mine.choice((1, 1, 2, 8))
            for start, length in _bursts(mine):
                if start >= START - history * DAY:
                    for hour, seconds in _hours(start, length):
                        hours[endpoint.id, hour] += seconds * devices
        yield [_used(at, seconds, endpoint) for (endpoint, at), seconds in hours.items()]


def _bursts(luck: random.Random) -> Iterator[tuple[datetime, int]]:
    """When an endpoint serves, and for how many seconds, from four weeks before the month on."""
    for ahead in range((END - START) // DAY + 28):
        day = START + (ahead - 28) * DAY
        at = day + timedelta(hours=6, seconds=luck.randrange(3 * 3600))
        many = luck.choice((0, 1, 1, 2)) if day.weekday() < 5 else luck.choice((0, 0, 0, 1))
        for _ in range(many):
            busy_s, asleep_s = luck.randrange(240, 3000), luck.choice((0, 0, 1800))
            yield at, busy_s + _WARM_S
            gap_s = luck.randrange(600, 4 * 3600)
            at += timedelta(seconds=busy_s + _WARM_S + asleep_s + gap_s)


def tenants(pods: Path, count: int, seed: int) -> list[list[Used]]:
    """The trace's pods, dealt out unevenly; its day 118 is the month's first."""
    luck = random.Random(seed)
    weights = [luck.paretovariate(1.2) for _ in range(count)]
    hours: list[defaultdict[datetime, int]] = [defaultdict(int) for _ in range(count)]
    with pods.open(newline="") as lines:
        for row in csv.DictReader(lines):
            milli = int(row["num_gpu"] or 0) * int(row["gpu_milli"] or 0)
            if not (milli and row["scheduled_time"] and row["deletion_time"]):
                continue
            since, until = (
                START - _FIRST + timedelta(seconds=float(row[name]))
                for name in ("scheduled_time", "deletion_time")
            )
            mine = hours[luck.choices(range(count), weights)[0]]
            start, end = max(since, START), min(until, END)
            for hour, seconds in _hours(start, int((end - start).total_seconds())):
                mine[hour] += seconds * milli // 1000
    return [[_used(at, seconds, "ep_1") for at, seconds in one.items() if seconds] for one in hours]


def _hours(start: datetime, seconds: int) -> Iterator[tuple[datetime, int]]:
    """So many seconds from `start` on, by the hours that they are in."""
    at = start
    while seconds > 0:
        hour = at.replace(minute=0, second=0, microsecond=0)
        spent = min(seconds, int((hour + HOUR - at).total_seconds()) or 1)
        yield hour, spent
        at, seconds = at + timedelta(seconds=spent), seconds - spent


def _used(at: datetime, seconds: int, endpoint: str) -> Used:
    return Used("prj_1", endpoint, "device_seconds", "gpu", 1000, "charge", at, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--companies", type=int, default=300)
    parser.add_argument("--pods", type=Path)
    asked = parser.parse_args()
    with standing():
        django.setup()
        sources = {
            "four weeks of history": list(companies(asked.companies, 1)),
            "a new customer": list(companies(asked.companies, 2, history=0)),
        }
    if asked.pods:
        sources["a cluster that grows"] = tenants(asked.pods, 60, 3)
    rows = []
    for name, months in sources.items():
        for day in DAYS:
            held = of(months, day)
            shares = [f"{n / held.months:.0%}" for n in (held.within, held.below, held.above)]
            rows.append([name, str(day), str(held.months), *shares, f"{held.width:.2f}"])
    print(table(["traffic", "day", "months", "within", "below", "above", "width"], rows))


if __name__ == "__main__":
    main()
