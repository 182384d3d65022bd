"""What is in files, sealed chunk by chunk: never whole in memory, never in the clear at rest.

Each file has an AES-256 key of its own, sealed under the installation's master key: without the
file's row its chunks mean nothing, wherever a copy of them has got to. A chunk is bound to its
file and place. The key encrypts each number once, so the number is the nonce.
"""

import secrets
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from compliance import sealing
from controlplane.batches.models import File, FileChunk

CHUNK_BYTES = 256 << 10
_KEY_BYTES = 32
_NONCE_BYTES = 12


def new_key(context: str) -> bytes:
    """A fresh key, sealed for what `context` names."""
    return sealing.seal(secrets.token_bytes(_KEY_BYTES), context=context)


def context(file_id: str) -> str:
    return f"file:{file_id}"


class Box:
    """Small things sealed under one key, each bound to its name: the results of lines."""

    def __init__(self, sealed_key: bytes, context: str) -> None:
        """Raises SealBroken."""
        self._cipher = AESGCM(sealing.unseal(sealed_key, context=context))

    def seal(self, plain: bytes, name: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def unseal(self, blob: bytes | memoryview, name: str) -> bytes:
        blob = bytes(blob)
        return self._cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], name.encode())


class Writer:
    """Adds to a file that is not complete yet. `size` is what was given so far, in bytes."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._cipher = _cipher(file)
        self._rest = bytearray()
        self._number = 0
        self.size = 0

    def write(self, data: bytes) -> None:
        self._rest += data
        self.size += len(data)
        while len(self._rest) >= CHUNK_BYTES:
            self._put(bytes(self._rest[:CHUNK_BYTES]))
            del self._rest[:CHUNK_BYTES]

    def close(self) -> None:
        if self._rest:
            self._put(bytes(self._rest))
            self._rest.clear()

    def _put(self, plain: bytes) -> None:
        blob = self._cipher.encrypt(_nonce(self._number), plain, _name(self._file, self._number))
        FileChunk.objects.create(file=self._file, number=self._number, blob=blob)
        self._number += 1


def read(file: File) -> Iterator[bytes]:
    """All of it, a chunk at a time; each is fetched when it is asked for. Raises InvalidTag."""
    cipher = _cipher(file)
    for number in range(-(-file.bytes // CHUNK_BYTES)):
        yield _get(file, cipher, number)


def piece(file: File, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, of which only the chunks around them are fetched."""
    cipher, first = _cipher(file), offset // CHUNK_BYTES
    last = max(first, (offset + size - 1) // CHUNK_BYTES)
    whole = b"".join(_get(file, cipher, number) for number in range(first, last + 1))
    start = offset - first * CHUNK_BYTES
    return whole[start : start + size]


def _get(file: File, cipher: AESGCM, number: int) -> bytes:
    """Raises FileChunk.DoesNotExist where the file was deleted meanwhile."""
    chunk = FileChunk.objects.get(file_id=file.id, number=number)
    return cipher.decrypt(_nonce(number), bytes(chunk.blob), _name(file, number))


def _cipher(file: File) -> AESGCM:
    return AESGCM(sealing.unseal(bytes(file.sealed_key), context=context(file.id)))


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


def _name(file: File, number: int) -> bytes:
    return f"{file.id}:{number}".encode()
