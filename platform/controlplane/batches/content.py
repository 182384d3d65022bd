"""What is in files, sealed chunk by chunk: never whole in memory, never in the clear at rest.

Each file has an AES-256 key of its own, sealed under its organization's data key: without both rows
its chunks mean nothing, wherever a copy of them has got to. A chunk is bound to its
file and place. The key encrypts one content of each number, so the number is the nonce.
"""

import secrets
from collections.abc import Iterator
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from compliance import keys
from compliance.subjects import ORGANIZATION, Subject
from controlplane.batches import copying
from controlplane.batches.models import File, FileChunk
from controlplane.tenancy.models import Project

CHUNK_BYTES = 256 << 10
_CHUNKS_AT_ONCE = 16  # of a file that is written: 4 MiB
_KEY_BYTES = 32
_NONCE_BYTES = 12


def new_key(context: str, project_id: str) -> bytes:
    """A fresh key, sealed for what `context` names. Raises KmsAway, KeyDestroyed."""
    plain = secrets.token_bytes(_KEY_BYTES)
    return keys.seal(plain, subject=_owner(project_id), context=context)


def context(file_id: str) -> str:
    return f"file:{file_id}"


class Box:
    """Small things sealed under one key, each bound to its name: the results of lines."""

    def __init__(self, sealed_key: bytes, context: str, project_id: str) -> None:
        """Raises SealBroken, KeyDestroyed, KmsAway."""
        opened = keys.unseal(sealed_key, subject=_owner(project_id), context=context)
        self._cipher = AESGCM(opened)

    def seal(self, plain: bytes, name: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def unseal(self, blob: bytes | memoryview, name: str) -> bytes:
        blob = bytes(blob)
        return self._cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], name.encode())


class Writer:
    """Adds to a file that is not complete yet. `size` is what was given so far, in bytes.

    `chunks` of the file are there already, and `rest` is what was given beyond them.
    """

    def __init__(self, file: File, *, chunks: int = 0, rest: bytes = b"") -> None:
        self._file = file
        self._cipher = _cipher(file)
        self._ready: list[tuple[str, int, bytes]] = []
        self.chunks = chunks
        self.rest = bytearray(rest)
        self.size = chunks * CHUNK_BYTES + len(rest)

    def write(self, data: bytes) -> None:
        self.rest += data
        self.size += len(data)
        if len(self.rest) < CHUNK_BYTES:
            return
        whole = len(self.rest) // CHUNK_BYTES * CHUNK_BYTES
        for at in range(0, whole, CHUNK_BYTES):
            self._seal(bytes(self.rest[at : at + CHUNK_BYTES]))
        del self.rest[:whole]
        if len(self._ready) >= _CHUNKS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """All chunks that are whole are rows."""
        columns = {"file_id": "text", "number": "int4", "blob": "bytea"}
        if self._ready:
            copying.copy("batches_filechunk", columns, self._ready)
            self._ready.clear()

    def close(self) -> None:
        if self.rest:
            self._seal(bytes(self.rest))
            self.rest.clear()
        self.flush()

    def _seal(self, plain: bytes) -> None:
        number = self.chunks
        blob = self._cipher.encrypt(_nonce(number), plain, _name(self._file, number))
        self._ready.append((self._file.id, number, blob))
        self.chunks += 1


class Reader:
    """Pieces of a file. Of those asked for about in order each chunk is fetched once.

    Any number of threads may ask: at worst one fetches what another has just dropped.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._cipher = _cipher(file)
        self._last: tuple[tuple[int, bytes], ...] = ()  # two chunks, the newer one first

    def chunk(self, number: int) -> bytes:
        """Raises FileChunk.DoesNotExist where the file was deleted meanwhile, InvalidTag."""
        last = self._last
        for known, plain in last:
            if known == number:
                return plain
        row = FileChunk.objects.get(file_id=self._file.id, number=number)
        name = _name(self._file, number)
        plain = self._cipher.decrypt(_nonce(number), bytes(row.blob), name)
        self._last = ((number, plain), *last[:1])
        return plain

    def piece(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, of which only the chunks around them are fetched."""
        first = offset // CHUNK_BYTES
        last = max(first, (offset + size - 1) // CHUNK_BYTES)
        whole = b"".join(map(self.chunk, range(first, last + 1)))
        start = offset - first * CHUNK_BYTES
        return whole[start : start + size]


def read(file: File, start: int = 0) -> Iterator[bytes]:
    """All of it from the byte `start` on; each chunk is fetched when it is asked for. Raises
    FileChunk.DoesNotExist, InvalidTag."""
    reader, first = Reader(file), start // CHUNK_BYTES
    for number in range(first, -(-file.bytes // CHUNK_BYTES)):
        chunk = reader.chunk(number)
        yield chunk[start - first * CHUNK_BYTES :] if number == first else chunk


def _cipher(file: File) -> AESGCM:
    whose = _owner(file.project_id)
    return AESGCM(keys.unseal(file.sealed_key, subject=whose, context=context(file.id)))


@lru_cache(maxsize=4_096)
def _owner(project_id: str) -> Subject:
    """A project never changes hands."""
    found = Project.objects.values_list("organization_id", flat=True).get(id=project_id)
    return Subject(ORGANIZATION, found)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


def _name(file: File, number: int) -> bytes:
    return f"{file.id}:{number}".encode()
