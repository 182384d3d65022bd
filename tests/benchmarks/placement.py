"""How much GPU stays unallocated when a production cluster's pods are packed onto its nodes.

Replays the openb trace: GPU pods sampled with replacement, none leaves, until what was asked for
is 130 % of what there is; CPU, memory and gpu_milli are hard limits, a pod that finds no room is
dropped. `stoa` is the product's `choose`, with each answer's reasons read in full; the others are
the rules that packers commonly go by. Then so many decisions on so many of the nodes, timed.
"""

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, quantiles

from tests.benchmarks.packing.ours import Stoa
from tests.benchmarks.packing.replay import Outcome, Packer, play
from tests.benchmarks.packing.rules import RULES, AtRandom, ByRule
from tests.benchmarks.packing.trace import Machine, Pod, machines, pods
from tests.figures import figure

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT.parent / "shared/data/traces"
SEEDS = 10
DECISIONS = 10_000
NODES = 1_000
OURS = "stoa"
AIMS = {"best_fit": 0.85, "best_fit_gpu": 0.90}
P99_MS = 20.0


def packers(
    cluster: Sequence[Machine], asked: Sequence[Pod], seed: int
) -> dict[str, Callable[[], Packer]]:
    rules = {name: partial(ByRule, cluster, name) for name in RULES}
    return {OURS: lambda: Stoa(cluster, asked), **rules, "random": partial(AtRandom, cluster, seed)}


def one_seed(cluster: Sequence[Machine], asked: Sequence[Pod], seed: int) -> dict[str, Outcome]:
    made = packers(cluster, asked, seed)
    return {name: play(cluster, asked, seed, make()) for name, make in made.items()}


def replays(
    cluster: Sequence[Machine], asked: Sequence[Pod], seeds: int, at_once: int
) -> dict[str, list[Outcome]]:
    with ProcessPoolExecutor(at_once) as pool:
        each = pool.map(partial(one_seed, cluster, asked), range(1, seeds + 1))
        found: dict[str, list[Outcome]] = {}
        for seed, outcomes in enumerate(each, 1):
            said = "  ".join(f"{name} {one.unallocated_pct:.2f}" for name, one in outcomes.items())
            print(f"seed {seed:>2}, % unallocated: {said}", flush=True)
            for name, outcome in outcomes.items():
                found.setdefault(name, []).append(outcome)
    return found


def decisions(
    cluster: Sequence[Machine], asked: Sequence[Pod], count: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each decision, reasons read, by the clock and of the processor; a cluster
    that is full starts anew."""
    took: list[float] = []
    cpu: list[float] = []
    seed = 0
    while len(took) < count:
        seed += 1
        packer = Stoa(cluster, asked)
        gc.collect()
        play(cluster, asked, seed, packer)
        took += [1000 * one for one in packer.decide_s]
        cpu += [1000 * one for one in packer.cpu_s]
    return took[:count], cpu[:count]


def pick(cluster: Sequence[Machine], count: int) -> list[Machine]:
    """So many nodes, evenly of all; round again where there are fewer."""
    step = len(cluster) / count
    chosen = [cluster[int(n * step)] for n in range(count)]
    return [
        Machine(f"{one.name}.{n}", one.cpu_milli, one.memory_mib, one.gpus)
        for n, one in enumerate(chosen)
    ]


def show(found: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    means = {name: mean(one.unallocated_pct for one in each) for name, each in found.items()}
    print(f"\n{'':14}{'unallocated %':>14}{'first failure at %':>20}{'dropped':>9}{'of stoa':>9}")
    for name, each in found.items():
        first = mean(one.first_failure_pct for one in each)
        dropped = mean(one.dropped for one in each)
        ratio = means[OURS] / means[name] if means[name] else 1.0
        print(f"{name:14}{means[name]:>14.3f}{first:>20.2f}{dropped:>9.0f}{ratio:>9.3f}")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=Path, default=TRACES / "openb_nodes.csv")
    parser.add_argument("--pods", type=Path, default=TRACES / "openb_pods_default.csv")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--decisions", type=int, default=DECISIONS)
    parser.add_argument("--at-once", type=int, default=2, help="seeds replayed in parallel")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.decisions < 2 or arguments.at_once < 1:
        parser.error("at least one seed, two decisions, and one at once")
    cluster, asked = machines(arguments.nodes), pods(arguments.pods)
    gpus = sum(one.gpus for one in cluster)
    print(f"{len(cluster)} nodes, {gpus} GPUs; pods drawn from {len(asked)}", flush=True)
    began = time.perf_counter()
    took, cpu = decisions(pick(cluster, NODES), asked, arguments.decisions)
    p50, p99 = quantiles(took, n=100)[49], quantiles(took, n=100)[98]
    print(
        f"{len(took)} decisions on {NODES} nodes, reasons read: median {p50:.2f} ms,"
        f" p99 {p99:.2f} ms ({quantiles(cpu, n=100)[98]:.2f} ms of the processor),"
        f" longest {max(took):.2f} ms; {time.perf_counter() - began:.0f} s\n",
        flush=True,
    )
    found = replays(cluster, asked, arguments.seeds, arguments.at_once)
    means = show(found)
    missed = [
        f"{means[OURS] / means[name]:.3f} of {name}, not {most}"
        for name, most in AIMS.items()
        if means[OURS] > most * means[name]
    ]
    if p99 > P99_MS:
        missed.append(f"p99 {p99:.1f} ms, not {P99_MS:.0f}")
    print("\nbeyond the aim: " + ("; ".join(missed) or "nothing") + "\n")
    for name in [*RULES, "random"]:
        figure("placement.unallocated_pct", means[OURS], "%", vs=name, than=means[name])
    for name, each in found.items():
        first = mean(one.first_failure_pct for one in each)
        figure("placement.first_failure_pct", first, "%", policy=name)
    figure("placement.decide_p99_ms", p99, "ms")
    figure("placement.decide_cpu_p99_ms", quantiles(cpu, n=100)[98], "ms")


if __name__ == "__main__":
    main()
