"""The keys of a prompt's blocks, and the index of what a replica has seen of them."""

from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from gateway import prefixes
from gateway.prefixes import BLOCK, Prefixes

texts = st.lists(st.sampled_from([b"a", b"b"]), max_size=6).map(
    lambda letters: b"".join(letter * BLOCK for letter in letters)
)


@given(texts, texts, st.binary(max_size=BLOCK - 1))
def test_prompts_share_the_keys_of_their_common_blocks(a: bytes, b: bytes, rest: bytes) -> None:
    mine, others = prefixes.keys(a + rest, "salt"), prefixes.keys(b, "salt")
    blocks_a = [a[at : at + BLOCK] for at in range(0, len(a), BLOCK)]
    blocks_b = [b[at : at + BLOCK] for at in range(0, len(b), BLOCK)]
    common = len(
        list(takewhile(lambda pair: pair[0] == pair[1], zip(blocks_a, blocks_b, strict=False)))
    )
    assert len(mine) == len(blocks_a)
    assert mine[:common] == others[:common]
    assert not set(mine[common:]) & set(others[common:])
    assert len(set(mine)) == len(mine)


def test_tenants_share_no_key() -> None:
    text = b"x" * BLOCK * 3
    assert not set(prefixes.keys(text, "one")) & set(prefixes.keys(text, "two"))


@given(
    st.integers(3, 60),
    st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=20, unique=True), max_size=60),
)
def test_the_index_is_bounded_and_knows_what_came_last(
    capacity: int, chains: list[list[int]]
) -> None:
    index = Prefixes(capacity)
    for number, chain in enumerate(chains):
        assert index.match(chain) <= len(chain)
        index.add(chain)
        assert index.match(chain) == len(chain)
        assert len(index) <= 2 * (capacity * 2 // 3 + 20)
        recent: set[int] = set()
        for earlier in reversed(chains[: number + 1]):
            recent |= set(earlier)
            if len(recent) >= capacity * 2 // 3:
                break
            assert index.match(earlier) == len(earlier)


def test_of_an_endless_prompt_the_beginning_counts() -> None:
    assert len(prefixes.keys(b"x" * (BLOCK * 3000), "salt")) == 1024
