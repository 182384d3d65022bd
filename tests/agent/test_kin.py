"""Which processes belong to an engine, tried on small processes of our own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from workers.agent import kin

# A session leader with a child, and a grandchild in a session of its own; it prints their pids.
FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep)
away = subprocess.Popen(sleep, start_new_session=True)
print(child.pid, away.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    leader = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert leader.stdout is not None
    child, away = map(int, leader.stdout.readline().split())
    try:
        yield leader, child, away
    finally:
        for pid in (leader.pid, child, away):
            if kin.read(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        leader.wait()
        leader.stdout.close()


def test_children_in_any_session_belong_to_the_engine(
    family: tuple[subprocess.Popen[str], int, int],
) -> None:
    leader, child, away = family
    process = kin.read(leader.pid)
    assert process is not None
    found = {p.pid for p in kin.of(leader.pid, process.start_time, None)}
    assert found == {leader.pid, child, away}
    assert os.getpid() not in found


def test_the_session_is_found_after_its_leader_died(
    family: tuple[subprocess.Popen[str], int, int],
) -> None:
    leader, child, _ = family
    process = kin.read(leader.pid)
    assert process is not None
    leader.kill()
    leader.wait()
    assert kin.read(leader.pid) is None
    assert child in {p.pid for p in kin.of(leader.pid, process.start_time, None)}
    assert kin.end(leader.pid, process.start_time, None) == []
    assert kin.read(child) is None


def test_a_pid_that_was_given_away_is_left_alone(
    family: tuple[subprocess.Popen[str], int, int],
) -> None:
    leader, child, _ = family
    process = kin.read(leader.pid)
    assert process is not None
    assert kin.of(leader.pid, process.start_time - 1, None) == []
    stale = kin.Process(leader.pid, process.parent, process.session, 1, process.uid)
    kin.send(stale, signal.SIGKILL)
    assert leader.poll() is None
    assert kin.read(child) is not None


def test_a_zombie_is_not_alive() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert kin.read(ended.pid) is None
    ended.wait()
