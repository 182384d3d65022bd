"""Traffic of tenants: recorded arrivals made sparse, and synthetic gaps. Everything is seeded.

A *session* is an agent's: each of its turns follows the answer to the one before after a gap, so
a wait delays the rest of the session and nobody asks twice.
"""

import csv
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

PREFILL_TPS = 8_000.0
DECODE_TPS = 40.0
TENANTS = 20
TURNS = 12  # on average
GAP_MEDIAN_S, GAP_SIGMA = 3.0, 1.0
SYNTHETIC_GAPS = 2_000
SYNTHETIC_SERVICE_S = 5.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """`service_s`: how long its answer takes where a replica is hot."""

    at: float
    service_s: float


@dataclass(frozen=True, slots=True)
class Session:
    """`gaps[n]`: seconds from the end of turn n to turn n + 1."""

    at: float
    service_s: Sequence[float]
    gaps: Sequence[float] = ()


Tenant = Sequence[Session]


def read(path: Path) -> list[Arrival]:
    """As the Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens.

    ValueError or KeyError if it is none.
    """
    with path.open(newline="") as lines:
        rows = [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:26]),
                int(row["ContextTokens"]) / PREFILL_TPS + int(row["GeneratedTokens"]) / DECODE_TPS,
            )
            for row in csv.DictReader(lines)
        ]
    first = min(at for at, _ in rows)
    return sorted(
        (Arrival((at - first).total_seconds(), service_s) for at, service_s in rows),
        key=lambda arrival: arrival.at,
    )


def thinned(arrivals: Iterable[Arrival], kept: float, seed: int) -> list[Tenant]:
    """For each tenant each arrival with that probability."""
    tenants: list[Tenant] = []
    for number in range(TENANTS):
        chance = random.Random(f"thinned {seed} {number}")
        tenants.append([Session(a.at, (a.service_s,)) for a in arrivals if chance.random() < kept])
    return tenants


def agents(arrivals: Iterable[Arrival], kept: float, slower: float, seed: int) -> list[Tenant]:
    """The same, `slower` times as far apart, each of them the first turn of an agent's session."""
    tenants: list[Tenant] = []
    for number, tenant in enumerate(thinned(arrivals, kept, seed)):
        chance = random.Random(f"agents {seed} {number}")
        expanded = []
        for one in tenant:
            turns = 1
            while chance.random() > 1 / TURNS:
                turns += 1
            gaps = [
                chance.lognormvariate(math.log(GAP_MEDIAN_S), GAP_SIGMA) for _ in range(turns - 1)
            ]
            expanded.append(Session(one.at * slower, [one.service_s[0]] * turns, gaps))
        tenants.append(expanded)
    return tenants


def synthetic(draw: Callable[[random.Random], float], seed: int) -> list[Tenant]:
    """One tenant whose gaps are drawn one by one."""
    chance = random.Random(f"synthetic {seed}")
    gaps = [max(0.05, draw(chance)) for _ in range(SYNTHETIC_GAPS)]
    return [[Session(0.0, [SYNTHETIC_SERVICE_S] * (len(gaps) + 1), gaps)]]


SYNTHETIC: dict[str, Callable[[random.Random], float]] = {
    "d_poisson": lambda chance: chance.expovariate(1 / 60),
    "d_timer": lambda chance: chance.gauss(600, 15),
    "d_heavy_tail": lambda chance: min(86_400.0, 2 * chance.paretovariate(0.9)),
}
