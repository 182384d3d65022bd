"""Room on the disks that an agent needs, and whether they can be written to."""

import os
from collections.abc import Iterable
from pathlib import Path

from controlplane.fleet.wire import Finding, Severity

GIB = 1 << 30
LOW_BYTES, LOW_SHARE = 10 * GIB, 0.05
FULL_BYTES, FULL_SHARE = 1 * GIB, 0.01


def findings(directories: Iterable[Path]) -> list[Finding]:
    """Each file system once. Blocks."""
    found, seen = [], set()
    for directory in directories:
        there = nearest(directory)
        try:
            device, status = there.stat().st_dev, os.statvfs(there)
        except OSError as error:
            found.append(_unreadable(directory, error))
            continue
        if device not in seen:
            seen.add(device)
            found += _of(there, status)
    return found


def nearest(directory: Path) -> Path:
    """The directory, or the first above it that is there."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory


def _of(directory: Path, status: os.statvfs_result) -> list[Finding]:
    if status.f_flag & os.ST_RDONLY:
        return [
            Finding(
                check="disk_readonly",
                severity=Severity.CRITICAL,
                text=f"the file system of {directory} is mounted read-only",
                cure="see the kernel's log for what made it so; check the file system",
            )
        ]
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    severity = judged(free, total)
    if severity is None:
        return []
    text = f"{free / GIB:.1f} of {total / GIB:.0f} GiB are free at {directory}"
    cure = "make room, or lower STOA_AGENT_WEIGHTS_BYTES and STOA_AGENT_CACHES_BYTES"
    return [Finding(check="disk_free", severity=severity, text=text, cure=cure)]


def judged(free: int, total: int) -> Severity | None:
    """A large disk is full at a share of it, a small one at so many bytes: whichever is less."""
    if free < min(FULL_BYTES, total * FULL_SHARE):
        return Severity.CRITICAL
    return Severity.WARNING if free < min(LOW_BYTES, total * LOW_SHARE) else None


def _unreadable(directory: Path, error: OSError) -> Finding:
    return Finding(
        check="disk_readonly",
        severity=Severity.CRITICAL,
        text=f"{directory} cannot be looked at: {error.strerror}",
        cure="see the kernel's log; check the disk and its file system",
    )
