"""Keys by their hashes: an edit makes the ring that reading everything would make."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.directory import Key
from gateway.keyring import Keyring


def key(number: int, priority: int = 0) -> Key:
    return Key(f"key_{number}", "prj", "org", frozenset(), frozenset(), None, priority=priority)


def digest(number: int, secret: int) -> bytes:
    return random.Random(f"{number}/{secret}").randbytes(32)


@given(
    st.dictionaries(st.integers(0, 40), st.integers(1, 2)),
    st.lists(st.dictionaries(st.integers(0, 40), st.integers(0, 2), max_size=6), max_size=4),
)
def test_edits_make_what_reading_everything_makes(
    first: dict[int, int], edits: list[dict[int, int]]
) -> None:
    """Each edit says of some keys how many secrets they have now; none: they are gone."""
    known = {(n, secret): key(n) for n, secrets in first.items() for secret in range(secrets)}
    ring = Keyring((digest(*name), key) for name, key in known.items())
    for turn, edit in enumerate(edits, 1):
        before, then = ring, dict(ring)
        ring.encode()
        known = {name: key for name, key in known.items() if name[0] not in edit}
        news = {(n, at): key(n, turn) for n, secrets in edit.items() for at in range(secrets)}
        known |= news
        ids = [f"key_{n}" for n in edit]
        ring = ring.changed(ids, [(digest(*name), key) for name, key in news.items()])
        whole = Keyring((digest(*name), key) for name, key in known.items())
        assert ring == whole and len(ring) == len(known) == len(list(ring))
        assert ring.encode() == whole.encode()
        assert dict(before) == then  # who still reads the old one reads what it was


def test_an_edit_leaves_what_it_does_not_touch() -> None:
    ring = Keyring((digest(n, 0), key(n)) for n in range(5_000))
    pieces = ring.encode()
    after = ring.changed(["key_7"], [(digest(7, 0), key(7, 1))])
    assert after.find(digest(7, 0)) == key(7, 1)
    encoded = after.encode()
    assert sum(one is not two for one, two in zip(pieces, encoded, strict=True)) == 1
