"""An agent's directories and runner on a podman of the tests, for tests of images."""

import json
import shutil
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.fleet import wire
from tests.agent import oci
from tests.agent.fake_runner import wait_until
from tests.agent.node import spec
from tests.agent.podman import PROBE, PROGRAM, Podman
from workers.agent import processes
from workers.agent.containers.driver import Driver
from workers.agent.engines import Running
from workers.agent.node_runner import NodeRunner
from workers.agent.settings import Settings

MIB = 1 << 20
PYTHON = [str(oci.python()), "-I"]


class Door:
    """Of a control plane that has these secrets for every start."""

    def __init__(self) -> None:
        self.given = wire.Secrets()

    def secrets(self, request: wire.SecretsRequest, cancelled: Callable[[], bool]) -> wire.Secrets:
        return self.given

    def source(self, request: wire.SourceRequest, cancelled: Callable[[], bool]) -> wire.Source:
        raise AssertionError(request)

    def signed(self, path: str) -> tuple[str, dict[str, str], ssl.SSLContext]:
        raise AssertionError(path)


def custom(**changes: Any) -> wire.ReplicaSpec:
    """A wish for an image of the tests; `image` are fields of wire.Image."""
    image = {"reference": PROBE, "memory_bytes": 256 * MIB, **changes.pop("image", {})}
    fields = {"model": "", "engine": "custom", "image": wire.Image(**image)}
    return spec(**{**fields, **changes})


class Site:
    """What is started here ends with it."""

    program = (*PYTHON, f"/app/{PROGRAM.name}")

    def __init__(self, podman: Podman) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
        self.podman, self.driver, self.door = podman, Driver(podman.address), Door()
        self.settings = Settings(
            directory=self.root / "agent",
            cache=self.root / "cache",
            run_dir=self.root / "run",
            devices="cpu:2",
            standby=False,
            containers=podman.address,
        )
        self.mark = processes.mark(self.settings.directory)
        self.started: list[Running] = []
        self._runners: list[NodeRunner] = []
        self.runner = self.fresh()

    def fresh(self, **settings: Any) -> NodeRunner:
        """As an agent that starts anew."""
        runner = NodeRunner(replace(self.settings, **settings))
        runner.connect(self.door)
        runner.survey()
        self._runners.append(runner)
        return runner

    def start(self, **changes: Any) -> tuple[wire.ReplicaSpec, Running]:
        wish = custom(**changes)
        self.runner.fetch(wish, lambda text, done=0, total=0: None, lambda: False)
        running = self.runner.start(wish)
        self.started.append(running)
        return wish, running

    def serve(self, **changes: Any) -> Running:
        """Started, and listening."""
        _, running = self.start(**changes)
        wait_until(lambda: self.runner.listening(running) or not self.runner.alive(running), 60)
        assert self.runner.alive(running), self.runner.exit_reason(running)
        return running

    def inside(self, running: Running, *targets: str) -> list[dict[str, Any]]:
        """What a program in the container reaches of these (image_program.py)."""
        api = self.podman.client.api
        id = api.exec_create(running.container, [*self.program, "reach", *targets])["Id"]
        return [json.loads(line) for line in api.exec_start(id).splitlines()]

    def close(self) -> None:
        for running in self.started:
            self.runner.stop(running, 0)
        for runner in self._runners:
            runner.let_go()
        self.driver.close()
        shutil.rmtree(self.root, ignore_errors=True)
