"""The rules that others pack by, each as a score of what a node would have left: lowest wins.

Normalised is: by what the largest node has. A share is taken from the fullest GPU that has room,
but for `worst_fit`, which takes it from the emptiest. Ties go to the first node.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.benchmarks.packing.trace import Machine, Pod


@dataclass(slots=True)
class Node:
    """What is free. `gpus`: thousandths of each."""

    cpu_milli: int
    memory_mib: int
    gpus: list[int]

    def room(self, pod: Pod) -> bool:
        if pod.cpu_milli > self.cpu_milli or pod.memory_mib > self.memory_mib:
            return False
        return sum(free >= pod.milli for free in self.gpus) >= pod.gpus

    def take(self, pod: Pod, *, emptiest: bool) -> None:
        self.cpu_milli -= pod.cpu_milli
        self.memory_mib -= pod.memory_mib
        for at in self.chosen(pod, emptiest=emptiest):
            self.gpus[at] -= pod.milli

    def chosen(self, pod: Pod, *, emptiest: bool) -> list[int]:
        there = [at for at, free in enumerate(self.gpus) if free >= pod.milli]
        there.sort(key=lambda at: -self.gpus[at] if emptiest else self.gpus[at])
        return there[: pod.gpus]


@dataclass(frozen=True, slots=True)
class Largest:
    cpu_milli: int
    memory_mib: int
    gpu_milli: int


Rule = Callable[[Node, Pod, Largest], float]


def best_fit(node: Node, pod: Pod, largest: Largest) -> float:
    """Least CPU, memory and GPU left, each normalised."""
    return (
        (node.cpu_milli - pod.cpu_milli) / largest.cpu_milli
        + (node.memory_mib - pod.memory_mib) / largest.memory_mib
        + (sum(node.gpus) - pod.demand) / largest.gpu_milli
    )


def worst_fit(node: Node, pod: Pod, largest: Largest) -> float:
    return -best_fit(node, pod, largest)


def best_fit_gpu(node: Node, pod: Pod, largest: Largest) -> float:
    """The tightest GPU; of nodes alike in that, the one with the least GPU free."""
    left = sum(node.gpus[at] - pod.milli for at in node.chosen(pod, emptiest=False))
    return left + sum(node.gpus) / (2 * largest.gpu_milli)


RULES: dict[str, Rule] = {
    "best_fit": best_fit,
    "best_fit_gpu": best_fit_gpu,
    "worst_fit": worst_fit,
}
_NO_ROOM = float("inf")


class ByRule:
    """Scores of each shape of pod that came, of all nodes, kept as nodes change."""

    def __init__(self, machines: Sequence[Machine], rule: str) -> None:
        self._rule, self._emptiest = RULES[rule], rule == "worst_fit"
        self._nodes = [_node(one) for one in machines]
        self._largest = Largest(
            max(one.cpu_milli for one in machines),
            max(one.memory_mib for one in machines),
            1000 * max(one.gpus for one in machines),
        )
        self._scores: dict[Pod, list[float]] = {}

    def place(self, pod: Pod) -> bool:
        scores = self._scores.get(pod)
        if scores is None:
            scores = self._scores[pod] = [self._score(node, pod) for node in self._nodes]
        least = min(scores)
        if least == _NO_ROOM:
            return False
        at = scores.index(least)
        node = self._nodes[at]
        node.take(pod, emptiest=self._emptiest)
        for shape, kept in self._scores.items():
            kept[at] = self._score(node, shape)
        return True

    def _score(self, node: Node, pod: Pod) -> float:
        return self._rule(node, pod, self._largest) if node.room(pod) else _NO_ROOM


class AtRandom:
    """Any node that has room."""

    def __init__(self, machines: Sequence[Machine], seed: int) -> None:
        self._nodes = [_node(one) for one in machines]
        self._draw = random.Random(f"nodes {seed}")

    def place(self, pod: Pod) -> bool:
        fitting = [node for node in self._nodes if node.room(pod)]
        if fitting:
            self._draw.choice(fitting).take(pod, emptiest=False)
        return bool(fitting)


def _node(machine: Machine) -> Node:
    return Node(machine.cpu_milli, machine.memory_mib, [1000] * machine.gpus)
