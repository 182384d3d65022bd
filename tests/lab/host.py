"""One host of the lab: a process tree with a network, files and process ids of its own.

Its namespaces are held by its first process alone, and the kernel ends that one with whoever
made it: so nothing is left, not even after a kill -9.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from tests.lab.spaces import NETWORK, within

ROOT = Path(__file__).resolve().parents[2]
_INIT = Path(__file__).with_name("init.py")
_UNSHARED = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc")


class LabError(Exception):
    """A host could not be made; the message says why."""


@dataclass
class Plan:
    """What the first process of a host does before anything else runs there."""

    name: str
    # (what, over what, whether it is for reading alone), in this order
    binds: list[tuple[str, str, bool]] = field(default_factory=list)
    kernel: dict[str, str] = field(default_factory=dict)  # sysctl -> value
    commands: list[list[str]] = field(default_factory=list)


class Host:
    """`address` is its own on the lab's network; `folder` is where its own files lie, as seen from
    outside (`file`)."""

    def __init__(self, plan: Plan, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = plan.name, address, folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._own = {target: source for source, target, _ in plan.binds}
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", *_UNSHARED, "--kill-child=KILL", "--",
             sys.executable, "-I", str(_INIT), json.dumps(asdict(plan))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            self._holder.kill()
            raise LabError(f"{plan.name}: {self._holder.stderr.read().decode()[-1000:]}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self.init = int(children.read_text().split()[0])

    # --- what runs there ----------------------------------------------------------------

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        output: IO[bytes] | int = subprocess.DEVNULL,
        cwd: str | Path = ROOT,
    ) -> subprocess.Popen[bytes]:
        """Start a program there. It is our child: its pid, status and signals are as ever. It ends
        with its host."""
        program = within(
            self.init,
            lambda: subprocess.Popen(
                list(argv),
                env=None if env is None else dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ),
        )
        self._started.append(program)
        return program

    def run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        cwd: str | Path = ROOT,
        within_s: float = 120.0,
    ) -> str:
        """Run a program there to its end; what it said. Raises LabError where it fails."""
        program = self.start(argv, env, output=subprocess.PIPE, cwd=cwd)
        try:
            said, _ = program.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            program.kill()
            said, _ = program.communicate()
            raise LabError(f"{self.name}: {argv} took over {within_s:g} s: {said!r}") from None
        if program.returncode:
            text = said.decode(errors="replace")
            raise LabError(f"{self.name}: {argv} ended with {program.returncode}: {text[-2000:]}")
        return said.decode(errors="replace")

    def network(self, *argv: str) -> str:
        """`ip` and the like, in its network alone (its own files may lack the program)."""
        done = within(self.init, lambda: _captured(argv), NETWORK)
        if done.returncode:
            raise LabError(f"{self.name}: {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def file(self, path: str | Path) -> Path:
        """Where a file of it lies for us: the same place, unless it is among its own."""
        path = Path(path)
        for target, source in self._own.items():
            if path.is_relative_to(target):
                return Path(source) / path.relative_to(target)
        return path

    # --- its end --------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self._holder.poll() is None

    def kill(self) -> None:
        """As if its power were cut: everything that runs there is gone at once."""
        if self.up:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
        # The first process of a host is dead when all others are buried, and some are ours.
        for program in (*self._started, self._holder):
            program.wait()
            for stream in (program.stdout, program.stderr):
                if stream is not None:
                    stream.close()


def _captured(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(argv), capture_output=True, text=True)
