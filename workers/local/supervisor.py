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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from workers.local.embedded import ServerError, dies_with_us

RESTART_MAX_S = 30.0
STABLE_AFTER_S = 60.0


class Watched(Protocol):
    """What can be kept running: a process of ours, or an embedded server."""

    name: str
    log: Path

    def start(self) -> None:
        """Start it, again too. Raises ServerError where it does not come up."""

    def ended(self) -> int | None:
        """Its exit code once it has ended."""

    def stop(self) -> None:
        """End it and wait; nothing where it has ended."""


class Turn(IntEnum):
    """When something is stopped: what has something to tell the others goes before them.

    Those of one turn are stopped side by side.
    """

    FIRST = 0
    MIDDLE = 1
    LAST = 2


@dataclass
class Process:
    """One of ours: how to start it, and how patient to be when it stops."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    stop_timeout_s: float = 15.0
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [*dies_with_us("TERM"), *self.command],
                env=self.env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        return None if self.child is None else self.child.poll()

    def stop(self) -> None:
        if self.child is None or self.child.poll() is not None:
            return
        self.child.terminate()
        try:
            self.child.wait(self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


@dataclass
class _Kept:
    """One that is kept running, and how that went so far."""

    what: Watched
    turn: Turn
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    begun: bool = False  # the first start is over, well or badly
    error: Exception | None = None  # what it raised

    def start(self) -> None:
        self.started_at = time.monotonic()
        self.what.start()


class Supervisor:
    """Watches what it keeps running from a thread, which starts and stops it all.

    One thread, because the kernel's parent-death signal follows the *thread* that forked: when
    it ended before them, every process would be told to stop at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._kept: list[_Kept] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, what: Watched, turn: Turn = Turn.MIDDLE) -> None:
        """Start `what` and keep it running until `stop`. Raises what its first start raises."""
        kept = _Kept(what, turn)
        with self._changed:
            self._kept.append(kept)
            self._changed.notify_all()
            self._changed.wait_for(lambda: kept.begun)
        if kept.error is not None:
            raise kept.error

    def stop(self) -> None:
        """End everything in its turn; what does not listen is killed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopping:
                for kept in self._kept:
                    if kept.begun:
                        self._revive(kept)
                    else:
                        self._begin(kept)
                self._kept = [kept for kept in self._kept if kept.error is None]
                if all(kept.begun for kept in self._kept):
                    self._changed.wait(0.2)
        for turn in Turn:
            stops = [kept.what.stop for kept in self._kept if kept.turn is turn]
            with ThreadPoolExecutor(max(1, len(stops))) as pool:
                for done in [pool.submit(stop) for stop in stops]:
                    done.result()

    def _begin(self, kept: _Kept) -> None:
        try:
            kept.start()
        except (ServerError, OSError) as error:
            kept.error = error
            kept.what.stop()
        kept.begun = True
        self._changed.notify_all()

    def _revive(self, kept: _Kept) -> None:
        code = kept.what.ended()
        if code is None:
            return
        now = time.monotonic()
        if not kept.restart_at:
            self._defer(kept, f"ended ({_how(code)})", now)
        elif now >= kept.restart_at:
            kept.restart_at = 0.0
            try:
                kept.start()
            except (ServerError, OSError) as error:
                self._defer(kept, f"does not start ({error})", now)

    def _defer(self, kept: _Kept, why: str, now: float) -> None:
        stable = now - kept.started_at > STABLE_AFTER_S
        kept.failures = 1 if stable else kept.failures + 1
        pause = min(0.5 * 2 ** (kept.failures - 1), RESTART_MAX_S)
        kept.restart_at = now + pause
        self._say(f"{kept.what.name} {why}; again in {pause:g} s: {kept.what.log}")


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def python(*arguments: str) -> list[str]:
    """A command of this environment's Python."""
    return [sys.executable, *arguments]
