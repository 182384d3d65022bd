"""Encryption to a public key, in age's format (age-encryption.org/v1), by pyrage.

Streams in 64 KiB chunks, each authenticated with its number and whether it is the last, so that a
changed, moved, missing or added chunk is refused; memory stays flat. Whoever has an identity can
open a file with the `age` program as well, without any of this.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pyrage

_BUFFER = 1 << 20


class EnvelopeError(Exception):
    """It cannot be encrypted or opened; the message is for a person and holds nothing secret."""


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


@dataclass(frozen=True)
class Written:
    """Of an encrypted file."""

    size: int
    sha256: str
    plain_bytes: int


def new_identity() -> tuple[str, str]:
    """A private key (AGE-SECRET-KEY-1…) and its recipient (age1…)."""
    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def recipient(text: str) -> pyrage.x25519.Recipient:
    """Raises EnvelopeError."""
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise EnvelopeError(f"{text[:80]!r} is no recipient (age1…): {error}") from None


def identities(path: Path) -> list[pyrage.x25519.Identity]:
    """Those in a file as `age-keygen` writes it. Raises EnvelopeError."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise EnvelopeError(f"{path}: {error.strerror}") from error
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        found = [pyrage.x25519.Identity.from_str(word) for word in words]
    except pyrage.IdentityError:
        raise EnvelopeError(f"{path}: expected lines of AGE-SECRET-KEY-1…") from None
    if not found:
        raise EnvelopeError(f"{path}: there is no identity in it")
    return found


def encrypt(source: Reader, target: Path, recipients: tuple[str, ...]) -> Written:
    """All of `source` into the new file `target` (0600), on the disk when this returns.

    Raises EnvelopeError, also for what `source` raises; a part of the file may be there then.
    """
    counted = _Counted(source)
    with open(target, "xb", opener=private) as file:
        digest = _Digesting(file)
        try:
            pyrage.encrypt_io(counted, digest, [recipient(one) for one in recipients])
        except (pyrage.EncryptError, OSError) as error:
            raise EnvelopeError(f"{target.name}: {error}") from error
        file.flush()
        os.fsync(file.fileno())
    return Written(digest.size, digest.sha256, counted.size)


def decrypt(source: Path, target: Writer, identity: list[pyrage.x25519.Identity]) -> None:
    """Raises EnvelopeError: then what was written so far is of no worth."""
    with source.open("rb", buffering=_BUFFER) as file:
        try:
            pyrage.decrypt_io(file, target, identity)
        except pyrage.DecryptError as error:
            raise EnvelopeError(f"{source.name}: {str(error).splitlines()[0]}") from error
        except OSError as error:
            # Of a chunk that is not what was written, or of `target`.
            raise EnvelopeError(f"{source.name}: {error}") from error


def opened(source: Path, identity: list[pyrage.x25519.Identity]) -> bytes:
    """A small file's content. Raises EnvelopeError."""
    whole = io.BytesIO()
    decrypt(source, whole, identity)
    return whole.getvalue()


def sha256(path: Path, told: "Told" = lambda count: None) -> tuple[int, str]:
    """Size and digest of a file. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_BUFFER):
            digest.update(piece)
            size += len(piece)
            told(len(piece))
    return size, digest.hexdigest()


class Told(Protocol):
    """Hears of each piece that was done, in bytes."""

    def __call__(self, count: int, /) -> object: ...


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _Counted:
    def __init__(self, source: Reader) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.size += len(data)
        return data


class _Digesting:
    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size += len(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()
