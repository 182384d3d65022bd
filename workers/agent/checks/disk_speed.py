"""How fast the disk of the cache is: a short write and read past the page cache."""

import mmap
import os
import tempfile
import time
from pathlib import Path

from workers.agent.checks.finding import Finding
from workers.agent.health.disk import nearest

MEGABYTE = 1_000_000
BLOCK = 4 << 20
BYTES = 256 << 20
MOST_S = 3.0  # of each direction
# Below it the weights of a model of 16 GB take more than 80 s to be read.
SLOW_MB_S = 200.0


def findings(directory: Path, *, size: int = BYTES, slow_mb_s: float = SLOW_MB_S) -> list[Finding]:
    """Measured in a file of its own that no name leads to. Blocks for up to 2 * MOST_S."""
    there = nearest(directory)
    try:
        written, read, direct = _measure(there, size)
    except OSError as error:
        text = f"nothing can be written at {there}: {error.strerror}"
        cure = "make room, or see the kernel's log for the disk; or move STOA_CACHE_DIR"
        return [Finding("disk speed", False, text, cure, refuses=True)]
    how = "past the page cache" if direct else "through the page cache: no direct I/O there"
    text = f"{written:.0f} MB/s written, {read:.0f} MB/s read at {there} ({how})"
    figures = {"written_mb_s": round(written, 1), "read_mb_s": round(read, 1)}
    slow = read < slow_mb_s
    cure = f"move STOA_CACHE_DIR to a disk that reads {slow_mb_s:.0f} MB/s: starts read weights"
    return [Finding("disk speed", not slow, text, cure if slow else "", figures=figures)]


def _measure(directory: Path, size: int) -> tuple[float, float, bool]:
    """MB/s written and read, and whether it was direct."""
    handle, direct = _open(directory)
    # Direct I/O wants memory on page bounds, which a map has; and no zeros, which some disks skip.
    block = mmap.mmap(-1, BLOCK)
    try:
        block.write(os.urandom(BLOCK))
        began, done = time.perf_counter(), 0
        while done < size and time.perf_counter() - began < MOST_S:
            done += os.pwrite(handle, block, done)
        os.fsync(handle)
        written = _rate(done, began)
        if not direct:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        began, seen = time.perf_counter(), 0
        while seen < done and time.perf_counter() - began < MOST_S:
            seen += os.preadv(handle, [block], seen)
        return written, _rate(seen, began), direct
    finally:
        block.close()
        os.close(handle)


def _open(directory: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_TMPFILE
    try:
        return os.open(directory, flags | os.O_DIRECT, 0o600), True
    except OSError:
        pass  # some file systems know no direct I/O, some no file without a name
    handle, name = tempfile.mkstemp(dir=directory)
    os.unlink(name)
    return handle, False


def _rate(count: int, began: float) -> float:
    return count / MEGABYTE / max(time.perf_counter() - began, 1e-9)
