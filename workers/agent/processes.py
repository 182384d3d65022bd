"""Finding our engines among the machine's processes, without a word from any record.

Each process that the agent starts carries two marks in its environment, STOA_AGENT (which agent
directory) and, where it is known at exec, STOA_REPLICA. The kernel keeps a process's first
environment in /proc, its children inherit it, and even a child that a standby forks shows its
standby's: so whatever line a killed agent had reached, what it left behind can be found. Reading
the environment of another uid needs root, and only root starts engines under another uid.
"""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from workers.agent import kin

AGENT_MARK = "STOA_AGENT"
REPLICA_MARK = "STOA_REPLICA"

_PROC = Path("/proc")


@dataclass(frozen=True)
class Marked:
    """A process that some run of this agent started, or a descendant of one."""

    process: kin.Process
    replica_id: str  # empty for a standby and what it forked


def marks(directory: Path, replica_id: str = "") -> dict[str, str]:
    """The environment variables for a process started on behalf of the agent in `directory`."""
    found = {AGENT_MARK: mark(directory)}
    return {**found, REPLICA_MARK: replica_id} if replica_id else found


def mark(directory: Path) -> str:
    """Names an agent directory; no secret is in it."""
    return hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]


def machine_boot() -> str:
    """Changes when the machine starts anew, and with it the monotonic clock and every pid."""
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def marked(directory: Path) -> list[Marked]:
    """Every living process with this agent's mark, this one apart."""
    wanted = f"{AGENT_MARK}={mark(directory)}".encode()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or somebody else's
        if wanted in environment and (process := kin.read(int(entry.name))) is not None:
            found.append(Marked(process, _value(environment, REPLICA_MARK)))
    return found


def _value(environment: list[bytes], name: str) -> str:
    prefix = f"{name}=".encode()
    values = (entry[len(prefix) :] for entry in environment if entry.startswith(prefix))
    return next(values, b"").decode(errors="replace")


def unaccounted(found: Iterable[Marked], engines: set[int], standbys: set[int]) -> list[Marked]:
    """Those that are neither a standby nor in the session of an engine, nor below one.

    What hangs below a standby and belongs to no known engine is an engine that it forked for an
    agent that did not live to write that down.
    """
    by_pid = {one.process.pid: one for one in found}

    def belongs(one: Marked) -> bool:
        seen: set[int] = set()
        here: Marked | None = one
        while here is not None and here.process.pid not in seen:
            if here.process.pid in engines or here.process.session in engines:
                return True
            seen.add(here.process.pid)
            here = by_pid.get(here.process.parent)
        return False

    return [one for one in by_pid.values() if one.process.pid not in standbys and not belongs(one)]


def reap(
    directory: Path,
    engines: set[int],
    standbys: Callable[[], set[int]] = set,
    *,
    timeout_s: float = 10.0,
) -> list[Marked]:
    """Kill what carries our mark and is none of `engines` and `standbys`, until none is left.

    Repeated, because a process that is being killed may have just forked. Returns the killed.
    Raises TimeoutError when some would not die.
    """
    killed: dict[kin.Process, Marked] = {}
    deadline = time.monotonic() + timeout_s
    while left := unaccounted(marked(directory), engines, standbys()):
        for one in left:
            kin.send(one.process, signal.SIGKILL)
            killed.setdefault(one.process, one)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes that do not die: {[one.process.pid for one in left]}")
        time.sleep(0.02)
    return list(killed.values())
