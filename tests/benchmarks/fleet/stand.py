"""The processes of `make up` that the fleet's benchmark needs, in a folder of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg

from workers.local import processes
from workers.local.embedded import Postgres, free_port
from workers.local.installation import PORTS, ROOT, Installation
from workers.local.supervisor import Process

# What the figures need to know: when each transaction was committed, and what was asked.
_SERVER = {
    "track_commit_timestamp": "on",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
}
# `make up` leaves two cores to engines, and deployments have four (deploy/systemd).
PROCESSES = 3
_NEVER_S = "86400"


@dataclass
class Stand:
    installation: Installation
    postgres: Postgres
    web: Process
    worker: Process

    @property
    def superuser(self) -> str:
        return self.postgres.url("postgres")

    def sweeping(self, on: bool) -> None:
        """The worker with its beat, which sweeps too or does all but that."""
        self.worker.stop()
        env = dict(self.worker.env)
        env.pop("STOA_SWEEP_EVERY_S", None)
        Path(self.worker.command[-1]).unlink(missing_ok=True)  # the beat's memory
        self.worker.env = env if on else env | {"STOA_SWEEP_EVERY_S": _NEVER_S}
        self.worker.start()

    def restart_postgres(self) -> None:
        self.postgres.stop()
        self.postgres.start()


@contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """Databases, web process and worker; this process's environment is the house's."""
    os.environ.update({name: str(free_port()) for name in PORTS}, STOA_VAR_DIR=str(folder))
    installation = Installation.from_environment()
    postgres, valkey = installation.postgres, installation.valkey
    assert postgres is not None and valkey is not None
    (folder / "static").mkdir(parents=True)
    try:
        postgres.start()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            for name, value in _SERVER.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        postgres.stop()
        postgres.start()
        valkey.start()
        subprocess.run(
            processes.manage("prepare"),
            env=installation.django_environment("stoa_owner"),
            input="{}",
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        os.environ.update(installation.django_environment())
        of = {one.name: one for one in processes.services(installation)}
        command = list(of["worker"].command)
        command[command.index("--concurrency") + 1] = str(PROCESSES)
        web, worker = of["web"], replace(of["worker"], command=command)
        web.start()
        _await(f"{installation.console_url}/healthz")
        try:
            yield Stand(installation, postgres, web, worker)
        finally:
            worker.stop()
            web.stop()
    finally:
        valkey.stop()
        postgres.stop()


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.1)


class Agents:
    """The process of all simulated agents."""

    def __init__(self, **wish: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.fleet.agents"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = len(wish["tokens"])
        self._ask(wish)

    def seen(self) -> dict[str, Any]:
        """What they saw since the last time."""
        found: dict[str, Any] = self._ask("stats")
        return found

    def _ask(self, what: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the agents' process died"
        return json.loads(answer)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
