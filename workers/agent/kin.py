"""All processes of one engine: its session, its descendants, and whoever runs under its uid."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    start_time: int  # clock ticks since boot: with the pid, no other process shares it
    uid: int


def read(pid: int) -> Process | None:
    """A living process; None for one that is gone or only waits to be reaped."""
    folder = _PROC / str(pid)
    try:
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        uid = folder.stat().st_uid
        # A process that changed its uid without an exec has root's files in /proc.
        if uid == 0:
            uid = _real_uid(folder)
    except (OSError, ValueError, IndexError):
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), uid)


def everybody() -> list[Process]:
    """Every living process of the machine, kernel threads included."""
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [process for pid in pids if (process := read(pid)) is not None]


def of(pid: int, start_time: int, uid: int | None) -> list[Process]:
    """The living processes of the engine whose first process was (`pid`, `start_time`).

    `uid` is the engine's own, None where it shares ours. The first process may be dead: its
    children are found by their session, which nobody else can have had while one of them lives.
    """
    living = everybody()
    leader = next((process for process in living if process.pid == pid), None)
    stranger = leader is not None and leader.start_time != start_time
    found = set() if stranger else {p.pid for p in living if pid in (p.pid, p.session)}
    if uid is not None:
        found |= {process.pid for process in living if process.uid == uid}
    while more := {p.pid for p in living if p.parent in found} - found:
        found |= more
    return [process for process in living if process.pid in found and process.pid != os.getpid()]


def send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process, never a later one that was given its pid."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        handle = os.pidfd_open(process.pid)
        try:
            now = read(process.pid)
            if now is not None and now.start_time == process.start_time:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def end(pid: int, start_time: int, uid: int | None, *, timeout_s: float = 10.0) -> list[Process]:
    """SIGKILL to all of them until none is left. Returns those that would not die."""
    deadline = time.monotonic() + timeout_s
    # Again and again: one that is being killed may have forked a moment ago.
    while (left := of(pid, start_time, uid)) and time.monotonic() < deadline:
        for process in left:
            send(process, signal.SIGKILL)
        time.sleep(0.02)
    return left


def _real_uid(folder: Path) -> int:
    for line in (folder / "status").read_text(errors="replace").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return 0
