"""The keys of a directory by the hashes of their secrets, made so that an edit costs little.

They lie in many small shards. A changed ring shares with the one before it each shard that stays
as it was, and what was encoded of that for the disk.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

import msgspec

_SHARDS = 256
_HASH_BYTES = 32


class _Key(Protocol):
    @property
    def id(self) -> str: ...


K = TypeVar("K", bound=_Key)


class Keyring(Mapping[bytes, K]):
    """Never changed once it is made. A key has one hash or, while it rotates, two."""

    __slots__ = ("_encoded", "_hashes", "_len", "_shards")

    def __init__(self, keys: Iterable[tuple[bytes, K]] = ()) -> None:
        self._shards: list[dict[bytes, K]] = [{} for _ in range(_SHARDS)]  # by the first byte
        # By id, one behind the other: no object of its own for the garbage collector to look at.
        self._hashes: list[dict[str, bytes]] = [{} for _ in range(_SHARDS)]
        self._encoded: list[bytes | None] = [None] * _SHARDS
        self._len = 0
        for digest, key in keys:
            self.add(digest, key)

    def add(self, digest: bytes, key: K) -> None:
        """Only while it is made."""
        shard = self._shards[digest[0]]
        self._len += digest not in shard
        shard[digest] = key
        hashes = self._hashes[hash(key.id) % _SHARDS]
        hashes[key.id] = hashes.get(key.id, b"") + digest

    def __getitem__(self, digest: bytes) -> K:
        return self._shards[digest[0]][digest]

    def find(self, digest: bytes) -> K | None:
        return self._shards[digest[0]].get(digest)

    def __iter__(self) -> Iterator[bytes]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._len

    def changed(self, ids: Collection[str], keys: Iterable[tuple[bytes, K]]) -> "Keyring[K]":
        """Another ring, in which the keys of these ids are those that are given, or gone."""
        keys = list(keys)
        made: Keyring[K] = Keyring.__new__(Keyring)
        made._shards, made._hashes = self._shards.copy(), self._hashes.copy()
        made._encoded, made._len = self._encoded.copy(), self._len
        places = {hash(id) % _SHARDS for id in ids} | {hash(key.id) % _SHARDS for _, key in keys}
        for place in places:
            made._hashes[place] = made._hashes[place].copy()
        gone = [
            digest for id in ids for digest in _each(made._hashes[hash(id) % _SHARDS].pop(id, b""))
        ]
        for place in {digest[0] for digest in gone} | {digest[0] for digest, _ in keys}:
            made._shards[place] = made._shards[place].copy()
            made._encoded[place] = None
        for digest in gone:
            del made._shards[digest[0]][digest]
        made._len -= len(gone)
        for digest, key in keys:
            made.add(digest, key)
        return made

    def encode(self) -> list[bytes]:
        """A piece for each shard, in an order that depends on nothing but what is in it."""
        encoded = self._encoded
        for place, shard in enumerate(self._shards):
            if encoded[place] is None:
                encoded[place] = msgspec.msgpack.encode(sorted(shard.items(), key=_digest))
        return [piece for piece in encoded if piece is not None]


def _each(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]


def _digest(item: tuple[bytes, object]) -> bytes:
    return item[0]
