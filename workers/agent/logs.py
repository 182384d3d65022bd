"""Engines' logs on their way to the control plane: numbered lines, in chunks, at least once.

A line's number is its place in the file (and goes on over a rotation), so that a chunk sent
twice is seen to be the same.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files

CHUNK_LINES = 200
LINE_CHARS = 2000
TAIL_LINES = 40
KEPT_FILES = 100
SKIP_BEYOND_BYTES = 4 << 20  # after a long outage, the newest this much is enough
_BLOCK = 1 << 18


class _Place(msgspec.Struct):
    inode: int = 0
    offset: int = 0
    lines: int = 0  # counted up to `offset`, over all files that the log has had


class Follower:
    """Reads one log from where the last chunk that arrived ended; `cursor` remembers where."""

    def __init__(self, replica_id: str, cursor: Path) -> None:
        self._replica_id, self._cursor = replica_id, cursor
        self._place = _load(cursor)
        self._next = self._place

    def read(self, log: Path, *, final: bool) -> wire.LogChunk | None:
        """The next chunk, or None. `final`: a last line without its end counts too."""
        try:
            with log.open("rb") as file:
                place = self._here(file.fileno())
                file.seek(place.offset)
                block = file.read(_BLOCK)
        except OSError:
            return None
        lines = _lines(block, final=final and len(block) < _BLOCK)[:CHUNK_LINES]
        if not lines:
            return None
        size = sum(len(line) for line in lines)
        self._next = _Place(place.inode, place.offset + size, place.lines + len(lines))
        return wire.LogChunk(
            replica_id=self._replica_id,
            first_number=place.lines + 1,
            lines=[clean(line) for line in lines],
        )

    def arrived(self) -> None:
        """The last chunk is with the control plane."""
        self._place = self._next
        # Lost with the power, it costs a few lines sent twice.
        files.write(self._cursor, msgspec.json.encode(self._place), durable=False)

    def _here(self, handle: int) -> _Place:
        stat, place = os.fstat(handle), self._place
        if (place.inode and place.inode != stat.st_ino) or stat.st_size < place.offset:
            place = _Place(0, 0, place.lines)  # rotated: a new file, numbers go on
        behind = stat.st_size - place.offset
        if behind > SKIP_BEYOND_BYTES:
            skipped = os.pread(handle, behind - SKIP_BEYOND_BYTES, place.offset)
            kept = skipped[: skipped.rfind(b"\n") + 1]
            place = _Place(0, place.offset + len(kept), place.lines + kept.count(b"\n"))
        return _Place(stat.st_ino, place.offset, place.lines)


def tail(log: str | Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log; none where there is no such file."""
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _BLOCK))
            return [clean(line) for line in _lines(file.read(), final=True)[-lines:]]
    except OSError:
        return []


def prune(directory: Path, keep: int = KEPT_FILES) -> None:
    """Remove the oldest logs. Those of engines that run are written to, and so are new."""
    with contextlib.suppress(FileNotFoundError):
        by_age = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in by_age[:-keep]:
            path.unlink()


def clean(line: bytes) -> str:
    """One line as text that a database takes: no NUL, at most LINE_CHARS characters.

    Of a progress bar, which overwrites its line, the last state is kept.
    """
    shown = line.rstrip(b"\r\n").rpartition(b"\r")[2]
    return shown.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")[:LINE_CHARS]


def _lines(block: bytes, *, final: bool) -> list[bytes]:
    """The lines of a block, with their ends; `final`: one without an end too.

    A line longer than a block is cut into several.
    """
    *lines, rest = block.split(b"\n")
    lines = [line + b"\n" for line in lines]
    if rest and (final or len(rest) == _BLOCK):
        lines.append(rest)
    return lines


def _load(cursor: Path) -> _Place:
    content = files.read(cursor)
    if content is None:
        return _Place()
    try:
        return msgspec.json.decode(content, type=_Place)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Place()
