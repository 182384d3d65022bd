"""What is kept running comes back, whoever it is; what cannot start says so; all end in turn."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.agent import kin
from workers.local.embedded import Postgres, ServerError, Valkey, free_port
from workers.local.supervisor import Process, Supervisor, Turn

LIVES = "import time\nwhile True: time.sleep(60)"
# Notes the moment of its end.
NOTES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(open(sys.argv[1], "w").write(repr(time.time()))))
open(sys.argv[1] + ".up", "w").close()
while True: time.sleep(60)
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(said.append)
    yield supervisor
    supervisor.stop()


def process(folder: Path, name: str, code: str, *arguments: str) -> Process:
    command = [sys.executable, "-c", code, *arguments]
    return Process(name, command, {"PATH": os.environ["PATH"]}, folder / f"{name}.log")


def wait(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def test_what_dies_comes_back(supervisor: Supervisor, said: list[str], tmp_path: Path) -> None:
    one = process(tmp_path, "one", LIVES)
    supervisor.start(one)
    assert one.child is not None
    first = one.child.pid
    os.kill(first, signal.SIGKILL)
    wait(lambda: one.child is not None and one.child.pid != first and one.ended() is None)
    (line,) = said
    assert "one ended (signal SIGKILL)" in line
    assert str(one.log) in line


def test_what_dies_at_once_is_tried_ever_later(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    supervisor.start(process(tmp_path, "dud", "raise SystemExit(3)"))
    wait(lambda: len(said) == 3)
    assert [line.split("; ")[1].split(":")[0] for line in said] == [
        "again in 0.5 s",
        "again in 1 s",
        "again in 2 s",
    ]
    assert all("exit code 3" in line for line in said)


def test_killed_servers_come_back_with_their_data(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    postgres = Postgres(tmp_path / "pg", free_port(), tmp_path / "pg.log")
    valkey = Valkey(tmp_path / "valkey", free_port(), tmp_path / "valkey.log")
    for server in (postgres, valkey):
        supervisor.start(server, Turn.LAST)
    before = {server.process.pid for server in (postgres, valkey) if server.process}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait(lambda: not before & {s.process.pid for s in (postgres, valkey) if s.process})
    wait(lambda: [s.ended() for s in (postgres, valkey)] == [None, None])
    supervisor.stop()
    assert {line.split()[0] for line in said} == {"postgres", "valkey"}
    assert postgres.ended() == 0
    assert valkey.ended() == 0


def test_a_first_start_that_fails_is_the_callers(supervisor: Supervisor, tmp_path: Path) -> None:
    class Broken(Valkey):
        def _binary(self) -> Path:
            return Path("/bin/false")

    broken = Broken(tmp_path / "valkey", free_port(), tmp_path / "valkey.log")
    with pytest.raises(ServerError, match="Valkey stopped at once"):
        supervisor.start(broken)
    alive = process(tmp_path, "other", LIVES)
    supervisor.start(alive)  # the others are none the worse for it
    assert alive.ended() is None


def test_they_end_in_their_turn(supervisor: Supervisor, tmp_path: Path) -> None:
    turns = {"database": Turn.LAST, "web": Turn.MIDDLE, "agent": Turn.FIRST}
    for name, turn in turns.items():
        supervisor.start(process(tmp_path, name, NOTES, str(tmp_path / name)), turn)
    wait(lambda: all((tmp_path / f"{name}.up").exists() for name in turns))
    supervisor.stop()
    ended = {name: float((tmp_path / name).read_text()) for name in turns}
    assert sorted(ended, key=lambda name: ended[name]) == ["agent", "web", "database"]


def test_who_does_not_listen_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    deaf = process(
        tmp_path,
        "deaf",
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').close()\nwhile True: time.sleep(60)",
        str(tmp_path / "up"),
    )
    deaf.stop_timeout_s = 0.2
    supervisor.start(deaf)
    wait((tmp_path / "up").exists)
    assert deaf.child is not None
    supervisor.stop()
    assert kin.read(deaf.child.pid) is None
    assert deaf.ended() == -signal.SIGKILL
