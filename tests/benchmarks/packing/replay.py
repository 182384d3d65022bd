"""Pods come, one after the other, and none leaves, until more GPU was asked for than there is."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.benchmarks.packing.trace import Machine, Pod

DEMAND = 1.3  # of the capacity


class Packer(Protocol):
    """One way to choose. `place` takes what the pod needs, or says that it cannot."""

    def place(self, pod: Pod) -> bool: ...


@dataclass
class Outcome:
    """GPU in thousandths of one. `first_failure`: allocated when the first pod was dropped."""

    capacity: int
    allocated: int = 0
    first_failure: int | None = None
    placed: int = 0
    dropped: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def unallocated_pct(self) -> float:
        return 100 * (1 - self.allocated / self.capacity)

    @property
    def first_failure_pct(self) -> float:
        reached = self.allocated if self.first_failure is None else self.first_failure
        return 100 * reached / self.capacity


def arrivals(pods: Sequence[Pod], capacity: int, seed: int) -> Iterator[Pod]:
    """Sampled with replacement until the demand is reached."""
    draw, asked = random.Random(seed), 0
    while asked < DEMAND * capacity:
        pod = pods[draw.randrange(len(pods))]
        asked += pod.demand
        yield pod


def play(machines: Sequence[Machine], pods: Sequence[Pod], seed: int, packer: Packer) -> Outcome:
    outcome = Outcome(1000 * sum(one.gpus for one in machines))
    for pod in arrivals(pods, outcome.capacity, seed):
        began = time.perf_counter()
        placed = packer.place(pod)
        outcome.seconds.append(time.perf_counter() - began)
        if placed:
            outcome.placed += 1
            outcome.allocated += pod.demand
        else:
            outcome.dropped += 1
            if outcome.first_failure is None:
                outcome.first_failure = outcome.allocated
    return outcome
