"""What an engine that nobody knows any more leaves on a node: real processes, sockets and files."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from workers.agent import kin

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives engines user ids")

# Listens on a port and a unix socket, forks a child that leaves its session, and says so.
GROUP = """
import os, socket, sys, time
if len(sys.argv) > 2:
    os.setresgid(*[int(sys.argv[2])] * 3); os.setresuid(*[int(sys.argv[2])] * 3)
port = socket.create_server(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
if sys.argv[1]:
    unix.bind(sys.argv[1]); unix.listen()
if os.fork() == 0:
    os.setsid()
print(port.getsockname()[1], flush=True)
while True:
    time.sleep(60)
"""


class Group:
    """Two processes of a dead engine, in two sessions, and the port on which both listen."""

    def __init__(self, marks: Mapping[str, str], path: str = "", uid: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GROUP, path, *([str(uid)] if uid is not None else [])],
            env={"PATH": "/usr/bin:/bin", **marks},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        lines = {self.process.stdout.readline(), self.process.stdout.readline()}
        (port,) = lines
        self.port = int(port)
        self.pids = [self.process.pid, *_children(self.process.pid)]
        assert len(self.pids) == 2

    @property
    def alive(self) -> bool:
        self.process.poll()  # ours to reap
        return any(kin.read(pid) is not None for pid in self.pids)

    @property
    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def group(marks: Mapping[str, str], path: str = "", uid: int | None = None) -> Iterator[Group]:
    made = Group(marks, path, uid)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours, ended with the block."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def shared_memory(uid: int) -> int:
    """A System V segment of that uid; its number. It outlives every process."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        os.setresuid(uid, uid, uid)
        os._exit(0 if libc.shmget(0x57000000 | uid, 4096, 0o1600) >= 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    number = int(libc.shmget(0x57000000 | uid, 4096, 0))
    assert number >= 0
    return number


def has_shared_memory(number: int) -> bool:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return any(int(line.split()[1]) == number for line in lines)


def _children(pid: int) -> list[int]:
    return [process.pid for process in kin.everybody() if process.parent == pid]
