"""Merkle trees of RFC 6962, section 2.1 (RFC 9162, section 2.1): roots, proofs, and their checks.

Pure: no I/O. Makers of proofs ask a `Nodes` for the roots of perfect subtrees, so that they read
O(log n) of a log that lies in a database. The checks are the iterative ones of RFC 9162, sections
2.1.3.2 and 2.1.4.2, and share no code with the makers.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

# (height, index) -> root over the leaves index << height up to (index + 1) << height, all there.
Nodes = Callable[[int, int], bytes]

_sha256 = hashlib.sha256


def leaf_hash(body: bytes) -> bytes:
    return _sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: as many hashes as `size` has set bits, tallest first.

    It is all that appending needs, and so what is kept of a log between two batches.
    """

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count():
            raise ValueError(f"{len(peaks)} peaks do not make a tree of {size}")
        self.size = size
        self._peaks = list(peaks)

    @classmethod
    def load(cls, size: int, peaks: bytes) -> "Frontier":
        """From what `dump` gave. Raises ValueError where it is not of that size."""
        if len(peaks) % HASH_BYTES:
            raise ValueError("peaks are whole hashes")
        steps = range(0, len(peaks), HASH_BYTES)
        return cls(size, [peaks[at : at + HASH_BYTES] for at in steps])

    def dump(self) -> bytes:
        return b"".join(self._peaks)

    def append(self, leaf: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Adds a leaf's hash; yields (height, index, hash) of each perfect subtree it completes.

        Nothing is added unless the yields are gone through: see `extend`.
        """
        index, hash_, height = self.size, leaf, 0
        while index & 1:
            hash_ = _sha256(b"\x01" + self._peaks.pop() + hash_).digest()
            index >>= 1
            height += 1
            yield height, index, hash_
        self._peaks.append(hash_)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        for leaf in leaves:
            index, hash_, peaks = self.size, leaf, self._peaks
            while index & 1:
                hash_ = _sha256(b"\x01" + peaks.pop() + hash_).digest()
                index >>= 1
            peaks.append(hash_)
            self.size += 1

    def root(self) -> bytes:
        if not self._peaks:
            return EMPTY_ROOT
        hash_ = self._peaks[-1]
        for peak in self._peaks[-2::-1]:
            hash_ = node_hash(peak, hash_)
        return hash_


def root(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash over leaf hashes, in memory for its edge alone."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def nodes_of(leaves: Sequence[bytes]) -> Nodes:
    """Of leaves that are in memory; what was asked once is kept."""
    levels: list[list[bytes]] = [list(leaves)]

    def node(height: int, index: int) -> bytes:
        while len(levels) <= height:
            below = levels[-1]
            pairs = range(0, len(below) - 1, 2)
            levels.append([node_hash(below[at], below[at + 1]) for at in pairs])
        return levels[height][index]

    return node


# --- proofs ----------------------------------------------------------------------------


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1. Raises ValueError unless index < size."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    return _path(nodes, index, 0, size)


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2; empty from nothing and to itself.

    Raises ValueError unless old <= new.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not continue one of {old}")
    return _subproof(nodes, old, 0, new, whole=True) if 0 < old < new else []


def tree_root(nodes: Nodes, size: int) -> bytes:
    return _range_root(nodes, 0, size) if size else EMPTY_ROOT


def _path(nodes: Nodes, index: int, start: int, end: int) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_path(nodes, index, start, middle), _range_root(nodes, middle, end)]
    return [*_path(nodes, index, middle, end), _range_root(nodes, start, middle)]


def _subproof(nodes: Nodes, old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
    """`old` counts from `start`; `whole`: the old tree's root is known to whoever checks."""
    if old == end - start:
        return [] if whole else [_range_root(nodes, start, end)]
    middle = start + _split(end - start)
    if old <= middle - start:
        left = _subproof(nodes, old, start, middle, whole=whole)
        return [*left, _range_root(nodes, middle, end)]
    right = _subproof(nodes, old - (middle - start), middle, end, whole=False)
    return [*right, _range_root(nodes, start, middle)]


def _range_root(nodes: Nodes, start: int, end: int) -> bytes:
    """Over leaves that begin at a multiple of the largest power of two that fits in."""
    count = end - start
    height = count.bit_length() - 1
    first = nodes(height, start >> height)
    if count == 1 << height:
        return first
    return node_hash(first, _range_root(nodes, start + (1 << height), end))


def _split(count: int) -> int:
    """The largest power of two that is smaller than `count`, which is at least two."""
    return 1 << (count - 1).bit_length() - 1


# --- their checks ------------------------------------------------------------------------


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that `leaf` stands at `index` of the tree with this size and root."""
    if not 0 <= index < size:
        return False
    at, last, hash_ = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            hash_ = node_hash(sibling, hash_)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            hash_ = node_hash(hash_, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and hash_ == root


def consistent(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the proof shows that the new tree begins with all leaves of the old one."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT and (new_size > 0 or new_root == EMPTY_ROOT)
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old = new = path[0]
    for hash_ in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(hash_, old), node_hash(hash_, new)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            new = node_hash(new, hash_)
        at >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root
