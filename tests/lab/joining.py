"""A host that has nothing of ours joins by the one command, fetches a model, and serves it.

It has a Python, empty folders, and the command as the API shows it, with the operator's package
cache and mirror for surroundings. The agent's code comes from the control plane, its packages from
the package cache, weights from the mirror. The engine's environment alone is found in the
machine's cache, since gigabytes would be fetched for each try.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.flows.stoa import until
from tests.lab import packages
from tests.lab.host import ROOT, Host
from tests.lab.lab import NETWORK_V4
from tests.lab.recorder import Sent
from tests.lab.site import RELAY_PORT, Node, Site, first_uid, site
from workers.agent.environment import default_cache

HUB_PORT, PACKAGES_PORT = 9000, 9200
# The first hosts after those of the site itself.
MIRROR, PACKAGES = f"{NETWORK_V4}.5", f"{NETWORK_V4}.6"
INDEX = f"http://{PACKAGES}:{PACKAGES_PORT}/simple"
NAME = "lab/tiny"
START_S = 400.0
# Where it keeps what it is given, as root: no setting names them.
CODE, STATE, RUN = Path("/opt/stoa-agent"), Path("/var/lib/stoa-agent"), Path("/run/stoa-agent")


@dataclass
class Joined:
    """`joined_s`, `ready_s`, `first_token_s`: since the command was given, once they have come.
    `env`: what the host was told before; `wheels`: what the package cache has."""

    site: Site
    node: Node
    env: dict[str, str]
    wheels: Path
    endpoint_id: str
    joined_s: float
    ready_s: float
    first_token_s: float

    def stop(self) -> None:
        """The endpoint ends, and its engine with it."""
        self.site.api.post(f"/endpoints/{self.endpoint_id}/stop")
        until(lambda: self.node.engines() == [], within_s=120, what="its engine has ended")

    def strangers(self) -> list[Sent]:
        """What the node sent to anybody but the control plane, the mirror, the package cache, and
        who called it."""
        known = {
            (self.site.controlplane.address, 8443),
            (MIRROR, HUB_PORT),
            (MIRROR, HUB_PORT + 1),
            (PACKAGES, PACKAGES_PORT),
        }
        sent = self.site.net.recorder.sent(self.node.host)
        return [
            one for one in sent if one.protocol != "tcp" or (one.address, one.port) not in known
        ]

    def bundle(self) -> Path:
        """The agent's code on the host, as the host sees it."""
        (version,) = self.node.host.file(CODE / "versions").iterdir()
        return CODE / "versions" / version.name


@contextmanager
def joined(folder: Path, model: Path, say: Callable[[str], None]) -> Iterator[Joined]:
    """A site, its mirror with the files of `model`, and a node that serves them."""
    wheels = folder / "wheels"  # the tests may add to it
    wheels.mkdir()
    for path in packages.collect(default_cache()).iterdir():
        (wheels / path.name).symlink_to(path)
    with site(folder, STOA_HUB_URL=f"http://{MIRROR}:{HUB_PORT}") as made:
        mirror, cache = made.net.host("mirror"), made.net.host("packages")
        assert (mirror.address, cache.address) == (MIRROR, PACKAGES)
        _serve(made, mirror, "tests.lab.mirror", HUB_PORT, NAME, str(model))
        _serve(made, cache, "tests.lab.packages", PACKAGES_PORT, str(wheels))
        host = _bare(made, "fresh")
        env = _surroundings(host)
        token = made.operator.post("/enrollment-tokens", {"pool": made.run["pool"]})
        output = folder / "fresh.out"
        began = time.monotonic()
        with output.open("wb") as file:
            host.start(["sh", "-c", token["command"]], env, output=file, cwd="/")
        node = made.nodes["fresh"] = Node(host, host.file(STATE), output)
        made.await_nodes()
        joined_s = time.monotonic() - began
        for line in output.read_text().splitlines():
            if line.startswith("["):
                say(f"the command: {line}")
        say(f"its device is offered after {joined_s:.1f} s")
        wish = {
            "project": made.run["project"],
            "name": "first",
            "model": NAME,
            "device_kind": "cpu",
            "engine_args": {"max_model_len": 1024},
        }
        endpoint = made.api.post("/endpoints", wish)

        def ready() -> bool:
            replicas = made.api.replicas(endpoint["id"])
            assert not [one for one in replicas if one["state"] == "failed"], replicas
            return "ready" in {one["state"] for one in replicas}

        until(ready, within_s=START_S, every_s=0.1, what="it serves")
        ready_s = time.monotonic() - began
        for one in made.api.transitions(endpoint["id"]):
            say(f"{one['to_state']} after {one['seconds'] or 0:.1f} s")
        with made.client(timeout=60, max_retries=5) as sdk:
            for _ in sdk.completions.create(
                model="first", prompt="Hello", max_tokens=4, stream=True
            ):
                break
        first_token_s = time.monotonic() - began
        say(f"first token after {first_token_s:.1f} s")
        yield Joined(made, node, env, wheels, endpoint["id"], joined_s, ready_s, first_token_s)


def _bare(made: Site, name: str) -> Host:
    """Of this machine's files it has the programs of the system, Python and engines'
    environments."""
    hidden = [Path(one) for one in ("/opt", "/run", "/tmp", "/var/cache", "/var/lib")]
    hidden += [Path.home(), default_cache(), ROOT]
    own = [one for one in hidden if not any(one.is_relative_to(o) for o in hidden if o != one)]
    shared = [str(default_cache() / "engines"), sys.base_prefix]
    return made.net.host(name, own=[str(one) for one in own], shared=shared, code=False)


def _surroundings(host: Host) -> dict[str, str]:
    """What a machine is set up with before it joins, and which device it is to offer."""
    env = {
        "PATH": f"{sys.base_prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(Path.home()),
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": INDEX,
        "PIP_TRUSTED_HOST": PACKAGES,
        "STOA_AGENT_DEVICES": "cpu:1",
        "STOA_AGENT_RELAY": f"{host.address}:{RELAY_PORT}",
        "STOA_AGENT_FIRST_UID": first_uid(host),
    }
    if default_cache() != Path("/var/cache/stoa"):
        env["STOA_CACHE_DIR"] = str(default_cache())
    return env


def _serve(made: Site, host: Host, module: str, port: int, *more: str) -> None:
    output = made.start_on(host, ["-m", module, host.address, str(port), *more])
    until(lambda: "listening" in output.read_text(), within_s=60, what=f"{host.name} listens")
