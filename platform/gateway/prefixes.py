"""Which prompt prefixes a replica has probably cached: block keys, and a bounded memory of them.

A key stands for a block and all that came before it, so a prompt's prefix is in the cache as far
as its keys are known. The keys are never stored, sent or compared outside this process: Python's
own keyed hash (a new secret in each process) is the cheapest that nobody outside can aim at.
"""

from collections.abc import Sequence

TOKEN_BYTES = 4  # of text, as a rule of thumb
BLOCK = 512 * TOKEN_BYTES  # bytes of a body
_LONGEST = 1024  # blocks that are looked at: the rest of a longer prompt changes no choice


def keys(prompt: bytes, *salt: str) -> list[int]:
    """One for each whole block, of the first many.

    `salt` is the organization's, and what else parts caches.
    """
    chain: list[int] = []
    size = min(len(prompt), BLOCK * _LONGEST)
    if size < BLOCK:
        return chain
    key = hash(salt)
    for end in range(BLOCK, size + 1, BLOCK):
        key = hash((key, prompt[end - BLOCK : end]))
        chain.append(key)
    return chain


class Prefixes:
    """The keys that were seen last. Two generations: what is used moves to the young one.

    It remembers the last two thirds of `capacity` for certain and twice as many at most, at a
    fraction of the cost of an exact order, which an engine's cache does not keep either.
    """

    __slots__ = ("_half", "_old", "_young", "capacity")

    def __init__(self, capacity: int) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()
        self.resize(capacity)

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        self._half = max(1, capacity * 2 // 3)
        if len(self._old) > self._half:
            self._old = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old - self._young)

    def match(self, chain: Sequence[int]) -> int:
        """How many keys from the chain's start are known."""
        young, old = self._young, self._old
        count = 0
        for key in chain:
            if key not in young and key not in old:
                break
            count += 1
        return count

    def add(self, chain: Sequence[int]) -> None:
        young = self._young
        young.update(chain)
        if len(young) >= self._half:
            self._old, self._young = young, set()

    def known(self) -> set[int]:
        return self._young | self._old

    def clear(self) -> None:
        self._young, self._old = set(), set()
