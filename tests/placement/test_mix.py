"""What a free device is worth, against the definition counted out."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.mix import UNKNOWN, WHOLE, Mix, Shape

shares = st.builds(Shape, st.just(1), st.integers(1, WHOLE), st.integers(0, 8), st.integers(0, 8))
blocks = st.builds(Shape, st.integers(2, 8), st.just(WHOLE), st.integers(0, 8), st.integers(0, 8))
mixes = st.dictionaries(st.one_of(shares, blocks), st.integers(1, 9), min_size=1, max_size=8)
free = st.lists(st.one_of(st.just(WHOLE), st.integers(0, WHOLE)), min_size=1, max_size=8)
room = st.integers(0, 10)


def counted(weights: dict[Shape, int], milli: list[int], cpu: int, memory: int) -> Fraction:
    """Over the shapes: what of these devices such a replica could use."""
    total = Fraction(0)
    for shape, weight in weights.items():
        usable = [one for one in milli if one >= shape.milli]
        if shape.cpu_milli <= cpu and shape.memory_mib <= memory and len(usable) >= shape.count:
            total += weight * sum(usable)
    return total / sum(weights.values())


@given(mixes, free, room, room)
def test_worth_is_what_the_mix_can_use(
    weights: dict[Shape, int], milli: list[int], cpu: int, memory: int
) -> None:
    found = Mix(weights, devices=0).usable(milli, cpu, memory)
    assert found == pytest.approx(float(counted(weights, milli, cpu, memory)))


@given(mixes, free, room, room, shares)
def test_a_share_is_taken_where_least_is_lost(
    weights: dict[Shape, int], milli: list[int], cpu: int, memory: int, shape: Shape
) -> None:
    milli[0] = WHOLE
    before = counted(weights, milli, cpu, memory)
    costs = {}
    for at, there in enumerate(milli):
        if there >= shape.milli:
            left = [*milli[:at], there - shape.milli, *milli[at + 1 :]]
            rest = cpu - shape.cpu_milli, memory - shape.memory_mib
            costs[at] = float(before - counted(weights, left, *rest))
    cost, at = Mix(weights, devices=0).share(tuple(milli), shape, cpu, memory)
    assert cost == pytest.approx(min(costs.values()), abs=1e-6)
    assert costs[at] == pytest.approx(cost, abs=1e-6)


@given(mixes, free, room, room, blocks)
def test_a_block_costs_what_is_lost(
    weights: dict[Shape, int], milli: list[int], cpu: int, memory: int, shape: Shape
) -> None:
    milli += [WHOLE] * shape.count
    left = list(milli)
    for _ in range(shape.count):
        left.remove(WHOLE)
    after = counted(weights, left, cpu - shape.cpu_milli, memory - shape.memory_mib)
    lost = counted(weights, milli, cpu, memory) - after
    found = Mix(weights, devices=0).block(milli, shape, cpu, memory)
    assert found == pytest.approx(float(lost), abs=1e-6)


def test_of_two_that_fragment_alike_the_fuller_one_is_cheaper() -> None:
    mix = Mix({Shape(): 1}, cpu_milli=64_000, memory_mib=1024, devices=8)
    one = Shape(1, WHOLE, 1000, 10)
    assert mix.share((WHOLE,) * 2, one, 9000, 90)[0] < mix.share((WHOLE,) * 3, one, 9000, 90)[0]
    assert mix.share((WHOLE,) * 2, one, 9000, 90)[0] < mix.share((WHOLE,) * 2, one, 9900, 90)[0]


def test_a_whole_block_is_worth_more_than_its_devices_where_blocks_are_asked_for() -> None:
    """So one device is taken from a node that is broken already."""
    broken, _ = UNKNOWN.share((WHOLE,) * 3, Shape(), 0, 0)
    whole, _ = UNKNOWN.share((WHOLE,) * 8, Shape(), 0, 0)
    assert broken < whole
