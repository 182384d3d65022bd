"""Whether a start gets on, and how far it is: what an engine logs, reads and computes.

Lines that it has not said before, bytes that it reads and news of a fetch count without end.
Computing counts too, for a compiler is silent for minutes; but what does nothing else for
`ALONE` times the patience hangs in a circle.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from controlplane.fleet import wire
from workers.agent import kin, startup_log
from workers.agent.engines import Running

ALONE = 4.0
BUSY = 0.1  # of one core: less is a process that polls
BYTES = 1 << 20  # read since the last look; less is chatter
EFFORT_EVERY_S = 5.0  # it looks at every process of the machine
_TEMPLATES = 10_000
_BLOCK = 1 << 20
_NUMBERS = re.compile(r"[\d.,:%|/\\# ]+")


class Progress:
    """When a start last got on, on a monotonic clock. Pure."""

    def __init__(self, now: float) -> None:
        self._told_at = self._worked_at = now

    def told(self, now: float) -> None:
        """There was a line, a byte or news."""
        self._told_at = max(now, self._told_at)

    def worked(self, now: float) -> None:
        """It computed, and nobody can say towards what."""
        self._worked_at = max(now, self._worked_at)

    def stalled_s(self, now: float, patience_s: float) -> float:
        """Seconds without progress; `patience_s` is how many are too many."""
        worked = min(self._worked_at, self._told_at + ALONE * patience_s)
        return max(0.0, now - max(self._told_at, worked))


class Lines:
    """What an engine says while it starts; the same words with other numbers are no news."""

    def __init__(self) -> None:
        self._templates: set[str] = set()

    def new(self, lines: Iterable[str]) -> bool:
        """Whether one of them had not been said before."""
        before = len(self._templates)
        if before < _TEMPLATES:
            self._templates.update(_NUMBERS.sub("#", line) for line in lines)
        return len(self._templates) > before


class Watch:
    """Looks at an engine that starts. `seconds`: what wire.START_STEPS it has been seen to pass,
    each counted from the one before; `since` is when the start began."""

    def __init__(
        self, running: Running, since: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress = Progress(since)
        self.seconds: dict[str, float] = {}
        self._running, self._clock = running, clock
        self._step_at = self._effort_at = since
        self._lines = Lines()
        self._offset = 0
        self._rest = b""
        self._effort: tuple[float, int] | None = None

    def look(self) -> None:
        """Cheap: call it often."""
        now = self._clock()
        lines = self._news()
        if self._lines.new(lines):
            self.progress.told(now)
        for line in lines:
            if (step := startup_log.step(line)) is not None and self._follows(step):
                self._passed(step, now)
        if self._effort is None or now - self._effort_at >= EFFORT_EVERY_S:
            self._look_at_effort(now)

    def listens(self) -> None:
        """It has come to listen: what is left of its start is over."""
        if "loaded" in self.seconds:
            self._passed("compiled", self._clock())

    def _follows(self, step: str) -> bool:
        """Not back: each process of an engine may say the same."""
        order = wire.START_STEPS.index
        return not self.seconds or order(step) >= order(next(reversed(self.seconds)))

    def _passed(self, step: str, now: float) -> None:
        """A step's last line is its end: what comes after weights are read may take longer."""
        before = self.seconds.get(step, 0.0)
        self.seconds[step] = round(before + max(0.0, now - self._step_at), 6)
        self._step_at = now

    def _news(self) -> list[str]:
        with contextlib.suppress(OSError), Path(self._running.log).open("rb") as file:
            file.seek(self._offset)
            block = file.read(_BLOCK)
            self._offset += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            return [line.decode(errors="replace") for line in lines]
        return []

    def _look_at_effort(self, now: float) -> None:
        found = effort(self._running)
        if self._effort is not None:
            cpu_s, read = found[0] - self._effort[0], found[1] - self._effort[1]
            if read >= BYTES:
                self.progress.told(now)
            if cpu_s >= BUSY * (now - self._effort_at):
                self.progress.worked(now)
        self._effort, self._effort_at = found, now


def effort(running: Running) -> tuple[float, int]:
    """What an engine's processes have computed (seconds) and read (bytes) since they began."""
    cpu_s, read = 0.0, 0
    for process in kin.of(running.pid, running.start_time, running.uid):
        folder = Path("/proc") / str(process.pid)
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for line in (folder / "io").read_text().splitlines():
                name, _, count = line.partition(": ")
                if name in ("rchar", "read_bytes"):
                    read += int(count)
    return cpu_s, read
