"""An installation on hosts of its own: a control plane, a gateway, and nodes that join it.

    with site(folder, STOA_TIME_SCALE="0.05") as made:
        node = made.node("n0", fake=True)

Gateway and nodes know the control plane by its address alone, agents call its door over mutual
TLS, and the gateway reaches engines over the nodes' relays.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import openai

from tests.flows.api import Api
from tests.flows.nodes import REGION, Operator
from tests.flows.stoa import Stoa, until
from tests.lab.controlplane import DATABASE_PORT
from tests.lab.forward import forwarded
from tests.lab.host import ROOT, Host
from tests.lab.lab import Lab, lab
from workers.agent import kin, walls
from workers.agent.environment import default_cache

GATEWAY_PORT, RELAY_PORT, WEB_PORT = 8080, 7443, 8000
UP_S = 240.0
_PASSED = ("PATH", "HOME", "LANG", "STOA_UV")


def bare() -> dict[str, str]:
    """What a process of any host is told at the least."""
    known = {name: os.environ[name] for name in _PASSED if name in os.environ}
    paths = f"{ROOT}:{ROOT / 'platform'}"
    return known | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def first_uid(host: Host) -> str:
    """Hosts have a /run and process ids of their own, but their users are this machine's: each has
    a range, so that no agent takes another's engines for what was left under its ids."""
    number = int(host.address.rpartition(".")[2])
    return str(walls.FIRST_UID + (number + 1) * walls.UIDS)


@dataclass
class Node:
    host: Host
    directory: Path  # the agent's, as we see it
    output: Path
    id: str = ""

    def engines(self) -> list[str]:
        """The replica of each engine that runs on it, one entry an engine."""
        if not self.host.up:
            return []
        found = []
        network = os.readlink(f"/proc/{self.host.init}/ns/pid")
        for process in kin.everybody():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") != network:
                    continue
                output = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
            except OSError:
                continue
            if process.session == process.pid and output.parent.name == "logs":
                found.append(output.stem)
        return sorted(found)


class Site:
    """Made by `site`. `api`, `run` and `client` are as those of tests.flows.stoa.Stoa."""

    def __init__(self, net: Lab, folder: Path, settings: dict[str, str]) -> None:
        self.net, self.folder, self.settings = net, folder, settings
        self.controlplane = net.host("controlplane")
        self.gateway = net.host("gateway")
        self.client_host = net.host("client")
        self.nodes: dict[str, Node] = {}
        self.run: dict[str, str] = {}
        self._ends = ExitStack()

    # --- its life -----------------------------------------------------------------------

    def start(self) -> None:
        self._start_controlplane()
        self._start_gateway()
        web = self._ends.enter_context(forwarded(self.controlplane, "127.0.0.1", WEB_PORT))
        front = self._ends.enter_context(
            forwarded(self.client_host, self.gateway.address, GATEWAY_PORT)
        )
        self.run |= {
            "console_url": f"http://127.0.0.1:{web}",
            "gateway_url": f"http://127.0.0.1:{front}",
        }
        self.api = Api(self.run["console_url"], self.run["api_key"])
        self._ends.callback(self.api.http.close)
        self.operator = self._ends.enter_context(Operator(cast("Stoa", self)))

    def stop(self) -> None:
        self._ends.close()

    def _start_controlplane(self) -> None:
        var = self.folder / "var"
        env = bare() | {"STOA_VAR_DIR": str(var)} | self.settings
        env |= {
            "STOA_AGENTS_HOST": self.controlplane.address,
            "STOA_AGENTS_URL": f"https://{self.controlplane.address}:8443",
        }
        self.start_on(
            self.controlplane, ["-m", "tests.lab.controlplane", self.controlplane.address], env
        )
        until((var / "run.json").exists, within_s=UP_S, what=self._said(self.controlplane))
        self.run = json.loads((var / "run.json").read_text())

    def _start_gateway(self) -> None:
        var, here = self.folder / "var", self.folder / "gateway"
        certificate = self.folder / "certificate"
        self.controlplane.run(
            [sys.executable, "manage.py", "gateway_certificate", "--region", REGION,
             "--id", "gw-lab", "--out", str(certificate)],
            json.loads((var / "django.json").read_text()),
        )  # fmt: skip
        env: dict[str, str] = json.loads((var / "gateway.json").read_text())
        database = urlsplit(env["STOA_GATEWAY_DATABASE_URL"])
        user = database.netloc.rpartition("@")[0]
        where = f"{user}@{self.controlplane.address}:{DATABASE_PORT}"
        env |= {
            "STOA_GATEWAY_DATABASE_URL": urlunsplit(database._replace(netloc=where)),
            "STOA_GATEWAY_DIR": str(here),
            "STOA_GATEWAY_HOST": self.gateway.address,
            "STOA_GATEWAY_ID": "gw-lab",
            "STOA_GATEWAY_CONTROLPLANE_URL": "",
            "STOA_GATEWAY_CERTIFICATE": str(certificate / "certificate.pem"),
            "STOA_GATEWAY_KEY": str(certificate / "key.pem"),
            "STOA_GATEWAY_CA": str(certificate / "ca.pem"),
        }
        self.start_on(self.gateway, ["-m", "gateway"], env)

    # --- nodes --------------------------------------------------------------------------

    def node(self, name: str, *, fake: bool = False, models: bool = True) -> Node:
        """A new host that joins. `fake`: its engines are those of tests/agent. `models`: it finds
        those that this machine has."""
        cache = default_cache()
        below = ("engines", "models") if models else ("engines",)
        shared = [str(cache / one) for one in below if (cache / one).exists()]
        host = self.net.host(name, own=("/run", str(cache)), shared=shared)
        token = self.operator.post("/enrollment-tokens", {"pool": self.run["pool"]})
        directory = self.folder / name
        env = bare() | {
            "STOA_CONTROLPLANE_URL": token["url"],
            "STOA_CONTROLPLANE_PIN": token["pin"],
            "STOA_AGENT_TOKEN": token["secret"],
            "STOA_AGENT_DIR": str(directory),
            "STOA_AGENT_RUN_DIR": "/run/stoa",
            "STOA_CACHE_DIR": str(cache),
            "STOA_AGENT_DEVICES": "cpu:1",
            "STOA_AGENT_RELAY": f"{host.address}:{RELAY_PORT}",
            "STOA_AGENT_FIRST_UID": first_uid(host),
        }
        module = "tests.agent.fake_agent" if fake else "workers.agent"
        output = self.start_on(host, ["-m", module, "run"], env)
        made = self.nodes[name] = Node(host, directory, output)
        return made

    def await_nodes(self) -> None:
        """Until every one has joined and offers its devices."""

        def known() -> bool:
            found = self.operator.nodes(self.run["pool"])
            for name, node in self.nodes.items():
                node.id = found[name]["id"] if name in found else ""
            return all(node.id for node in self.nodes.values())

        until(known, within_s=120, what="the nodes have joined")
        devices = len(self.nodes)
        until(lambda: self.api.free_devices() == devices, within_s=120, what="and are free")

    def engines(self) -> list[str]:
        """The replica of each engine that runs on any host, one entry an engine."""
        return [id for node in self.nodes.values() for id in node.engines()]

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's own SDK, which tries again as it does anywhere."""
        url = f"{self.run['gateway_url']}/v1"
        return openai.OpenAI(base_url=url, api_key=self.run["api_key"], **options)

    # --- small parts --------------------------------------------------------------------

    def start_on(self, host: Host, arguments: list[str], env: dict[str, str] | None = None) -> Path:
        output = self.folder / f"{host.name}.out"
        with output.open("ab") as file:
            host.start([sys.executable, *arguments], env or bare(), output=file)
        return output

    def _said(self, host: Host) -> str:
        return f"{host.name} is up: {self.folder / host.name}.out"

    def tails(self, lines: int = 30) -> str:
        """The ends of all logs: what a failed test shows."""
        parts = []
        for log in sorted([*self.folder.glob("*.out"), *(self.folder / "var/log").glob("*.log")]):
            end = log.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {log.name}\n" + "\n".join(end))
        return "\n".join(parts)


@contextmanager
def site(folder: Path, **settings: str) -> Iterator[Site]:
    """Raises LabError where there can be no hosts."""
    with lab() as net:
        made = Site(net, folder, settings)
        try:
            made.start()
            yield made
        except BaseException:
            print(made.tails())
            raise
        finally:
            made.stop()
