"""One file of the spool: preallocated, appended to by one process, read back after a crash."""

import os
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from gateway.records import CloseRecord, Record, scan

_NAME = re.compile(r"(\d{10})\.segment")


class Segment:
    """`end` is where the next record goes; closes wait in `closes` until they are shipped.

    `closes` is None when the backlog is long and they stay on disk until their turn comes.
    """

    def __init__(self, folder: Path, number: int, size: int) -> None:
        """Make the file and hold `size` bytes of the disk for it. Raises OSError."""
        self.number = number
        self.size = size
        self.path = folder / f"{number:010d}.segment"
        self.end = 0
        self.shipped = 0  # every close that ends at or before this offset is acknowledged
        self.live = 0  # opens in here that are not closed yet
        self.closes: deque[tuple[int, CloseRecord]] | None = deque()
        self.used_at = 0.0  # monotonic: when its first record came
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(self.fd, 0, size)
        except OSError:
            self.discard()
            raise

    def append(self, frame: bytes) -> None:
        """Raises OSError; then nothing was appended: the next record takes the same place."""
        if not self.end:
            self.used_at = time.monotonic()
        written = os.pwrite(self.fd, frame, self.end)
        while written < len(frame):
            written += os.pwrite(self.fd, frame[written:], self.end + written)
        self.end += written

    def reload(self) -> None:
        """Read the closes that are not acknowledged back from disk."""
        self.closes = deque(closes(self.path, self.shipped))

    def discard(self) -> None:
        os.close(self.fd)
        self.path.unlink(missing_ok=True)


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The segments in a folder, oldest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def records(path: Path, start: int = 0) -> Iterator[tuple[int, Record]]:
    return scan(path.read_bytes(), start)


def closes(path: Path, start: int = 0) -> Iterator[tuple[int, CloseRecord]]:
    return (
        (end, record) for end, record in records(path, start) if isinstance(record, CloseRecord)
    )
