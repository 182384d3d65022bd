"""One file into one part: resumed where it stopped, verified when it is whole."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from workers.agent.weights.errors import FETCH_FAILED, Cancelled, ModelError, Unreachable
from workers.agent.weights.listing import File

TRIES = 6  # in a row that bring nothing
PAUSE_S = 0.5  # before the second of them; doubled each time
BUFFER = 1 << 20


@dataclass(frozen=True)
class Body:
    """What a source sends: the bytes from `start` on, whatever start was asked for."""

    start: int
    chunks: Iterator[bytes]


class Opener(Protocol):
    def __call__(self, file: File, start: int) -> AbstractContextManager[Body]:
        """The file's bytes from `start`. Raises ModelError; Unreachable is tried again."""


def download(
    file: File,
    part: Path,
    open_source: Opener,
    *,
    told: Callable[[int], None],
    cancelled: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Complete `part` and return the SHA-256 of its content. Raises ModelError.

    `told` gets each change of the count of bytes that are here. A part that turns out to be wrong
    is thrown away and brought once more: its first bytes may be of another day.
    """
    resumed = part.exists()
    try:
        return _complete(file, part, open_source, told, cancelled, pause)
    except _Damaged as error:
        if not resumed:
            raise ModelError(FETCH_FAILED, str(error)) from error
    return _complete(file, part, open_source, told, cancelled, pause)


class _Damaged(Exception):
    pass


def _complete(
    file: File,
    part: Path,
    open_source: Opener,
    told: Callable[[int], None],
    cancelled: Callable[[], bool],
    pause: Callable[[float], None],
) -> str:
    with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as out:
        sink = _Sink(file, out, told)
        sink.reread(cancelled)
        idle = 0
        while sink.here < file.size_bytes:
            before = sink.here
            try:
                with open_source(file, sink.here) as body:
                    sink.take(body, cancelled)
                complaint = f"{file.path}: the source ended at {sink.here} of {file.size_bytes}"
            except Unreachable as error:
                complaint = str(error)
            idle = 0 if sink.here > before else idle + 1
            if idle >= TRIES:
                raise Unreachable(complaint)
            if idle:
                pause(PAUSE_S * 2 ** (idle - 1))
        sink.check()
        return sink.sha256.hexdigest()


class _Sink:
    """The part, and the sums of what is in it."""

    def __init__(self, file: File, out: BinaryIO, told: Callable[[int], None]) -> None:
        self.file, self._out, self._told = file, out, told
        self._begin()

    def _begin(self) -> None:
        self.here = 0
        self.sha256 = hashlib.sha256()
        # What git itself names a file by; it vouches for small files, and nothing else does.
        self._git = hashlib.sha1(b"blob %d\0" % self.file.size_bytes, usedforsecurity=False)

    def reread(self, cancelled: Callable[[], bool]) -> None:
        """Take up what an earlier try left."""
        while chunk := self._out.read(BUFFER):
            _go_on(cancelled)
            self._count(chunk)
        if self.here > self.file.size_bytes:
            self._empty()

    def take(self, body: Body, cancelled: Callable[[], bool]) -> None:
        if body.start != self.here:
            if body.start:
                raise Unreachable(f"{self.file.path}: the source sent another part of it")
            self._empty()  # it cannot resume
        for chunk in body.chunks:
            _go_on(cancelled)
            if self.here + len(chunk) > self.file.size_bytes:
                raise _Damaged(f"{self.file.path}: the source sends more than it lists")
            self._out.write(chunk)
            self._count(chunk)
        self._out.flush()

    def check(self) -> None:
        """Raises _Damaged, and then nothing is left of it."""
        wrong = (self.file.sha256 and self.file.sha256 != self.sha256.hexdigest()) or (
            self.file.git_sha1 and self.file.git_sha1 != self._git.hexdigest()
        )
        if wrong:
            self._empty()
            raise _Damaged(f"{self.file.path}: what the source sent is not what it lists")

    def _count(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        if self.file.git_sha1:
            self._git.update(chunk)
        self.here += len(chunk)
        self._told(self.here)

    def _empty(self) -> None:
        self._out.seek(0)
        self._out.truncate()
        self._begin()
        self._told(0)


def _go_on(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled
