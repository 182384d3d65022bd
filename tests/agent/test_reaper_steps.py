"""kill -9 of the agent at each step of a start: the next look leaves nothing of it."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet import wire
from tests.agent.fake_runner import wait_until
from tests.agent.node import spec
from workers.agent import caches, engines, places, processes, walls
from workers.agent.environment import Environment
from workers.agent.events import Events
from workers.agent.reaper.reaping import Reaping
from workers.agent.reaper.things import Expected
from workers.agent.settings import Settings, read

# What `engines.start` does one after the other; it is killed after each.
STEPS = ("claim_uid", "take", "private_directory", "private_directory 2", "_request", "_launch")
CAN = {wire.Wall.SOCKET} | ({wire.Wall.UID} if os.geteuid() == 0 else set())


class Nobody:
    def expected(self) -> Expected:
        return Expected()

    def used(self) -> set[int]:
        return set()


@pytest.fixture
def settings() -> Iterator[Settings]:
    root = Path(tempfile.mkdtemp(prefix="sk-", dir="/tmp"))
    yield read(
        {
            "STOA_AGENT_DIR": str(root / "agent"),
            "STOA_CACHE_DIR": str(root / "cache"),
            "STOA_AGENT_RUN_DIR": str(root / "run"),
            "STOA_AGENT_DEVICES": "cpu:1",
        }
    )
    shutil.rmtree(root)


def start_and_die(settings: Settings, wish: wire.ReplicaSpec, step: str) -> None:
    """In a process of its own: an agent that gets as far as `step`."""
    name, _, times = step.partition(" ")
    left = [int(times or 1)]

    def killing(work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*args: Any, **named: Any) -> Any:
            result = work(*args, **named)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return done

    where = places.of(settings)
    marks = processes.marks(settings.directory, wish.replica_id)

    def launch(request: dict[str, Any], place: engines.Place) -> Any:
        uid = request["isolation"]["uid"]
        child = subprocess.Popen(
            ["/bin/sleep", "3600"],
            env={"PATH": "/usr/bin:/bin", **marks},
            start_new_session=True,
            user=uid,
        )
        return child.pid, 0, wire.StartTier.WARM

    engines._launch = launch
    for module in (walls, caches, engines):
        if hasattr(module, name):
            setattr(module, name, killing(getattr(module, name)))
    place = engines.Place(
        environment=Environment("fake", Path(sys.executable), Path(sys.prefix)),
        run_directory=where.run,
        cache=where.homes,
        log=settings.directory / "logs" / "one.log",
        model=Path("/"),
        survey=walls.Survey(frozenset(CAN)),
        kept=where.homes / engines.KEPT,
    )
    engines.start(wish, place)


@pytest.mark.parametrize("step", STEPS)
def test_an_agent_killed_at_each_step_of_a_start_leaves_nothing(
    settings: Settings, step: str
) -> None:
    if step == "claim_uid" and os.geteuid() != 0:
        pytest.skip("only root gives engines user ids")
    wish = spec()
    child = multiprocessing.get_context("fork").Process(
        target=start_and_die, args=(settings, wish, step)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    # A claim without a folder is free for the taking: another agent may have been quicker.
    assert _left(settings) or step == "claim_uid"

    Reaping(settings, Events(settings.directory)).first(Nobody())
    wait_until(lambda: not _left(settings))
    assert Events(settings.directory).waiting() or step == "claim_uid"


def _left(settings: Settings) -> list[str]:
    where = places.of(settings)
    found = [f"process {one.process.pid}" for one in processes.marked(settings.directory)]
    for folder in (where.run / "e", where.homes / "homes", where.homes / "adapters"):
        with contextlib.suppress(FileNotFoundError):
            found += [str(path) for path in folder.iterdir()]
    found += [str(slot) for slot in caches.held(where.homes / engines.KEPT)]
    claims = walls.holders().items()
    return found + [f"uid {uid}" for uid, holder in claims if where.run in holder.parents]
