"""Trees against the vectors of RFC 6962's own samples, and proofs against everything else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from compliance.log import merkle

# The eight leaves of Certificate Transparency's reference tests.
SAMPLES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
LEAVES = [merkle.leaf_hash(b"%d" % n) for n in range(70)]


@pytest.mark.parametrize("size", ROOTS)
def test_roots_are_those_of_the_rfc(size: int) -> None:
    leaves = [merkle.leaf_hash(each) for each in SAMPLES[:size]]
    assert merkle.root(leaves).hex() == ROOTS[size]
    assert merkle.tree_root(merkle.nodes_of(leaves), size).hex() == ROOTS[size]


def _recursive_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 writes it, independent of everything that is tested."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    left, right = _recursive_root(leaves[:k]), _recursive_root(leaves[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_every_pair_below_seventy_is_proved_and_nothing_else() -> None:
    nodes = merkle.nodes_of(LEAVES)
    roots = [_recursive_root(LEAVES[:size]) for size in range(len(LEAVES) + 1)]
    for size, root in enumerate(roots):
        assert merkle.root(LEAVES[:size]) == root
        for index in range(size):
            proof = merkle.inclusion_proof(nodes, index, size)
            assert merkle.included(LEAVES[index], index, size, proof, root)
            assert not merkle.included(LEAVES[index], index + 1, size, proof, root)
            assert not merkle.included(LEAVES[index - 1], index, size, proof, root) or size == 1
        for old in range(size + 1):
            proof = merkle.consistency_proof(nodes, old, size)
            assert merkle.consistent(old, roots[old], size, root, proof)
            if 0 < old < size:
                assert not merkle.consistent(old, roots[old - 1], size, root, proof)
                assert not merkle.consistent(old, roots[old], size, roots[size - 1], proof)
                assert not merkle.consistent(old, roots[old], size, root, proof[1:])


@hypothesis_settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_changed_bit_spoils_a_proof(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, len(LEAVES)))
    index = data.draw(st.integers(0, size - 1))
    nodes, root = merkle.nodes_of(LEAVES), merkle.root(LEAVES[:size])
    proof = merkle.inclusion_proof(nodes, index, size)
    parts = [LEAVES[index], root, *proof]
    at = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, 255))
    parts[at] = (int.from_bytes(parts[at]) ^ 1 << bit).to_bytes(32)
    assert not merkle.included(parts[0], index, size, parts[2:], parts[1])
    old = data.draw(st.integers(1, size - 1))
    parts = [merkle.root(LEAVES[:old]), root, *merkle.consistency_proof(nodes, old, size)]
    at = data.draw(st.integers(0, len(parts) - 1))
    parts[at] = (int.from_bytes(parts[at]) ^ 1 << bit).to_bytes(32)
    assert not merkle.consistent(old, parts[0], size, parts[1], parts[2:])


def test_a_frontier_goes_on_where_it_was_kept() -> None:
    frontier = merkle.Frontier()
    complete: dict[tuple[int, int], bytes] = {}
    for leaf in LEAVES:
        frontier = merkle.Frontier.load(frontier.size, frontier.dump())
        complete |= {(height, index): hash_ for height, index, hash_ in frontier.append(leaf)}
        assert frontier.root() == merkle.root(LEAVES[: frontier.size])
    nodes = merkle.nodes_of(LEAVES)
    assert len(complete) == 35 + 17 + 8 + 4 + 2 + 1
    assert all(nodes(height, index) == hash_ for (height, index), hash_ in complete.items())
    with pytest.raises(ValueError, match="peaks"):
        merkle.Frontier.load(2, LEAVES[0] + LEAVES[1])


def test_what_cannot_be_proved_is_refused() -> None:
    nodes = merkle.nodes_of(LEAVES)
    with pytest.raises(ValueError, match="no leaf 5"):
        merkle.inclusion_proof(nodes, 5, 5)
    with pytest.raises(ValueError, match="does not continue"):
        merkle.consistency_proof(nodes, 6, 5)
    assert not merkle.consistent(6, LEAVES[0], 5, LEAVES[0], [])
    assert not merkle.included(LEAVES[0], 0, 0, [], merkle.EMPTY_ROOT)
