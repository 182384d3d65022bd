"""The directory on disk: what a gateway serves from when it starts while PostgreSQL is away.

Two files, both under a MAC whose key comes from the pepper. `directory` holds the content;
`directory.seen` holds the highest generation seen and the last contact with PostgreSQL, so that an
older copy that somebody puts back is refused and the age counts from the last contact, not from
the last change.
"""

import fcntl
import hashlib
import hmac
import os
import struct
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway import disk

_MAGIC = b"stoa directory 1\n"
_MAC_BYTES = 32
_HEAD = struct.Struct("<Qd")  # generation, read_at
_CLOCK_SLACK_S = 60.0


class RefusedError(Exception):
    """The copy on disk may not be used; the message says why."""


class Seen(msgspec.Struct, frozen=True):
    """What `directory.seen` holds. Times in Unix seconds."""

    generation: int
    read_at: float
    contact_at: float
    copy_mac: bytes  # of the copy that was current at that contact


@dataclass(frozen=True)
class Loaded:
    payload: bytes
    generation: int
    read_at: float
    contact_at: float


class Saved:
    """Reads and writes the two files in `folder`. All methods block: call them in a thread."""

    def __init__(self, folder: Path, pepper: bytes, max_age_s: float) -> None:
        self._copy = folder / "directory"
        self._seen = folder / "directory.seen"
        self._max_age_s = max_age_s
        self._mac_key = hmac.digest(pepper, b"stoa gateway directory on disk v1", "sha256")
        # A thread outlives the cancellation of who waits for it: the next one queues here.
        self._lock = threading.Lock()
        self._turn = folder / "directory.lock"
        self._yield: weakref.finalize[[int], Saved] | None = None  # set: we are the one who writes
        # The copy that this process wrote last.
        self._generation = 0
        self._read_at = 0.0
        self._mac_now = b""
        self._digest = b""

    def mine(self) -> bool:
        """Whether it is on us to write: nobody else has begun to. Raises OSError."""
        with self._lock:
            if self._yield is None:
                file = os.open(self._turn, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    os.close(file)
                    if isinstance(error, BlockingIOError):
                        return False
                    raise
                self._yield = weakref.finalize(self, os.close, file)
            return True

    def close(self) -> None:
        """Another process may write from now on."""
        with self._lock:
            if self._yield is not None:
                self._yield()
                self._yield = None

    def write(self, payload: bytes, generation: int, read_at: float, contact_at: float) -> None:
        """Replace the copy, if it says anything else than the last one. Raises OSError."""
        digest = hashlib.sha256(payload).digest()
        with self._lock:
            if (generation, digest) != (self._generation, self._digest):
                self._write(payload, digest, generation, read_at)
            # After the copy: a crash in between leaves a newer copy than was seen: harmless.
            self._note(contact_at)

    def touch(self, contact_at: float) -> None:
        """Note a contact with PostgreSQL that changed nothing. Raises OSError."""
        with self._lock:
            self._note(contact_at)

    def _write(self, payload: bytes, digest: bytes, generation: int, read_at: float) -> None:
        head = _HEAD.pack(generation, read_at)
        mac = self._mac(b"copy", head, payload)
        disk.replace(self._copy, _MAGIC, mac, head, payload)
        self._generation, self._read_at = generation, read_at
        self._mac_now, self._digest = mac, digest

    def _note(self, contact_at: float) -> None:
        seen = Seen(self._generation, self._read_at, contact_at, self._mac_now)
        body = msgspec.msgpack.encode(seen)
        disk.replace(self._seen, _MAGIC, self._mac(b"seen", body), body)

    def highest(self) -> int | None:
        """The highest generation seen by an earlier process; None if nothing tells."""
        try:
            return self._read_seen().generation
        except RefusedError:
            return None

    def load(self, now: float) -> Loaded:
        """The copy, checked. Raises RefusedError."""
        mac, body = self._split(self._copy)
        if len(body) < _HEAD.size or not hmac.compare_digest(
            mac, self._mac(b"copy", body[: _HEAD.size], body[_HEAD.size :])
        ):
            raise RefusedError(f"{self._copy}: the MAC is wrong: the file or the pepper changed")
        generation, read_at = _HEAD.unpack_from(body)
        seen = self._read_seen()
        if (generation, read_at) < (seen.generation, seen.read_at):
            raise RefusedError(
                f"{self._copy}: generation {generation} is older than {seen.generation}, which"
                " this gateway has already seen"
            )
        current = hmac.compare_digest(mac, seen.copy_mac)
        contact_at = max(read_at, seen.contact_at) if current else read_at
        if contact_at > now + _CLOCK_SLACK_S:
            raise RefusedError(f"{self._copy}: it is from the future: check this machine's clock")
        if now - contact_at > self._max_age_s:
            raise RefusedError(
                f"{self._copy}: the last contact with PostgreSQL is {now - contact_at:.0f} s ago,"
                f" STOA_DIRECTORY_MAX_AGE_S allows {self._max_age_s:.0f}"
            )
        return Loaded(body[_HEAD.size :], generation, read_at, contact_at)

    def _read_seen(self) -> Seen:
        mac, body = self._split(self._seen)
        if not hmac.compare_digest(mac, self._mac(b"seen", body)):
            raise RefusedError(f"{self._seen}: the MAC is wrong: the file or the pepper changed")
        return msgspec.msgpack.decode(body, type=Seen)

    def _split(self, path: Path) -> tuple[bytes, bytes]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RefusedError(f"{path}: {error.strerror}") from error
        start = len(_MAGIC) + _MAC_BYTES
        if not data.startswith(_MAGIC) or len(data) < start:
            raise RefusedError(f"{path}: not a directory of this version")
        return data[len(_MAGIC) : start], data[start:]

    def _mac(self, label: bytes, *parts: bytes) -> bytes:
        mac = hmac.new(self._mac_key, label, "sha256")
        for part in parts:
            mac.update(part)
        return mac.digest()
