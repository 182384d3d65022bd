"""One model over two nodes: two agents of this machine, each engine behind its own walls."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent.engine_bench import chat
from tests.flows.conftest import Made
from tests.flows.stoa import ROOT, Stoa, environment_of, until
from workers.agent import kin, tunnel
from workers.agent.records import Record, Store
from workers.local.embedded import free_port

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(),
    reason="a gang's network needs root and /dev/net/tun",
)


@dataclass
class Host:
    """A node of the gang's pool, as far as its agent goes."""

    folder: Path
    agent: subprocess.Popen[bytes]

    def record(self, replica_id: str) -> Record:
        found = [r for r in Store(self.folder).load() if r.spec.replica_id == replica_id]
        assert found, (self.folder.parent / f"{self.folder.name}.out").read_text()[-3000:]
        return found[0]

    def engine(self, replica_id: str) -> kin.Process:
        running = self.record(replica_id).running
        assert running is not None
        process = kin.read(running.pid)
        assert process is not None
        return process


def manage(stoa: Stoa, *command: str) -> str:
    """What an operator types beside the running installation."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command],
        env=environment_of(stoa.pid_of("worker")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@contextmanager
def hosts(stoa: Stoa, pool: str, count: int) -> Iterator[list[Host]]:
    with tempfile.TemporaryDirectory(prefix="sg-", dir="/tmp") as root:
        started: list[Host] = []
        for n in range(count):
            folder = Path(root) / f"n{n}"
            token = json.loads(manage(stoa, "enrollment_token", "--pool", pool, "--json"))["token"]
            env = {name: value for name, value in stoa.env.items() if "STOA_" not in name}
            env |= {
                "STOA_CACHE_DIR": stoa.env.get("STOA_CACHE_DIR", ""),
                "STOA_CONTROLPLANE_URL": stoa.run["console_url"],
                "STOA_AGENT_DIR": str(folder),
                "STOA_AGENT_RUN_DIR": f"{root}/r{n}",
                "STOA_AGENT_NAME": f"gang-{n}",
                "STOA_AGENT_DEVICES": "cpu:1",
                "STOA_AGENT_RELAY": f"127.0.0.1:{free_port()}",
                "STOA_AGENT_STOP_ENGINES": "1",
                "STOA_AGENT_TOKEN": token,
            }
            with (Path(root) / f"n{n}.out").open("wb") as output:
                command = [sys.executable, "-m", "workers.agent", "run"]
                agent = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=output)
            started.append(Host(folder, agent))
        try:
            yield started
        finally:
            for host in started:
                host.agent.send_signal(signal.SIGTERM)
            for host in started:
                host.agent.wait(60)


@needs_root
def test_two_nodes_serve_one_model(stoa: Stoa, made: Made) -> None:
    owner = stoa.api.get(f"/endpoints/{stoa.api.endpoint('hello')['id']}")["organization"]
    pool = manage(stoa, "create_pool", "eu-de-1", "gangs", "--organization", owner)
    with hosts(stoa, pool, 2) as pair:
        mine = {"pool": pool, "node_count": 2, "device_count": 1}

        def offered() -> bool:
            try:
                made("spread", **mine)
            except AssertionError:  # the pool has no such nodes yet
                return False
            return True

        until(offered, within_s=120, every_s=0.5, what="both nodes are there")
        endpoint_id = stoa.api.endpoint("spread")["id"]
        replica = serving(stoa, endpoint_id)
        assert [member["rank"] for member in replica["members"]] == [0, 1]
        assert len({member["node"] for member in replica["members"]}) == 2
        leader, follower = by_rank(pair, replica["id"])

        # Both compute, each in a network of its own, and only there.
        running = leader.record(replica["id"]).running
        assert running is not None
        assert chat(running, model=endpoint_id)["usage"]["completion_tokens"] == 8
        log = Path(running.log).read_text()
        assert re.search(r"world_size=2 rank=0 .*tcp://10\.0\.0\.1:29501 backend=gloo", log)
        networks = {os.readlink(f"/proc/{host.engine(replica['id']).pid}/ns/net") for host in pair}
        assert len(networks | {os.readlink("/proc/self/ns/net")}) == 3
        assert established(leader.engine(replica["id"]).pid, tunnel.address(1)) > 0

        # The follower is killed: the gang falls, and a whole one follows it.
        os.kill(follower.engine(replica["id"]).pid, signal.SIGKILL)
        fallen = until(lambda: over(stoa, replica["id"]), what="the gang has fallen") or {}
        assert (fallen["state"], fallen["reason"]) == ("failed", "engine_exited")
        assert fallen["detail"].startswith("rank 1: ")
        assert serving(stoa, endpoint_id)["id"] != replica["id"]
        stoa.api.delete(f"/endpoints/{endpoint_id}")
        until(lambda: free(stoa, pool) == 2, what="the devices of both nodes are free")


def serving(stoa: Stoa, endpoint_id: str) -> dict[str, Any]:
    """Its only replica, once it is ready."""

    def look() -> dict[str, Any] | None:
        found: list[dict[str, Any]] = stoa.api.get(f"/endpoints/{endpoint_id}")["replicas"]
        return found[0] if [one["state"] for one in found] == ["ready"] else None

    found = until(look, within_s=300, every_s=0.2, what="the gang serves")
    assert found is not None
    return found


def over(stoa: Stoa, replica_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] = stoa.api.get(f"/replicas/{replica_id}")
    return found if found["state"] in ("failed", "stopped") else None


def by_rank(pair: list[Host], replica_id: str) -> list[Host]:
    def rank(host: Host) -> int:
        seat = host.record(replica_id).spec.seat
        assert seat is not None
        return seat.rank

    return sorted(pair, key=rank)


def established(pid: int, address: str) -> int:
    """Connections of a process's network to an address."""
    packed = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    v6 = Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]
    remotes = [line.split()[2] for line in lines + v6 if line.split()[3] == "01"]
    return sum(remote.rpartition(":")[0].endswith(packed) for remote in remotes)


def free(stoa: Stoa, pool: str) -> int:
    mine = [one for one in stoa.api.get("/pools")["data"] if one["id"] == pool]
    return sum(device["free"] for one in mine for device in one["devices"])
