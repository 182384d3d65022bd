"""What a program and its children use, from /proc, and how one is started and ended."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from workers.agent import kin
from workers.local.embedded import dies_with_us, port_taken

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# LiteLLM, for one, would take our DATABASE_URL for its own.
_PASSED = ("PATH", "HOME", "LANG")


def cpu_s(stat: str) -> float:
    """User and system time in one /proc/PID/stat; the name in it may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(statm: str) -> int:
    return int(statm.split()[1]) * _PAGE


def family(pids: list[int]) -> set[int]:
    """The processes and all their descendants."""
    found, everybody = set(pids), kin.everybody()
    while more := {each.pid for each in everybody if each.parent in found} - found:
        found |= more
    return found


class PeerError(Exception):
    """A peer cannot be had or does not run; the message says why."""


@dataclass
class Program:
    """A started program with everything that it started; its output is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: list[str], log: Path, env: dict[str, str] | None = None) -> "Program":
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*dies_with_us("TERM"), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={name: os.environ[name] for name in _PASSED if name in os.environ}
                | (env or {}),
                cwd=log.parent,
                start_new_session=True,
            )
        _weigh_as_we_do(process.pid)
        return cls(process, log)

    def cpu_s(self) -> float:
        return sum(cpu_s(text) for text in self._read("stat"))

    def rss_bytes(self) -> int:
        return sum(rss_bytes(text) for text in self._read("statm"))

    def _read(self, name: str) -> list[str]:
        texts = []
        for pid in family([self.process.pid]):
            try:
                texts.append(Path(f"/proc/{pid}/{name}").read_text())
            except OSError:
                continue  # it has ended in this moment
        return texts

    def listens(self, port: int, within_s: float = 20.0) -> None:
        """Wait until it does. Raises PeerError."""
        deadline = time.monotonic() + within_s
        while not port_taken(port):
            if ended := self.ended():
                raise PeerError(ended)
            if time.monotonic() > deadline:
                raise PeerError(f"nobody listens on port {port}")
            time.sleep(0.05)

    def ended(self) -> str | None:
        """Why it runs no longer: its last lines."""
        if self.process.poll() is None:
            return None
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"it ended with {self.process.returncode}: {' | '.join(lines[-3:])[-400:]}"

    def stop(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _weigh_as_we_do(pid: int) -> None:
    """Linux weighs sessions, not processes: on a busy machine whoever gave this run's session
    priority (`echo -15 > /proc/self/autogroup`, as root) means the sessions that it starts too."""
    with contextlib.suppress(OSError):
        nice = Path("/proc/self/autogroup").read_text().split()[-1]
        if nice != "0":
            Path(f"/proc/{pid}/autogroup").write_text(nice)
