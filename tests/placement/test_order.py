"""What comes before what: limits, siblings, weights, blocks, fragments, the lot."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement import blocks
from controlplane.placement.choose import Placement, Refusal, choose
from controlplane.placement.gang import GangPlacement, choose_gang
from controlplane.placement.mix import WHOLE, Mix, Shape
from controlplane.placement.nodes import Candidate, FreeDevice, Weights
from tests.placement.test_choose import need, node


def only(id: str, *indexes: int, keep_block: int = 0) -> Candidate:
    """A node of eight with these free."""
    whole = node(id, 8, total=8, keep_block=keep_block)
    return replace(whole, free=tuple(one for one in whole.free if one.index in indexes))


def test_another_node_before_the_weights_and_memory_before_disk() -> None:
    cold, disk = node("a", 1), node("b", 8, weights=Weights.DISK)
    memory = node("c", 8, weights=Weights.MEMORY)
    sibling = node("d", 8, weights=Weights.MEMORY, siblings=1)
    answer = choose(need(), [cold, disk, memory, sibling])
    assert isinstance(answer, Placement) and answer.node_id == "c"
    assert dict(answer.rejected) == {
        "a": "host-a: does not hold the weights, host-c has the weights in memory",
        "b": "host-b: has the weights on disk, host-c has the weights in memory",
        "d": "host-d: 1 replicas of the endpoint run there, on host-c 0",
    }


def test_the_smallest_block_that_will_do() -> None:
    four, pair = only("a", 0, 1, 2, 3), only("b", 0, 4, 5, 7)
    answer = choose(need(2), [four, pair])
    assert isinstance(answer, Placement)
    assert answer == Placement("b", ("b-4", "b-5"))
    assert answer.rejected["a"] == "host-a: would break a block of 4, host-b a block of 2"
    crossing = only("c", 1, 2)
    answer = choose(need(2), [four, crossing])
    assert isinstance(answer, Placement) and answer.node_id == "a"
    assert answer.rejected["c"] == "host-c: would break several blocks, host-a a block of 4"
    assert choose(need(2), [crossing]) == Placement("c", ("c-1", "c-2"))


def test_where_fragmentation_grows_least() -> None:
    """A third of a device goes where a half is left over, since nobody asks for a half."""
    mix = Mix({Shape(1, 300): 1, Shape(1, WHOLE): 1})
    half = replace(node("a", 1, shares=True), free=(FreeDevice("x", 0, "cpu", 300),))
    whole = node("b", 1, shares=True)
    answer = choose(need(milli=300), [half, whole], mix)
    assert isinstance(answer, Placement) and answer == Placement("a", ("x",))
    assert answer.rejected["b"].startswith("host-b: would cost 0.")


def test_limits() -> None:
    away, small = node("a", region="eu-fr-1"), node("b", 1, shares=True, cpu_milli=500)
    full = replace(node("c", 1, shares=True), free=(FreeDevice("x", 0, "cpu", 200),))
    others = FreeDevice("y", 0, "cpu", 900, "org_b")
    answer = choose(
        need(milli=300, cpu_milli=1000, region="eu-de-1"),
        [
            away,
            replace(small, region="eu-de-1"),
            replace(full, region="eu-de-1", cpu_milli=9000),
            replace(full, node_id="d", name="d", region="eu-de-1", free=(others,), cpu_milli=9000),
            node("e", region="eu-de-1"),
        ],
    )
    assert isinstance(answer, Refusal)
    assert answer.reasons == {
        "a": "host-a: it stands in region eu-fr-1, not in eu-de-1",
        "b": "host-b: 0.5 processor cores free, 1 needed",
        "c": "host-c: 200 of the 300 thousandths of a device of kind cpu free",
        "d": "d: 0 of the 300 thousandths of a device of kind cpu free",
        "e": "host-e: its pool does not let replicas share a device",
    }


def test_sick_and_reserved_devices_are_named() -> None:
    held = only("b", 6, 7).free
    answer = choose(need(4), [node("a", 3, sick=1), node("b", 2, total=4, held=held)])
    assert isinstance(answer, Refusal)
    assert answer.reasons == {
        "a": "host-a: has 3 of 4 devices of kind cpu that are healthy, and 1 that are not",
        "b": "host-b: 2 of 4 devices of kind cpu free and 2 reserved, 4 needed",
    }


def test_the_last_whole_block_is_kept_for_who_needs_all_of_it() -> None:
    last, broken = node("a", 8, keep_block=8), only("b", 0, 1, 2, keep_block=8)
    assert choose(need(1), [last, broken]) == Placement("b", ("b-2",))
    answer = choose(need(4), [last, broken])
    assert isinstance(answer, Refusal)
    assert answer.reasons["a"] == (
        "host-a: its pool keeps one whole block of 8 devices free, and this is the last"
    )
    assert isinstance(choose(need(8), [last, broken]), Placement)
    assert isinstance(choose(need(4), [last, node("c", 8, keep_block=8)]), Placement)
    both = node("d", 16, total=16, keep_block=8)
    assert isinstance(choose(need(4), [both]), Placement)  # its other block is kept


def test_those_that_are_equal_are_drawn_by_lot() -> None:
    nodes = [node(f"n{number}") for number in range(8)]
    drawn: Counter[str] = Counter()
    for number in range(200):
        answer = choose(need(lot=f"rep_{number}"), nodes)
        assert isinstance(answer, Placement)
        assert answer == choose(need(lot=f"rep_{number}"), nodes[::-1])
        drawn[answer.node_id] += 1
    assert len(drawn) == 8 and max(drawn.values()) < 60


def test_a_gang_takes_the_best_nodes_and_says_why_not_the_others() -> None:
    nodes = [node("a", 8), node("b", 2), node("c", 4), node("d", 1)]
    answer = choose_gang(need(2), 2, nodes, able={"a", "b", "c"})
    assert answer == GangPlacement(("b", "c"))
    assert isinstance(answer, GangPlacement)
    assert answer.rejected.keys() == {"a", "d"}
    short = choose_gang(need(2), 4, nodes, able={"a", "b"})
    assert isinstance(short, Refusal) and short.reasons.keys() == {"", "a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("free", "count", "taken", "block"),
    [
        ({0, 1, 2, 3, 4, 5, 6, 7}, 1, (0,), 8),
        ({1, 2, 3}, 1, (1,), 1),
        ({0, 1, 2, 3, 6, 7}, 2, (6, 7), 2),
        ({0, 1, 2, 3, 5, 6, 7}, 3, (5, 6, 7), 3),
        ({2, 3, 4, 5}, 4, (2, 3, 4, 5), blocks.UNALIGNED),
        (set(range(8)), 8, tuple(range(8)), 8),
    ],
)
def test_blocks(free: set[int], count: int, taken: tuple[int, ...], block: int) -> None:
    assert blocks.take(free, count) == (taken, block)


@given(st.sets(st.integers(0, 15), min_size=1), st.integers(1, 8))
def test_a_block_is_aligned_wherever_one_is_free(free: set[int], count: int) -> None:
    if len(free) < count:
        return
    taken, block = blocks.take(free, count)
    assert len(set(taken)) == count and set(taken) <= free
    size = 1 << (count - 1).bit_length()
    aligned = any(
        len(free & set(range(start, start + size))) >= count for start in range(0, 16, size)
    )
    assert aligned == (block != blocks.UNALIGNED)
    assert not aligned or max(taken) // size == min(taken) // size


nodes = st.lists(
    st.builds(
        node,
        st.sampled_from("abcdefgh"),
        st.integers(0, 8),
        closed=st.sampled_from(["", "it is cordoned"]),
        siblings=st.integers(0, 2),
        weights=st.sampled_from(Weights),
        keep_block=st.just(4),
        shares=st.booleans(),
    ),
    unique_by=lambda one: one.node_id,
)


@given(nodes, st.integers(1, 4), st.sampled_from([300, WHOLE]))
def test_every_node_that_was_not_chosen_says_why(
    candidates: list[Candidate], count: int, milli: int
) -> None:
    asked = need(1 if milli < WHOLE else count, milli=milli)
    answer = choose(asked, candidates)
    everybody = {one.node_id for one in candidates}
    if isinstance(answer, Refusal):
        assert answer.reasons.keys() == everybody
        assert all(answer.reasons.values())
        return
    said = dict(answer.rejected)
    told = {id: why for why, ids in answer.rejected.by_reason().items() for id in ids}
    assert {id: f"host-{id}: {why}" for id, why in told.items()} == said
    assert said.keys() == everybody - {answer.node_id} and len(answer.rejected) == len(said)
    assert all(text.startswith(f"host-{id}: ") for id, text in said.items())
