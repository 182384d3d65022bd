import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.db import connection

from controlplane.fleet.models import Node
from tests.endpoints.world import World

ROOT = Path(__file__).resolve().parents[2]
Worker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def world(db: None) -> World:
    return World.build()


@pytest.fixture
def node(world: World) -> Node:
    return world.node()


@pytest.fixture
def worker(transactional_db: None, tmp_path: Path) -> Iterator[Worker]:
    """Starts a real `celery worker` on this test's database; killed when the test ends."""
    started: list[subprocess.Popen[bytes]] = []
    url = urlsplit(os.environ["DATABASE_URL"])
    url = url._replace(path="/" + str(connection.settings_dict["NAME"]))
    environment = os.environ | {
        "DATABASE_URL": urlunsplit(url),
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "STOA_DATABASE_POOL": "2",
    }

    def start(*, beat: bool = False, **settings: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "celery", "--app", "workers.celery", "worker"]
        command += ["--concurrency", "2", "--without-mingle", "--without-gossip"]
        if beat:
            command += ["--beat", "--schedule", str(tmp_path / "beat")]
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment | settings,
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
