"""The product's `choose`, over nodes that are kept as its callers keep them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from controlplane.placement.choose import Placement, Refusal, choose
from controlplane.placement.mix import Mix, Shape
from controlplane.placement.nodes import Candidate, FreeDevice, Need
from tests.benchmarks.packing.trace import Machine, Pod

KIND = "gpu"


class Stoa:
    """Each answer's reasons are read, all of them, as by an answer of the API."""

    def __init__(self, machines: Sequence[Machine], pods: Sequence[Pod]) -> None:
        self._mix = mix(machines, pods)
        self._nodes = [_candidate(one) for one in machines]
        self._at = {one.node_id: place for place, one in enumerate(self._nodes)}
        self.decide_s: list[float] = []
        self.cpu_s: list[float] = []  # the same, without what others had of the processor

    def place(self, pod: Pod) -> bool:
        need = Need(KIND, pod.gpus, "org", False, False, pod.milli, pod.cpu_milli, pod.memory_mib)
        began, before = time.perf_counter(), time.thread_time()
        answer = choose(need, self._nodes, self._mix)
        explained = dict(answer.reasons if isinstance(answer, Refusal) else answer.rejected)
        self.decide_s.append(time.perf_counter() - began)
        self.cpu_s.append(time.thread_time() - before)
        if isinstance(answer, Refusal):
            assert len(explained) == len(self._nodes)
            return False
        assert len(explained) == len(self._nodes) - 1
        self._take(need, answer)
        return True

    def _take(self, need: Need, answer: Placement) -> None:
        at = self._at[answer.node_id]
        node, taken = self._nodes[at], set(answer.device_ids)
        left = [
            replace(one, milli=one.milli - need.milli, organization_id=need.organization_id)
            if one.id in taken
            else one
            for one in node.free
        ]
        self._nodes[at] = replace(
            node,
            free=tuple(one for one in left if one.milli),
            cpu_milli=node.cpu_milli - need.cpu_milli,
            memory_mib=node.memory_mib - need.memory_mib,
        )


def mix(machines: Sequence[Machine], pods: Sequence[Pod]) -> Mix:
    """What is asked for, as the file of pods has it."""
    shapes = Counter(Shape(one.gpus, one.milli, one.cpu_milli, one.memory_mib) for one in pods)
    return Mix(
        shapes,
        cpu_milli=max(one.cpu_milli for one in machines),
        memory_mib=max(one.memory_mib for one in machines),
        devices=max(one.gpus for one in machines),
    )


def _candidate(machine: Machine) -> Candidate:
    return Candidate(
        machine.name,
        machine.name,
        tuple(FreeDevice(f"{machine.name}-{n}", n, KIND) for n in range(machine.gpus)),
        total=machine.gpus,
        shares=True,
        cpu_milli=machine.cpu_milli,
        memory_mib=machine.memory_mib,
    )
