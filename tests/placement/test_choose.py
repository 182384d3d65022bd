"""Which node, which devices, and why not the others."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.choose import Placement, Refusal, choose
from controlplane.placement.nodes import Candidate, FreeDevice, Need


def node(id: str, free: int = 2, total: int = 0, kind: str = "cpu", **facts: object) -> Candidate:
    devices = tuple(FreeDevice(f"{id}-{n}", n, kind) for n in reversed(range(free)))
    return Candidate(id, f"host-{id}", devices, total or free, **facts)  # type: ignore[arg-type]


def need(count: int = 1, **facts: object) -> Need:
    given = {"kind": "cpu", "organization_id": "org_a"} | facts
    return Need(count=count, **given)  # type: ignore[arg-type]


def test_the_fullest_node_that_will_do_and_the_lowest_index_first() -> None:
    assert choose(need(2), [node("a", 2), node("b", 3)]) == Placement("a", ("a-0", "a-1"))
    assert choose(need(1), [node("a", 8), node("b", 3)]) == Placement("b", ("b-2",))


def test_replicas_of_one_endpoint_spread() -> None:
    assert choose(need(), [node("a", 8, siblings=1), node("b", 1)]) == Placement("b", ("b-0",))


def test_ties_are_broken_by_id_whatever_the_order() -> None:
    nodes = [node("c"), node("a"), node("b")]
    assert choose(need(), nodes) == choose(need(), nodes[::-1]) == Placement("a", ("a-0",))


def test_each_node_says_why_not() -> None:
    answer = choose(
        need(2, shared=True),
        [
            node("a", 1, total=4),
            node("b", 1),
            node("c", closed="it is cordoned"),
            node("d", walled=False),
            node("e", organization_id="org_b"),
            node("f", kind="gpu", total=0, free=0),
        ],
    )
    assert isinstance(answer, Refusal)
    assert answer.reasons == {
        "a": "host-a: 1 of 4 devices of kind cpu free, 2 needed",
        "b": "host-b: has 1 of 2 devices of kind cpu",
        "c": "host-c: it is cordoned",
        "d": "host-d: it cannot wall engines off from each other, "
        "and its pool serves several organizations",
        "e": "host-e: it serves another organization",
        "f": "host-f: has 0 of 2 devices of kind cpu",
    }
    assert answer.walls_missing


def test_an_image_goes_where_images_run() -> None:
    able, unable = node("a", 8), node("b", 1, containers=False)
    assert choose(need(image=True), [able, unable]) == Placement("a", ("a-0",))
    assert choose(need(), [able, unable]) == Placement("b", ("b-0",))


def test_no_node_that_runs_images_is_told_apart_from_none_that_is_free() -> None:
    unable = node("a", containers=False)
    answer = choose(need(image=True), [unable])
    assert isinstance(answer, Refusal)
    assert answer.containers_missing
    assert "runs no images" in str(answer)
    small = node("b", 0, total=1)
    answer = choose(need(2, image=True), [node("a", 2, containers=False), small])
    assert isinstance(answer, Refusal) and answer.containers_missing
    answer = choose(need(image=True), [unable, small])
    assert isinstance(answer, Refusal) and not answer.containers_missing


def test_walls_matter_only_where_tenants_meet() -> None:
    assert isinstance(choose(need(shared=False), [node("a", walled=False)]), Placement)
    answer = choose(need(shared=True), [node("a", walled=False)])
    assert isinstance(answer, Refusal)
    assert answer.walls_missing


def test_an_empty_pool() -> None:
    assert str(choose(need(), [])) == "the pool has no node"


nodes = st.lists(
    st.builds(
        node,
        st.sampled_from("abcdef"),
        st.integers(0, 4),
        kind=st.sampled_from(["cpu", "gpu"]),
        closed=st.sampled_from(["", "it is cordoned"]),
        siblings=st.integers(0, 2),
    ),
    unique_by=lambda one: one.node_id,
)


@given(nodes, st.integers(1, 4))
def test_it_places_exactly_where_it_can(candidates: list[Candidate], count: int) -> None:
    answer = choose(need(count), candidates)
    fits = {
        one.node_id: {d.id for d in one.free}
        for one in candidates
        if not one.closed and sum(d.kind == "cpu" for d in one.free) >= count
    }
    if isinstance(answer, Placement):
        assert len(set(answer.device_ids)) == count
        assert set(answer.device_ids) <= fits[answer.node_id]
    else:
        assert not fits
        assert answer.reasons.keys() == {one.node_id for one in candidates}
