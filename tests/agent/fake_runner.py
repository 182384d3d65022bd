"""A Runner over real processes: fake engines instead of vLLM, everything else as it will be."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from controlplane.fleet import wire
from workers.agent import engines, kin, leaving, processes
from workers.agent.engines import Running
from workers.agent.model_facts import ModelFacts
from workers.agent.runner import CannotStart, Door, Progress

ENGINE = Path(__file__).with_name("fake_engine.py")


class FakeRunner:
    """Engines of agent directory `directory`, sockets in `run_dir`.

    `before_pid` is called when the process runs and nobody has written that down yet.
    """

    def __init__(
        self, directory: Path, run_dir: Path, before_pid: Callable[[], None] = lambda: None
    ) -> None:
        self._directory, self._run_dir = directory, run_dir
        self._before_pid = before_pid
        self._children: list[subprocess.Popen[bytes]] = []
        self.fetching: Callable[[Callable[[], bool]], None] = lambda _: None
        self.starts: list[str] = []
        self.forgotten: list[str] = []
        self.allowed: dict[str, list[str]] = {}
        self.model_facts = ModelFacts()

    def here(self, spec: wire.ReplicaSpec) -> bool:
        return spec.model != "far"

    def fetch(
        self, spec: wire.ReplicaSpec, progress: Progress, cancelled: Callable[[], bool]
    ) -> str:
        if spec.model == "unknown":
            raise CannotStart("model_not_found", "no model is called unknown")
        progress("fetching weights", 7 if spec.model == "moved" else 0, 7)
        self.fetching(cancelled)
        return ""

    def connect(self, door: Door) -> None:
        self.door = door

    def pull(self, pull: wire.Pull, progress: Progress, cancelled: Callable[[], bool]) -> str:
        if pull.model == "unknown":
            raise CannotStart("model_not_found", "no model is called unknown")
        progress("fetching", 7, 7)
        folder = self._directory / "pulled" / pull.pull_id
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "fake"}')
        self.model_facts.note(folder, pull_id=pull.pull_id, revision="c0ffee")
        return "c0ffee"

    def forget(self, replica_id: str) -> None:
        self.forgotten.append(replica_id)

    def start(self, spec: wire.ReplicaSpec) -> Running:
        self.starts.append(spec.replica_id)
        logs = self._directory / "logs"
        logs.mkdir(exist_ok=True)
        self._run_dir.mkdir(exist_ok=True)
        path = self._run_dir / spec.replica_id[-8:] / "engine.sock"
        path.parent.mkdir(exist_ok=True)
        log = logs / f"{spec.replica_id}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, str(ENGINE), str(path), spec.model],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **processes.marks(self._directory, spec.replica_id)},
            )
        self._children.append(child)
        self._before_pid()
        found = kin.read(child.pid)
        return Running(
            replica_id=spec.replica_id,
            boot_id=engines.boot_id(),
            directory="",
            adapters="here",
            home="",
            exit_file="",
            pid=child.pid,
            start_time=found.start_time if found else 0,
            socket=str(path),
            tier=wire.StartTier.WARM,
            log=str(log),
        )

    def alive(self, running: Running) -> bool:
        for child in self._children:
            child.poll()
        found = kin.read(running.pid)
        return found is not None and found.start_time == running.start_time

    def listening(self, running: Running) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(running.socket)
            return True
        return False

    def probe(self, running: Running, spec: wire.ReplicaSpec) -> str | None:
        try:
            answer = get(running.socket, "/probe")
        except httpx.HTTPError as error:
            return f"no answer: {error}"
        return None if answer.status_code == 200 else f"HTTP {answer.status_code}"

    def close(self, running: Running) -> None:
        leaving.close(running)

    def can_sleep(self, running: Running, spec: wire.ReplicaSpec) -> bool:
        return spec.may_sleep

    def busy(self, running: Running) -> bool | None:
        return leaving.busy(running)

    def sleep(self, running: Running) -> str | None:
        return engines.sleep(running)

    def wake(self, running: Running) -> str | None:
        return engines.wake(running)

    def prove(self, running: Running, spec: wire.ReplicaSpec) -> wire.Proof:
        """A model called `toolless` calls none."""
        if spec.model == "toolless":
            raise CannotStart("tool_probe_failed", "the answer is text and no tool call")
        return wire.Proof(proved=spec.capabilities or [])

    def adapt(
        self, running: Running, spec: wire.ReplicaSpec, cancelled: Callable[[], bool]
    ) -> list[wire.AdapterReport]:
        """A path under /missing is that of no adapter."""
        try:
            held = set(get(running.socket, "/adapters").json())
            wanted = {one.id: one.path for one in spec.adapters}
            for id in held - wanted.keys():
                get(running.socket, f"/unload/{id}")
            missing = {id for id, path in wanted.items() if path.startswith("/missing")}
            for id in wanted.keys() - held - missing:
                get(running.socket, f"/load/{id}")
        except httpx.HTTPError as error:
            raise OSError(str(error)) from error
        lost = {"reason": wire.AdapterReason.NOT_FOUND, "detail": "there is no adapter"}
        return [
            wire.AdapterReport(id=id, state=wire.AdapterState.FAILED, **lost)  # type: ignore[arg-type]
            if id in missing
            else wire.AdapterReport(id=id, state=wire.AdapterState.LOADED)
            for id in wanted
        ]

    def stop(self, running: Running, grace_s: float) -> None:
        """Fake engines end at once, or never."""
        found = kin.read(running.pid)
        if found is not None and found.start_time == running.start_time and grace_s:
            kin.send(found, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not self.alive(running), 0.5)
        kin.end(running.pid, running.start_time, None)
        for child in self._children:
            child.poll()

    def engine_report(self, running: Running) -> wire.EngineReport:
        return wire.EngineReport(version="fake-1")

    def allow(self, running: Running, spec: wire.ReplicaSpec) -> None:
        self.allowed[running.replica_id] = list(spec.egress)

    def reached(self, running: Running) -> list[wire.EgressCount]:
        return []

    def exit_reason(self, running: Running) -> str:
        return "the engine ended"

    def tidy(self, keep: set[str]) -> None:
        pass

    def tend(self) -> None:
        pass

    def standbys(self) -> set[int]:
        return set()


def get(path: str, target: str) -> httpx.Response:
    """GET over an engine's socket."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=5) as client:
        return client.get(f"http://engine{target}")


def wait_until(true: Callable[[], object], within_s: float = 30.0) -> None:
    """Return once `true()` is; TimeoutError after `within_s`."""
    deadline = time.monotonic() + within_s
    never = threading.Event()
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s: {true}")
        never.wait(0.01)
