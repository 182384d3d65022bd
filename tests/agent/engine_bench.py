"""Engines for tests: a place to run them in, and what is asked of them over their sockets."""

import http.client
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet import wire
from workers.agent import engines, walls
from workers.agent.environment import Environment
from workers.agent.standby import Standby, Standbys

START_S = 120.0


class Bench:
    """One node's worth of folders, in which engines are started and ended."""

    def __init__(self, environment: Environment, tiny: Path) -> None:
        self.environment = environment
        self.tiny = tiny
        # Short, for unix sockets; open, so that only the walls keep engines apart.
        self.root = Path(tempfile.mkdtemp(prefix="stoa-e-", dir="/tmp"))
        self.root.chmod(0o755)
        self.survey = walls.survey([environment.root, environment.base, tiny])
        self.standbys = Standbys(environment, self.root / "standby")
        self.started: list[engines.Running] = []

    def spec(self, replica_id: str, **changes: Any) -> wire.ReplicaSpec:
        fields: dict[str, Any] = {
            "replica_id": replica_id,
            "endpoint_id": "ep_1",
            "organization_id": "org_1",
            "model": str(self.tiny / "model"),
            "revision": "",
            "engine": "vllm",
            "engine_args": {"kv_cache_memory_bytes": 64 << 20},
            "adapters": [],
            "served_name": "ep_1",
            "device_indexes": [0],
            "share_standby": False,
            "start_timeout_s": START_S,
        }
        return wire.ReplicaSpec(**{**fields, **changes})

    def place(self, spec: wire.ReplicaSpec, standby: Standby | None) -> engines.Place:
        return engines.Place(
            environment=self.environment,
            run_directory=self.root / "run",
            cache=self.root / "cache",
            log=self.root / "logs" / f"{spec.replica_id}.log",
            model=Path(spec.model),
            survey=self.survey,
            standby=standby,
        )

    def standby(self, organization: str = "org_1") -> Standby:
        """That organization's, warming one up where there is none."""
        found = self.standbys.lend(organization, share=False)
        if found is None:  # not before: each costs ten CPU seconds of imports
            self.standbys.tend()
            found = self.standbys.lend(organization, share=False)
        assert found is not None
        return found

    def start(
        self, spec: wire.ReplicaSpec, standby: Standby | None, template: Path | None = None
    ) -> engines.Running:
        running = engines.start(spec, replace(self.place(spec, standby), template=template))
        self.started.append(running)
        return running

    def serve(self, spec: wire.ReplicaSpec, standby: Standby | None) -> engines.Running:
        """Start an engine and wait until it listens."""
        running = self.start(spec, standby)
        wait(lambda: engines.listening(running) or not engines.alive(running))
        assert engines.alive(running), engines.exit_reason(running)
        return running

    def clear(self) -> None:
        """No engine is left; the standbys stay warm."""
        while self.started:
            engines.stop(self.started.pop(), 0.0)

    def close(self) -> None:
        self.clear()
        self.standbys.stop()
        shutil.rmtree(self.root)


@pytest.fixture(scope="session")
def warm_bench(engine_environment: Environment, tiny_model: Path) -> Iterator[Bench]:
    """One for all modules (their conftest has it), whose standby is warmed up once."""
    bench = Bench(engine_environment, tiny_model)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(scope="module")
def bench(warm_bench: Bench) -> Iterator[Bench]:
    """That one, without the engines of earlier modules."""
    yield warm_bench
    warm_bench.clear()


def wait(condition: Callable[[], bool], timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def ask(running: engines.Running, target: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST to an engine; its answer, which must be status 200."""
    connection = http.client.HTTPConnection("localhost", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(running.socket)
    with connection.sock:
        content = json.dumps({"model": "ep_1", **body})
        connection.request("POST", target, content, {"content-type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    assert response.status == 200, answer
    return answer


def chat(running: engines.Running, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Say something."}]
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, **changes}
    return ask(running, "/v1/chat/completions", body)
