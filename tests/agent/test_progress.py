"""Deadlines follow progress: what still loads is not given up, what hangs is."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.fleet import wire
from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import TestNode, spec
from workers.agent import engines, kin
from workers.agent.progress import ALONE, BYTES, Lines, Progress, Watch, effort

PATIENCE = 10.0


def test_computing_alone_counts_for_a_while() -> None:
    progress = Progress(0.0)
    for second in range(1, 100):
        progress.worked(float(second))
    assert progress.stalled_s(30.0, PATIENCE) == 0.0
    assert progress.stalled_s(99.0, PATIENCE) == 99.0 - ALONE * PATIENCE
    progress.told(99.0)
    assert progress.stalled_s(100.0, PATIENCE) == 1.0


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.booleans())),
    st.floats(1, 100),
)
def test_no_start_is_stalled_for_longer_than_it_took(
    signs: list[tuple[float, bool]], patience: float
) -> None:
    progress, told = Progress(0.0), 0.0
    for at, words in sorted(signs):
        (progress.told if words else progress.worked)(at)
        told = at if words else told
    now = max([at for at, _ in signs], default=0.0) + 1
    stalled = progress.stalled_s(now, patience)
    assert 1 - 1e-9 <= stalled <= now - told
    assert stalled >= now - told - ALONE * patience - 1e-9


def test_the_same_words_with_other_numbers_are_no_news() -> None:
    lines = Lines()
    assert lines.new(["waiting for peer 3 (10 s)"])
    assert not lines.new(["waiting for peer 4 (20.5 s)"])
    assert not lines.new([])
    assert lines.new(["waiting for peer 4 (20.5 s)", "peer 3 came"])


def test_steps_of_a_start_are_timed_by_its_log(tmp_path: Path) -> None:
    log, now = tmp_path / "log", [100.0]
    watch = Watch(running(log, 0), 100.0, clock=lambda: now[0])
    log.write_text("stoa 01:39:59 the engine starts\n(EngineCore pid=2) Initializing a V1 LLM eng")
    now[0] = 101.0
    watch.look()
    assert watch.seconds == {}
    with log.open("a") as file:
        file.write("ine (v0.32.0) with config\n")
    now[0] = 102.0
    watch.look()
    with log.open("a") as file:
        file.write("Loading weights took 4 seconds\n")
    now[0] = 106.0
    watch.look()
    with log.open("a") as file:  # repacked after they were read
        file.write("Model loading took 1.0 GiB and 5 seconds\nInitializing a V1 LLM engine\n")
    now[0] = 107.0
    watch.look()
    now[0] = 110.0
    watch.listens()
    assert watch.seconds == {"spawned": 2.0, "loaded": 5.0, "compiled": 3.0}
    assert set(watch.seconds) == set(wire.START_STEPS)


def test_what_an_engine_computes_and_reads_is_seen(tmp_path: Path) -> None:
    big = tmp_path / "weights"
    big.write_bytes(b"x" * 4 * BYTES)
    program = f"""
import time
open({str(big)!r}).read()
while time.process_time() < 0.1:
    pass
print('read', flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"read\n"
        cpu_s, read = effort(running(tmp_path / "log", child.pid))
        child.kill()
    assert cpu_s >= 0.05 and read >= 4 * BYTES


def running(log: Path, pid: int) -> engines.Running:
    found = kin.read(pid)
    return engines.Running(
        replica_id="rep_1",
        pid=pid,
        start_time=found.start_time if found else 0,
        boot_id=engines.boot_id(),
        socket="",
        tier=wire.StartTier.WARM,
        log=str(log),
        directory="",
        home="",
        exit_file="",
    )


def test_a_load_that_gets_on_outlives_its_patience(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec("loads:4", start_timeout_s=1.5)
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY, within_s=30)
    assert ready.phase_seconds["starting"] > 3.5


@pytest.mark.parametrize("model", ["slow-start", "computes"])
def test_what_hangs_is_ended(plane: ControlPlane, node: TestNode, model: str) -> None:
    node.agent()
    wish = spec(model, start_timeout_s=1.0)
    plane.want(wish)
    failed = plane.wait_for(wish.replica_id, Phase.FAILED, within_s=40)
    assert failed.reason == "start_timeout" and "no progress for 1 s" in failed.detail
    assert node.engines() == []


def test_how_long_it_is_stuck_is_reported(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec("slow-start")
    plane.want(wish)
    plane.wait_for(wish.replica_id, Phase.STARTING)
    wait_until(lambda: (found := plane.replica(wish.replica_id)) and found.stalled_s > 1.0)
