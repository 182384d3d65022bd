"""What keep-alive costs beside the optimum of somebody who knows every gap, on recorded traffic.

The policy is the product's (`controlplane.scaling`), told nothing but gaps that are over. J is
idle GPU-seconds + starts * L + lambda * all waits; seconds in which something runs are left out.
The optimum without pre-warming is the sum of min(gap, (1 + lambda) * L) over the gaps of an
endpoint that is always hot. `known` and `bounded` are what the best constant time-out costs on
those gaps, chosen in hindsight: any, or one within the policy's bounds of [C/2, 2C]. At the end
twenty workers fan out from zero over the replicas of one endpoint, declared and not.
"""

import argparse
import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from controlplane.scaling.decide import Wish
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.keepalive import EARLIEST, LATEST
from controlplane.scaling.policy import AUTOMATIC, KeepAlive, Policy
from tests.benchmarks.scaling import traces
from tests.benchmarks.scaling.fanout import BURST, twenty
from tests.benchmarks.scaling.simulate import Outcome, play_all
from tests.benchmarks.scaling.traces import Tenant
from tests.figures import figure

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT.parent / "shared/data/traces/azure_llm_2023_conv.csv"

STARTS_S = (3.0, 18.0)  # L
WAIT_VALUES = (1.0, 4.0)  # lambda
SEEDS = 5
FIXED_S = {"fixed_1m": 60.0, "fixed_5m": 300.0, "fixed_15m": 900.0, "fixed_60m": 3600.0}
KNATIVE_S = 60.0 + 30.0  # the stable window has emptied, and the grace has passed
OURS = "stoa"
FROM_ZERO = Wish(max_replicas=10, policy=AUTOMATIC)
BURSTS = {"undeclared": FROM_ZERO, "declared": replace(FROM_ZERO, bursts=[BURST])}


class Fixed:
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def timeout_s(self) -> float:
        return self._timeout_s

    def ended(self, gap_s: float) -> None:
        pass


class Ours:
    """The product's `automatic`, with hot and off as its tiers."""

    def __init__(self, start_s: float, wait_value: float) -> None:
        self._policy = Policy(KeepAlive.AUTOMATIC, wait_value=wait_value)
        self._tiers = self._policy.tiers(start_s)
        self._history = GapHistory()

    def timeout_s(self) -> float:
        return self._policy.steps(self._tiers, self._history)[-1].after_s

    def ended(self, gap_s: float) -> None:
        self._history.add(gap_s)


# --- one trace ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """One trace at one L and lambda: J by policy, all seeds together and the worst of them."""

    trace: str
    start_s: float
    wait_value: float
    optimum: float
    costs: dict[str, float]
    worst: float  # our ratio to the optimum, of the worst seed
    outcomes: dict[str, Outcome]
    known: float
    bounded: float

    @property
    def name(self) -> str:
        return f"{self.trace}/L{self.start_s:.0f}/lambda{self.wait_value:.0f}"

    @property
    def ratio(self) -> float:
        return self.costs[OURS] / self.optimum

    @property
    def best_fixed(self) -> str:
        return min(FIXED_S, key=self.costs.__getitem__)

    def to(self, other: str) -> float:
        return self.costs[OURS] / self.costs[other]


def study(trace: str, seeds: Sequence[Sequence[Tenant]]) -> Iterator[Case]:
    hot = [play_all(tenants, partial(Fixed, float("inf")), 0.0) for tenants in seeds]
    for start_s in STARTS_S:
        others = {
            name: [play_all(tenants, partial(Fixed, t), start_s) for tenants in seeds]
            for name, t in {**FIXED_S, "knative_like": KNATIVE_S}.items()
        }
        for wait_value in WAIT_VALUES:
            even_s = (1 + wait_value) * start_s
            automatic = partial(Ours, start_s, wait_value)
            ours = [play_all(tenants, automatic, start_s) for tenants in seeds]
            best = [sum(min(gap, even_s) for gap in one.gaps) for one in hot]
            costs = {
                name: [one.cost(start_s, wait_value) for one in outcomes]
                for name, outcomes in {OURS: ours, **others}.items()
            }
            gaps = sorted(itertools.chain.from_iterable(one.gaps for one in hot))
            yield Case(
                trace,
                start_s,
                wait_value,
                sum(best),
                {name: sum(values) for name, values in costs.items()},
                max(mine / least for mine, least in zip(costs[OURS], best, strict=True)),
                {name: together(outcomes) for name, outcomes in {OURS: ours, **others}.items()},
                cheapest(gaps, even_s, 0.0, float("inf")),
                cheapest(gaps, even_s, EARLIEST * even_s, LATEST * even_s),
            )


def together(outcomes: Iterable[Outcome]) -> Outcome:
    whole = Outcome()
    for one in outcomes:
        whole.add(one)
    return whole


def cheapest(gaps: Sequence[float], even_s: float, low_s: float, high_s: float) -> float:
    """What the best constant time-out in those bounds costs on these gaps (ascending)."""
    total = [0.0, *itertools.accumulate(gaps)]
    inside = gaps[bisect.bisect_left(gaps, low_s) : bisect.bisect_right(gaps, high_s)]

    def cost(timeout_s: float) -> float:
        ended = bisect.bisect_right(gaps, timeout_s)
        return total[ended] + (len(gaps) - ended) * (timeout_s + even_s)

    return min(cost(timeout_s) for timeout_s in (low_s, *inside))


# --- the report -----------------------------------------------------------------------------
def missed(case: Case) -> Iterator[str]:
    """Each aim that the case is beyond, with both figures."""
    tight = case.start_s == 18 and case.wait_value == 4
    aims = {"the optimum": (case.ratio, 1.5 if tight else 1.65)}
    aims[f"the best fixed ({case.best_fixed})"] = (case.to(case.best_fixed), 1.15)
    if case.trace in ("a", "b"):
        aims["five minutes"] = (case.to("fixed_5m"), 0.6)
    for what, (found, aim) in aims.items():
        if found > aim + 1e-9:
            yield f"{case.name}: {found:.3f} of {what}, aim {aim}"


def show(case: Case) -> None:
    fixed = " ".join(f"{case.costs[name] / case.optimum:6.2f}" for name in FIXED_S)
    knative = case.costs["knative_like"] / case.optimum
    mine = case.outcomes[OURS]
    print(
        f"{case.name:24} {case.ratio:6.3f} {case.worst:6.3f} {fixed} {knative:7.2f}"
        f" {case.known / case.optimum:6.3f} {case.bounded / case.optimum:7.3f}"
        f" {case.to(case.best_fixed):6.2f} {case.to('fixed_5m'):5.2f}"
        f" {mine.cold_share:6.1%} {mine.wait_s(0.99):6.2f}",
        flush=True,
    )


HEAD = (
    f"{'J / optimum':24} {'stoa':>6} {'worst':>6} {'1 min':>6} {'5':>6} {'15':>6} {'60':>6}"
    f" {'knative':>7} {'known':>6} {'bounded':>7} {'/best':>6} {'/5':>5} {'cold':>6} {'p99 s':>6}"
)


def waits(cases: Iterable[Case]) -> None:
    """Cold share and p99 wait by policy; those of the fixed ones do not depend on lambda."""
    print(f"\n{'cold share, p99 wait in s':24}", *(f"{name:>14}" for name in (OURS, *FIXED_S)))
    for case in cases:
        said = (case.outcomes[name] for name in (OURS, *FIXED_S))
        print(
            f"{case.name:24}",
            *(f"{one.cold_share:7.1%} {one.wait_s(0.99):6.2f}" for one in said),
        )


def figures(case: Case) -> None:
    for name, cost in case.costs.items():
        figure(
            "autoscale.cost",
            cost,
            "GPU-s",
            vs="offline_optimum",
            than=case.optimum,
            case=case.name,
            policy=name,
        )
    for name, outcome in case.outcomes.items():
        figure("autoscale.wait_p99_s", outcome.wait_s(0.99), "s", case=case.name, policy=name)
        figure("autoscale.cold_share", outcome.cold_share, "share", case=case.name, policy=name)


def sources(path: Path) -> dict[str, Callable[[int], list[Tenant]]]:
    """Each trace by its letter, made anew from a seed. Without the file the synthetic ones."""
    made: dict[str, Callable[[int], list[Tenant]]] = {}
    if path.is_file():
        arrivals = traces.read(path)
        print(f"{len(arrivals)} arrivals of {path.name}")
        made["a"] = lambda seed: traces.agents(arrivals, 1 / 400, 20, seed)
        made["b"] = lambda seed: traces.agents(arrivals, 1 / 100, 20, seed)
        made["c"] = lambda seed: traces.thinned(arrivals, 1 / 100, seed)
    else:
        print(
            f"no trace at {path}: only synthetic traffic is played. Pass one with"
            ' ARGS="--trace FILE"; its columns are TIMESTAMP, ContextTokens, GeneratedTokens.'
        )
    for name, draw in traces.SYNTHETIC.items():
        made[name] = partial(traces.synthetic, draw)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE, help="CSV, as Azure's LLM traces")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    made = sources(arguments.trace)
    print(f"{arguments.seeds} seeds; {traces.TENANTS} tenants in a, b and c\n\n{HEAD}", flush=True)
    cases = []
    for trace, make in made.items():
        for case in study(trace, [make(seed) for seed in range(arguments.seeds)]):
            cases.append(case)
            show(case)
    waits(cases)
    beyond = [line for case in cases for line in missed(case)]
    print("\nbeyond the aim: " + ("\n  ".join(["", *beyond]) if beyond else "nothing") + "\n")
    bursts = {name: twenty(wish) for name, wish in BURSTS.items()}
    for name, played in bursts.items():
        print(
            f"20 workers from zero, {name}: longest wait {max(played.waits):.1f} s, up to"
            f" {max(count for _, count in played.changes)} replicas"
        )
    for case in cases:
        figures(case)
    for name, played in bursts.items():
        figure("autoscale.burst20_max_wait_s", max(played.waits), "s", case=name, policy=OURS)


if __name__ == "__main__":
    main()
