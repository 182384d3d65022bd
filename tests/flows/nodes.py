"""More nodes for an installation: agents of this machine, reached as nodes of other hosts are."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.flows.stoa import ROOT, Stoa, environment_of, until
from workers.agent import kin
from workers.agent.records import Record, Store
from workers.local.embedded import free_port

REGION = "eu-de-1"


class Operator:
    """Who owns the machines, signed in to the console."""

    def __init__(self, stoa: Stoa) -> None:
        run = stoa.run
        self._http = httpx.Client(base_url=run["console_url"], timeout=60)
        self._http.get("/sign-in")
        signed = self._http.post(
            "/sign-in",
            data={"username": run["login"], "password": run["password"]},
            headers=self._token(),
        )
        assert signed.status_code == 302, signed.text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._good(self._http.post(f"/api/v1{path}", json=body, headers=self._token()))

    def delete(self, path: str) -> None:
        self._good(self._http.delete(f"/api/v1{path}", headers=self._token()))

    def nodes(self, pool: str) -> dict[str, dict[str, Any]]:
        """The nodes of a pool by their names."""
        found = self._good(self._http.get("/api/v1/nodes", params={"limit": "100"}))["data"]
        return {one["name"]: one for one in found if one["pool"] == pool}

    def _token(self) -> dict[str, str]:
        return {"x-csrftoken": self._http.cookies.get("csrftoken") or ""}

    @staticmethod
    def _good(reply: httpx.Response) -> Any:
        assert reply.status_code < 400, f"{reply.request.url}: {reply.status_code}: {reply.text}"
        return reply.json() if reply.content else None


@dataclass
class Host:
    """A node of the pool, as far as its agent goes."""

    name: str
    folder: Path
    agent: subprocess.Popen[bytes]
    env: dict[str, str]
    id: str = ""  # its node's

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

    def die(self, replica_id: str) -> None:
        """As if the machine's power were cut: agent and engine are gone at once."""
        engine = self.engine(replica_id).pid
        self.agent.kill()
        os.kill(engine, signal.SIGKILL)
        self.agent.wait()

    def leave(self) -> None:
        if self.agent.poll() is None:
            self.agent.send_signal(signal.SIGTERM)
            self.agent.wait(60)
            return
        command = [sys.executable, "-m", "workers.agent", "stop-all"]
        subprocess.run(command, env=self.env, cwd=ROOT, check=True, capture_output=True)


@dataclass
class Fleet:
    """A pool of the endpoints' own organization, and its nodes of one device each."""

    pool: str
    hosts: list[Host]
    operator: Operator

    def act(self, host: Host, verb: str) -> None:
        """cordon | uncordon | drain"""
        self.operator.post(f"/nodes/{host.id}/{verb}")

    def free(self, stoa: Stoa) -> int:
        mine = [one for one in stoa.api.get("/pools")["data"] if one["id"] == self.pool]
        return sum(device["free"] for one in mine for device in one["devices"])


@contextmanager
def fleet(stoa: Stoa, count: int, *, open_to_all: bool = False) -> Iterator[Fleet]:
    """Their relays are the only way to them, and the gateway holds the certificate for it.

    `open_to_all`: of no organization alone, with devices that replicas of one may share.
    """
    with Operator(stoa) as operator, tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as root:
        owner = stoa.api.endpoint("hello")["organization"]
        wish = {"region": REGION, "name": "fleet", "organization": owner}
        if open_to_all:
            wish |= {"name": "open", "organization": None, "share_devices": True}
        pool = operator.post("/pools", wish)["id"]
        hosts = [_join(stoa, operator, pool, Path(root), n) for n in range(count)]
        try:
            admit_gateway(stoa)
            made = Fleet(pool, hosts, operator)
            until(lambda: made.free(stoa) == count, within_s=120, what="the nodes are there")
            known = operator.nodes(pool)
            for host in hosts:
                host.id = known[host.name]["id"]
            yield made
        finally:
            for host in hosts:
                if host.agent.poll() is None:
                    host.agent.send_signal(signal.SIGTERM)
            for host in hosts:
                host.leave()


def _join(stoa: Stoa, operator: Operator, pool: str, root: Path, number: int) -> Host:
    folder, name = root / f"n{number}", f"fleet-{number}"
    token = operator.post("/enrollment-tokens", {"pool": pool})
    env = {setting: value for setting, value in stoa.env.items() if "STOA_" not in setting}
    env |= {
        "STOA_CACHE_DIR": stoa.env.get("STOA_CACHE_DIR", ""),
        "STOA_CONTROLPLANE_URL": token["url"],
        "STOA_CONTROLPLANE_PIN": token["pin"],
        "STOA_AGENT_DIR": str(folder),
        "STOA_AGENT_RUN_DIR": f"{root}/r{number}",
        "STOA_AGENT_NAME": name,
        "STOA_AGENT_DEVICES": "cpu:1",
        "STOA_AGENT_RELAY": f"127.0.0.1:{free_port()}",
        "STOA_AGENT_STOP_ENGINES": "1",
        "STOA_AGENT_TOKEN": token["secret"],
    }
    with (root / f"n{number}.out").open("wb") as output:
        command = [sys.executable, "-m", "workers.agent", "run"]
        agent = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=output)
    return Host(name, folder, agent, env)


def admit_gateway(stoa: Stoa) -> None:
    """Have the gateway show a certificate of its region to the relays, as an operator does."""
    folder = stoa.var / "gateway-certificate"
    command = ["gateway_certificate", "--region", REGION, "--id", "gw-local", "--out", str(folder)]
    subprocess.run(
        [sys.executable, "manage.py", *command],
        env=environment_of(stoa.pid_of("worker")),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = {"CERTIFICATE": "certificate.pem", "KEY": "key.pem", "CA": "ca.pem"}
    lines = [f"STOA_GATEWAY_{name}={folder / file}\n" for name, file in files.items()]
    Path(stoa.env["STOA_GATEWAY_SETTINGS"]).write_text("".join(lines))
    master = stoa.pid_of("gateway")
    before = _children(master)
    os.kill(master, signal.SIGHUP)

    def anew() -> bool:
        serving = _children(master)
        return bool(serving) and not serving & before

    until(anew, what="the gateway has read its settings again")


def _children(pid: int) -> set[int]:
    return {each.pid for each in kin.everybody() if each.parent == pid}
