"""The agent's side of the standby: keep one warm, ask it for engines (launcher/standby.py).

A standby serves one organization, or all where the pool's policy shares it: what is forked from
one parent shares its memory layout, and that is for one tenant to know. `Standbys` keeps an
unbound one ready, gives it away at the first need, and warms the next behind it.

Everything here blocks; call it from a thread.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.agent import kin, shared_libraries
from workers.agent.environment import LAUNCHER, Environment

SHARED = "shared"  # the organization of a standby that serves all
WARM_TIMEOUT_S = 180.0
# A standby in the middle of an import answers when that is done. It forks within the first, and
# we wait for the second, so that a fork that nobody heard of cannot be.
FORK_WITHIN_S = 20.0
REPLY_TIMEOUT_S = 30.0


class StandbyError(Exception):
    """There is no standby to fork from, or it refused."""


class Standby:
    """One standby process, in `directory` (0700, short path), made if need be."""

    def __init__(
        self,
        environment: Environment,
        directory: Path,
        organization: str = "",
        *,
        marks: Mapping[str, str] | None = None,
    ) -> None:
        self.environment = environment
        self.directory = directory
        self.organization = organization
        self.marks = dict(marks or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._start_time = 0

    @property
    def socket(self) -> Path:
        return self.directory / "standby.sock"

    @property
    def pid(self) -> int:
        """0 when none was started or adopted."""
        return self._pid

    def start(self) -> None:
        """Begin to warm one up, or adopt one that outlived an earlier agent. Returns at once."""
        if self.alive():
            return
        status = self._adoptable()
        if status is not None:
            self._remember(int(status["pid"]))
            self.organization = status["organization"]
            return
        self.stop()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = {
            "directory": str(self.directory),
            "organization": self.organization,
            "fingerprint": fingerprint(self.environment),
        }
        command = self.environment.program("standby", json.dumps(options))
        with (self.directory / "standby.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._variables(),
                start_new_session=True,
            )
        self._remember(self._process.pid)
        (self.directory / "standby.pid").write_text(str(self._process.pid))

    def alive(self) -> bool:
        if self._process is not None:
            self._process.poll()  # or it stays a zombie
        now = kin.read(self._pid) if self._pid else None
        return now is not None and now.start_time == self._start_time

    def ready(self) -> bool:
        """True when a fork would be served at once."""
        return self.alive() and self.socket.exists()

    def status(self) -> dict[str, Any]:
        """pid, organization, warm, fingerprint, import_s. Raises StandbyError."""
        return self._ask({"do": "status"})

    def bind(self, organization: str) -> None:
        """Give it to an organization; its first fork makes that final. Raises StandbyError."""
        if self.organization not in ("", organization):
            raise StandbyError(f"this standby belongs to {self.organization}")
        self.organization = organization

    def fork(self, request: Mapping[str, Any]) -> tuple[int, int]:
        """Ask for an engine; `request` as in launcher/engine.py, and `exit`. Returns its pid and
        start time. Waits for the imports where they are not done yet. Raises StandbyError."""
        if not self.organization:
            raise StandbyError("the standby was given to no organization")
        self._wait()
        expires = time.monotonic() + FORK_WITHIN_S
        ours = {"do": "fork", "organization": self.organization, "expires": expires}
        reply = self._ask({**ours, **request})
        return int(reply["pid"]), int(reply["start_time"])

    def stop(self) -> None:
        """End the standby; engines that it forked live on."""
        with contextlib.suppress(OSError, ValueError):
            # One that an earlier agent left behind and that does not answer.
            self._end(int((self.directory / "standby.pid").read_text()))
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._process = None
        self._pid = 0
        for name in ("standby.sock", "standby.pid"):
            (self.directory / name).unlink(missing_ok=True)

    def _end(self, pid: int) -> None:
        process = kin.read(pid)
        if process is None or not _is_standby(pid, self.directory):
            return
        kin.send(process, signal.SIGTERM)
        deadline = time.monotonic() + 3
        while kin.read(pid) is not None and time.monotonic() < deadline:
            self._poll()
            time.sleep(0.02)
        kin.send(process, signal.SIGKILL)

    def _poll(self) -> None:
        if self._process is not None:
            self._process.poll()

    def _adoptable(self) -> dict[str, Any] | None:
        with contextlib.suppress(StandbyError, KeyError, ValueError):
            status = self.status()
            ours = status["fingerprint"] == fingerprint(self.environment)
            if ours and self.organization in ("", status["organization"]):
                return status
        return None

    def _remember(self, pid: int) -> None:
        process = kin.read(pid)
        self._pid, self._start_time = pid, process.start_time if process else 0

    def _variables(self) -> dict[str, str]:
        """Nothing of the agent's own environment: engines inherit this memory."""
        home = str(self.directory)
        return {
            **self.marks,
            "PATH": f"{self.environment.root / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": shared_libraries.folder(self.environment.root),
            "LANG": "C.UTF-8",
            "HOME": home,
            "XDG_CACHE_HOME": f"{home}/cache",
            "HF_HOME": f"{home}/cache/huggingface",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            "SPT_NOENV": "1",  # keep process titles out of the marks' place in memory
            # One thread: read when the libraries load, and what makes the fork sound.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }

    def _wait(self) -> None:
        deadline = time.monotonic() + WARM_TIMEOUT_S
        while not self.ready():
            if not self.alive():
                raise StandbyError(f"the standby is not running: {self._last_line()}")
            if time.monotonic() > deadline:
                raise StandbyError(f"the standby did not get ready in {WARM_TIMEOUT_S:.0f} s")
            time.sleep(0.02)

    def _last_line(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.directory / "standby.log").read_text(errors="replace").splitlines()
            return lines[-1][:300] if lines else "no output"
        return "it was never started"

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(REPLY_TIMEOUT_S)
                connection.connect(str(self.socket))
                connection.sendall(json.dumps(request).encode() + b"\n")
                reply: dict[str, Any] = json.loads(connection.makefile("rb").readline())
        except (OSError, ValueError) as error:
            raise StandbyError(f"the standby does not answer: {error}") from error
        if "error" in reply:
            raise StandbyError(reply["error"])
        return reply


class Standbys:
    """All standbys of a node for one environment, in `directory`/<number>.

    A warm standby takes about 0.6 GB; `spare_bytes` must be free before another is warmed.
    """

    def __init__(
        self,
        environment: Environment,
        directory: Path,
        *,
        marks: Mapping[str, str] | None = None,
        most: int = 4,
        spare_bytes: int = 3 << 30,
    ) -> None:
        self.environment = environment
        self.directory = directory
        self.marks = dict(marks or {})
        self.most = most
        self.spare_bytes = spare_bytes
        self._known: dict[int, Standby] = {}

    def tend(self) -> None:
        """Adopt or start what should be there; call it now and then. Returns at once."""
        for number in self._numbers():
            if number not in self._known:
                self._add(number)  # left by an earlier agent
        for number, standby in list(self._known.items()):
            if not standby.alive():
                standby.stop()
                del self._known[number]
        if self._unbound() is None and self._room():
            taken = set(self._known)
            self._add(next(n for n in range(self.most) if n not in taken)).start()

    def lend(self, organization: str, *, share: bool) -> Standby | None:
        """The standby for an organization's next engine, warm or warming; None: start it cold.

        Binds an unbound one.
        """
        wanted = SHARED if share else organization
        for standby in self._known.values():
            if standby.organization == wanted and standby.alive():
                return standby
        unbound = self._unbound()
        if unbound is not None:
            unbound.bind(wanted)
        return unbound

    def pids(self) -> set[int]:
        # Another thread may tend them meanwhile.
        return {standby.pid for standby in list(self._known.values()) if standby.alive()}

    def stop(self) -> None:
        for number in self._numbers():
            if number not in self._known:
                self._add(number)
        for standby in self._known.values():
            standby.stop()
        self._known.clear()

    def _unbound(self) -> Standby | None:
        free = (s for s in self._known.values() if not s.organization and s.alive())
        return next(free, None)

    def _room(self) -> bool:
        if len(self._known) >= self.most:
            return False
        # The first is worth its memory on any node that can run an engine at all.
        return not self._known or _available_bytes() >= self.spare_bytes

    def _numbers(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(e.name) for e in self.directory.iterdir() if e.name.isdigit())
        return []

    def _add(self, number: int) -> Standby:
        standby = Standby(self.environment, self.directory / str(number), marks=self.marks)
        self._known[number] = standby
        status = standby._adoptable()
        if status is not None:
            standby.start()
        return standby


def fingerprint(environment: Environment) -> str:
    """Equal for standbys that would fork the same engine."""
    digest = hashlib.sha256(str(environment.root).encode())
    for path in sorted(LAUNCHER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _is_standby(pid: int, directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return str(directory).encode() in (Path("/proc") / str(pid) / "cmdline").read_bytes()
    return False


def _available_bytes() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
