"""The master alone, with workers of a few lines: what it hands down, adds up and gives up."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gateway import figures
from gateway.saved import Saved
from tests.gateway.house import eventually

_PROGRAM = """
import logging, mmap, os, signal, sys, time
from pathlib import Path
from gateway import channel, inherited, master
from gateway.config import Config
from gateway.master import Master

master._STOP_EXTRA_S = {patience_s}

def serve(ours):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    {before}
    os.write(ours.channel, channel.frame(channel.READY))
    memory = mmap.mmap(ours.memory["books"], 4096)
{worker}

logging.basicConfig(level="INFO")
if "--check" in sys.argv:
    sys.exit()
config = Config(database_url="", pepper=b"", folder=Path(), gateway_id="g", region="r",
                port=0, drain_s=0.5, workers=int(Path(sys.argv[1]).read_text()))
at = os.environ.pop(inherited.STATE, "")
state = inherited.load(int(at)) if at else None
sys.exit(Master(config, serve, {{"books": 4096}}, state).run())
"""


class Program:
    def __init__(self, folder: Path, worker: str, before: str, patience_s: float) -> None:
        self._folder = folder
        (folder / "workers").write_text("2")
        (folder / "program.py").write_text(
            _PROGRAM.format(
                before=before,
                worker=textwrap.indent(textwrap.dedent(worker), "    "),
                patience_s=patience_s,
            )
        )
        with (folder / "log").open("wb") as log:
            command = [sys.executable, str(folder / "program.py"), str(folder / "workers")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def says(self, what: str, times: int = 1) -> None:
        eventually(lambda: self.log.count(what) >= times)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    begun = []

    def begin(worker: str, before: str = "", patience_s: float = 60.0) -> Program:
        begun.append(Program(tmp_path, worker, before, patience_s))
        return begun[-1]

    yield begin
    for program in begun:
        program.process.kill()
        program.process.wait()


_COUNTS = """
    memory[ours.slot] += 1
    print(f"slot {ours.slot} of {ours.slots}: life {memory[ours.slot]}", flush=True)
    time.sleep(3600)
"""


def test_memory_outlives_workers_and_reloads(start: Callable[..., Program]) -> None:
    program = start(_COUNTS)
    program.says("of 2: life 1", 2)
    for life in (2, 3):
        program.process.send_signal(signal.SIGHUP)
        program.says(f"of 2: life {life}", 2)
    eventually(lambda: len(program.workers) == 2)
    for pid in program.workers:
        os.kill(pid, signal.SIGKILL)
    program.says("of 2: life 4", 2)
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(10) == 0


def test_a_worker_that_keeps_dying_is_started_ever_more_slowly(
    start: Callable[..., Program],
) -> None:
    program = start("""
        print("begun", time.monotonic(), flush=True)
        return 3 if ours.slot == 0 else time.sleep(3600)
    """)
    program.says("begun", 6)  # one of them lives
    times = sorted(float(line.split()[1]) for line in program.log.splitlines() if "begun" in line)
    gaps = [after - before for before, after in pairwise(times[2:])]
    assert all(gap >= 0.2 * 2**n for n, gap in enumerate(gaps)), gaps
    assert "ended (3)" in program.log
    program.process.send_signal(signal.SIGTERM)
    # The one that dies may do so just then, which a master that stops counts as a failure.
    assert program.process.wait(10) in (0, 1)


def test_a_first_start_that_fails_is_the_masters_end(start: Callable[..., Program]) -> None:
    program = start("", before="sys.exit('no such folder')")
    assert program.process.wait(10) == 1
    assert "no such folder" in program.log


def test_reloads_upon_reloads_leave_the_last_ones_workers(start: Callable[..., Program]) -> None:
    """Also of those who were told to go before they could hear it."""
    program = start(
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); time.sleep(3600)",
        before="signal.signal(signal.SIGHUP, signal.SIG_IGN); print('begun', flush=True);"
        " time.sleep(0.5)",
    )
    program.says("begun", 2)
    first = set(program.workers)
    for reloads in range(1, 4):
        program.process.send_signal(signal.SIGHUP)
        program.says("starting anew", reloads)
    program.says("begun", 4)
    eventually(lambda: len(program.workers) == 2 and first.isdisjoint(program.workers), 15)
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(10) == 0


def test_who_does_not_leave_is_killed(start: Callable[..., Program]) -> None:
    program = start(
        "time.sleep(3600)",
        before="signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True)",
        patience_s=0.5,
    )
    program.says("begun", 2)
    first = set(program.workers)
    program.process.send_signal(signal.SIGHUP)
    program.says("does not end; it is killed", 2)
    eventually(lambda: len(program.workers) == 2 and first.isdisjoint(program.workers))
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(10) == 1  # not as it should be


# --- Figures ----------------------------------------------------------------------------
_ONE = b"""# TYPE stoa_gateway_requests_total counter
stoa_gateway_requests_total{status="200"} 3
# TYPE stoa_gateway_request_seconds histogram
stoa_gateway_request_seconds_bucket{le="0.1"} 2
stoa_gateway_request_seconds_sum{} 0.250000
# TYPE stoa_gateway_connections gauge
stoa_gateway_connections 4
# TYPE stoa_gateway_spool_healthy gauge
stoa_gateway_spool_healthy 1
# TYPE stoa_gateway_directory_age_seconds gauge
stoa_gateway_directory_age_seconds 0.5
"""
_TWO = b"""# TYPE stoa_gateway_requests_total counter
stoa_gateway_requests_total{status="200"} 9007199254740000
stoa_gateway_requests_total{status="429"} 1
# TYPE stoa_gateway_request_seconds histogram
stoa_gateway_request_seconds_bucket{le="0.1"} 1
stoa_gateway_request_seconds_sum{} 0.500000
# TYPE stoa_gateway_connections gauge
stoa_gateway_connections 1
# TYPE stoa_gateway_spool_healthy gauge
stoa_gateway_spool_healthy 0
# TYPE stoa_gateway_directory_age_seconds gauge
stoa_gateway_directory_age_seconds 7.5
"""


def test_figures_of_workers_are_added_up() -> None:
    assert figures.merge([_ONE, b"", _TWO]).decode().splitlines() == [
        "# TYPE stoa_gateway_requests_total counter",
        'stoa_gateway_requests_total{status="200"} 9007199254740003',
        'stoa_gateway_requests_total{status="429"} 1',
        "# TYPE stoa_gateway_request_seconds histogram",
        'stoa_gateway_request_seconds_bucket{le="0.1"} 3',
        "stoa_gateway_request_seconds_sum{} 0.75",
        "# TYPE stoa_gateway_connections gauge",
        "stoa_gateway_connections 5",
        "# TYPE stoa_gateway_spool_healthy gauge",
        "stoa_gateway_spool_healthy 0",
        "# TYPE stoa_gateway_directory_age_seconds gauge",
        "stoa_gateway_directory_age_seconds 7.5",
    ]


def test_of_a_worker_that_ended_only_what_was_counted_stays() -> None:
    lasting = figures.lasting(_ONE)
    assert b"requests_total" in lasting and b"request_seconds_sum" in lasting
    assert b"gauge" not in lasting
    assert figures.merge([lasting]) == lasting
    assert figures.lasting(b"") == b""


# --- The directory on disk --------------------------------------------------------------
def test_one_of_several_writes_the_directory_until_it_ends(tmp_path: Path) -> None:
    first, second = (Saved(tmp_path, b"pepper", 900) for _ in range(2))
    assert first.mine() and first.mine()
    assert not second.mine()
    first.close()
    assert second.mine()
    assert not first.mine()
    second.close()
