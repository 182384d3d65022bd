"""Our own children: start them, start them again when they die, stop them in order.

Each process has its own session and log file. The kernel ends it when this supervisor dies,
however it dies, so that nothing is left behind that nobody watches.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workers.local.embedded import dies_with_us

RESTART_MAX_S = 30.0
STABLE_AFTER_S = 60.0


@dataclass
class Process:
    """One of ours: how to start it, and how patient to be when it stops."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    stop_timeout_s: float = 15.0
    stop_first: bool = False  # it has something to tell the others when it stops
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [*dies_with_us("TERM"), *self.command],
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    def tail(self, lines: int = 5) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Supervisor:
    """Watches its processes from a thread, which starts and stops them all.

    One thread, because the kernel's parent-death signal follows the *thread* that forked: when
    it ended before them, every process would be told to stop at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._processes: list[Process] = []
        self._wanted: list[Process] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, process: Process) -> None:
        """Start `process` and keep it running until `stop`."""
        with self._changed:
            self._wanted.append(process)
            self._changed.notify_all()
            self._changed.wait_for(lambda: process in self._processes)

    def alive(self, process: Process) -> bool:
        return process.child is not None and process.child.poll() is None

    def stop(self) -> None:
        """End every process in order; one that does not listen is killed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopping:
                while self._wanted:
                    process = self._wanted.pop(0)
                    process.start()
                    self._processes.append(process)
                    self._changed.notify_all()
                for process in self._processes:
                    self._revive(process)
                self._changed.wait(0.2)
        for process in sorted(self._processes, key=lambda each: not each.stop_first):
            _end(process)

    def _revive(self, process: Process) -> None:
        assert process.child is not None
        code = process.child.poll()
        if code is None:
            return
        now = time.monotonic()
        if not process.restart_at:
            stable = now - process.started_at > STABLE_AFTER_S
            process.failures = 1 if stable else process.failures + 1
            pause = min(0.5 * 2 ** (process.failures - 1), RESTART_MAX_S)
            process.restart_at = now + pause
            self._say(f"{process.name} ended ({_how(code)}); again in {pause:g} s: {process.log}")
        elif now >= process.restart_at:
            process.restart_at = 0.0
            process.start()


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end(process: Process) -> None:
    if process.child is None or process.child.poll() is not None:
        return
    process.child.terminate()
    try:
        process.child.wait(process.stop_timeout_s)
    except subprocess.TimeoutExpired:
        process.child.kill()
        process.child.wait()


def python(*arguments: str) -> list[str]:
    """A command of this environment's Python."""
    return [sys.executable, *arguments]
