"""The signer's files: its key, and the last head that it signed of each origin.

The memory is written, and on the disk, before a signature leaves: after a kill at any line the
signer knows of every note that anybody can have. A key without its memory is refused, since a
memory that starts anew would sign anything: then a new key is due (deploy/RUNBOOK.md).
"""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY = "signer.key"
NEXT = "signer.next.key"  # there while one key takes over from another
MEMORY = "heads.sqlite3"


class FilesError(Exception):
    """The signer's files are not as it left them; the message says what to do."""


@dataclass(frozen=True)
class Head:
    size: int
    root: bytes
    note: str
    closed: bool = False


class Memory:
    """The heads, in SQLite with a flush for each; for one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._database = sqlite3.connect(
            directory / MEMORY, isolation_level=None, check_same_thread=False
        )
        # EXTRA: the directory is flushed too, when the journal of a transaction goes.
        self._database.execute("PRAGMA synchronous = EXTRA")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS head (origin TEXT PRIMARY KEY, size INTEGER NOT NULL,"
            " root BLOB NOT NULL, note TEXT NOT NULL, closed INTEGER NOT NULL DEFAULT 0)"
        )

    def head(self, origin: str) -> Head | None:
        row = self._database.execute(
            "SELECT size, root, note, closed FROM head WHERE origin = ?", (origin,)
        ).fetchone()
        return Head(row[0], row[1], row[2], bool(row[3])) if row else None

    def keep(self, origin: str, head: Head) -> None:
        """On the disk when this returns."""
        self._database.execute(
            "INSERT INTO head VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE SET"
            " size = excluded.size, root = excluded.root, note = excluded.note,"
            " closed = excluded.closed",
            (origin, head.size, head.root, head.note, int(head.closed)),
        )

    def close(self) -> None:
        self._database.close()


def open_files(directory: Path) -> tuple[Ed25519PrivateKey, Memory]:
    """The key and the memory, made where neither is there. Raises FilesError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file, memory_file = directory / KEY, directory / MEMORY
    if key_file.exists() and not memory_file.exists():
        raise FilesError(
            f"{key_file} is there and what it signed, {memory_file}, is not: put that back, or"
            " move the key away, start again with a new one and publish its vkey"
        )
    _private(memory_file)
    memory = Memory(directory)
    if not key_file.exists():
        _make_key(key_file)
    return _read_key(key_file), memory


def next_key(directory: Path) -> Ed25519PrivateKey | None:
    """The key that is to take over, if one is. Raises FilesError."""
    path = directory / NEXT
    return _read_key(path) if path.exists() else None


def draw_next(directory: Path) -> Ed25519PrivateKey:
    """The key that is to take over: the one that is there, or a fresh one, on the disk."""
    if not (directory / NEXT).exists():
        _make_key(directory / NEXT)
    return _read_key(directory / NEXT)


def take_over(directory: Path) -> None:
    """The next key is the key from here on, and the one before it is gone: one rename."""
    (directory / NEXT).rename(directory / KEY)
    _flush(directory)


def _private(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.chmod(path, 0o600)


def _make_key(path: Path) -> None:
    """All of it or nothing, and on the disk."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _flush(path.parent)


def _flush(directory: Path) -> None:
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_key(path: Path) -> Ed25519PrivateKey:
    if path.stat().st_mode & 0o077:
        raise FilesError(f"{path} may be read by others: chmod 600 it, or draw a new one")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise FilesError(f"{path} is no key: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise FilesError(f"{path} is no Ed25519 key")
    return key
