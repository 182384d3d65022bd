"""A node of the tests: an agent directory, and agents in processes of their own to run on it."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from compliance import ids
from controlplane.fleet import wire
from tests.agent.fake_runner import FakeRunner, wait_until
from workers.agent import kin, processes

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


class TestNode:
    __test__ = False

    def __init__(self, url: str) -> None:
        # Short: a unix socket's path has 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="sa-", dir="/tmp"))
        self.directory, self.run_dir = self.root / "agent", self.root / "run"
        self.output = self.root / "agent.out"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STOA_")},
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            "STOA_CONTROLPLANE_URL": url,
            "STOA_AGENT_DIR": str(self.directory),
            "STOA_CACHE_DIR": str(self.root / "cache"),
            "STOA_AGENT_RUN_DIR": str(self.run_dir),
            "STOA_AGENT_DEVICES": "cpu:2",
            "STOA_AGENT_TOKEN": "stoa-enroll-good",
            "STOA_AGENT_FIRST_UID": os.environ["STOA_AGENT_FIRST_UID"],
        }
        self._agents: list[subprocess.Popen[bytes]] = []

    def agent(self, command: str = "run", **extra: str) -> subprocess.Popen[bytes]:
        with self.output.open("ab") as output:
            agent = subprocess.Popen(
                [sys.executable, "-m", "tests.agent.fake_agent", command],
                env={**self.environment, **extra},
                cwd=ROOT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self._agents.append(agent)
        return agent

    def ask(self, command: str, **extra: str) -> int:
        """Run a command to its end; its exit status."""
        return self.agent(command, **extra).wait(30)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def runner(self) -> FakeRunner:
        return FakeRunner(self.directory, self.run_dir)

    def engines(self, replica_id: str = "") -> list[int]:
        """Pids of the engines' first processes, of one replica or of all."""
        found = processes.marked(self.directory)
        return [
            one.process.pid
            for one in found
            if one.process.pid == one.process.session and replica_id in ("", one.replica_id)
        ]

    def close(self) -> None:
        for agent in self._agents:
            if agent.poll() is None:
                agent.kill()
                agent.wait()
        processes.reap(self.directory, set())
        subprocess.run(["rm", "-rf", str(self.root)], check=True)


def kill(agent: subprocess.Popen[bytes]) -> None:
    """kill -9, and wait for it to be gone."""
    agent.send_signal(signal.SIGKILL)
    agent.wait()


def kill_engine(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: kin.read(pid) is None)


def spec(model: str = "ok", organization: str = "org_1", **changes: object) -> wire.ReplicaSpec:
    fields: dict[str, object] = {
        "replica_id": ids.new("rep"),
        "endpoint_id": "ep_1",
        "organization_id": organization,
        "model": model,
        "revision": "",
        "engine": "vllm",
        "engine_args": {},
        "adapters": [],
        "served_name": "ep_1",
        "device_indexes": [0],
        "share_standby": False,
        "start_timeout_s": 20.0,
    }
    return wire.ReplicaSpec(**{**fields, **changes})  # type: ignore[arg-type]
