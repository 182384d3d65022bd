"""The benchmark's replay and the rules that it compares with."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.packing.ours import Stoa
from tests.benchmarks.packing.replay import DEMAND, arrivals, play
from tests.benchmarks.packing.rules import RULES, AtRandom, ByRule, Largest, Node
from tests.benchmarks.packing.trace import Machine, Pod, machines, pods

LARGEST = Largest(100, 100, 2000)


def test_files_that_are_none(tmp_path: Path) -> None:
    nodes, asked = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    with pytest.raises(SystemExit, match="No such file"):
        machines(nodes)
    nodes.write_text("sn,cpu_milli,memory_mib\na,1,1\n")
    with pytest.raises(SystemExit, match="has no column gpu"):
        machines(nodes)
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\na,1000,10,0,\nb,2000,20,2,T4\n")
    assert machines(nodes) == [Machine("b", 2000, 20, 2)]
    head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n"
    asked.write_text(head + "p,1,1,1,many\n")
    with pytest.raises(SystemExit, match="gpu_milli is 'many', not a number"):
        pods(asked)
    asked.write_text(head + "p,1,1,2,500\n")
    with pytest.raises(SystemExit, match="a share is 1 to 1000 thousandths of one GPU"):
        pods(asked)
    asked.write_text(head + "p,1,1,0,0\nq,2,3,1,460\n")
    assert pods(asked) == [Pod(2, 3, 1, 460)]


def test_arrivals_end_with_the_one_that_reaches_the_demand() -> None:
    asked = [Pod(1, 1, 1, 300), Pod(1, 1, 2, 1000)]
    drawn = list(arrivals(asked, 10_000, seed=1))
    assert drawn == list(arrivals(asked, 10_000, seed=1)) != list(arrivals(asked, 10_000, seed=2))
    total = sum(one.demand for one in drawn)
    assert total - drawn[-1].demand < DEMAND * 10_000 <= total


def test_the_rules() -> None:
    pod = Pod(10, 10, 1, 400)
    roomy, tight = Node(100, 100, [1000, 1000]), Node(100, 20, [1000, 500])
    assert tight.chosen(pod, emptiest=False) == [1] and tight.chosen(pod, emptiest=True) == [0]
    for rule, better in (("best_fit", tight), ("best_fit_gpu", tight), ("worst_fit", roomy)):
        other = roomy if better is tight else tight
        assert RULES[rule](better, pod, LARGEST) < RULES[rule](other, pod, LARGEST)
    assert not Node(9, 100, [1000]).room(pod) and not Node(100, 100, [399]).room(pod)
    assert not Node(100, 100, [1000, 999]).room(Pod(1, 1, 2, 1000))


clusters = st.lists(
    st.builds(
        Machine, st.uuids().map(str), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)
    ),
    min_size=1,
    max_size=4,
)
shares = st.builds(Pod, st.integers(0, 3), st.integers(0, 3), st.just(1), st.integers(100, 1000))
blocks = st.builds(Pod, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.just(1000))
mixes = st.lists(st.one_of(shares, blocks), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(clusters, mixes)
def test_whoever_packs_drops_only_what_has_no_room(
    cluster: Sequence[Machine], asked: Sequence[Pod]
) -> None:
    """Every packer against a count of its own."""
    packers: list[ByRule | AtRandom] = [ByRule(cluster, rule) for rule in RULES]
    for packer in [*packers, AtRandom(cluster, 1)]:
        outcome = play(cluster, asked, 1, Watching(packer, packer._nodes))
        assert 0 <= outcome.allocated <= outcome.capacity
    ours = Stoa(cluster, asked)
    outcome = play(cluster, asked, 1, Seeing(ours))
    left = sum(one.milli for node in ours._nodes for one in node.free)
    assert outcome.allocated == outcome.capacity - left
    assert all(node.cpu_milli >= 0 and node.memory_mib >= 0 for node in ours._nodes)


class Seeing:
    def __init__(self, packer: Stoa) -> None:
        self._packer = packer

    def place(self, pod: Pod) -> bool:
        could = any(
            node.cpu_milli >= pod.cpu_milli
            and node.memory_mib >= pod.memory_mib
            and sum(one.milli >= pod.milli for one in node.free) >= pod.gpus
            for node in self._packer._nodes
        )
        assert self._packer.place(pod) == could
        return could


class Watching:
    def __init__(self, packer: ByRule | AtRandom, nodes: Sequence[Node]) -> None:
        self._packer, self._nodes = packer, nodes

    def place(self, pod: Pod) -> bool:
        could = any(node.room(pod) for node in self._nodes)
        assert self._packer.place(pod) == could
        for node in self._nodes:
            assert node.cpu_milli >= 0 and node.memory_mib >= 0 and min(node.gpus) >= 0
        return could
