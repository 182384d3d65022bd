"""Which devices of a node belong together: aligned blocks of two, four, eight.

Devices with neighbouring indexes share a switch, so a block that begins at a multiple of its own
size is the closest that so many can be. Taking the smallest that will do leaves the larger ones
whole, as a buddy allocator does.
"""

from collections.abc import Collection

UNALIGNED = 1 << 16  # larger than any block: the last that one would take


def take(free: Collection[int], count: int) -> tuple[tuple[int, ...], int]:
    """`count` of these indexes, and how many are free in the block that they are taken from.

    Where no block holds so many, the lowest indexes and `UNALIGNED`. There have to be enough.
    """
    there = frozenset(free)
    size = 1 << (count - 1).bit_length()
    best: tuple[int, int] | None = None
    for start in sorted({index - index % size for index in there}):
        if (held := _held(there, start, size)) < count:
            continue
        found = _grown(there, start, size) if held == size else held
        if best is None or found < best[0]:
            best = found, start
    if best is None:
        return tuple(sorted(there)[:count]), UNALIGNED
    block, start = best
    inside = [index for index in range(start, start + size) if index in there]
    return tuple(inside[:count]), block


def whole(free: Collection[int], size: int) -> int:
    """How many aligned blocks of `size` are free."""
    there = frozenset(free)
    return sum(_held(there, start, size) == size for start in there if start % size == 0)


def _held(there: frozenset[int], start: int, size: int) -> int:
    return sum(index in there for index in range(start, start + size))


def _grown(there: frozenset[int], start: int, size: int) -> int:
    """The largest free block that begins as this one does or holds it."""
    while _held(there, start - start % (2 * size), 2 * size) == 2 * size:
        size *= 2
        start -= start % size
    return size
