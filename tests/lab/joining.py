"""A host that has nothing of ours joins, fetches a model from the operator's mirror, and serves it.

What it may find: the engine's environment in the machine's cache, since gigabytes of packages are
the package cache's business, and the code itself. Weights, compiled kernels, sockets, state and
certificates are its own to get; nothing of them is there before.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.flows.stoa import until
from tests.lab.host import Host
from tests.lab.lab import NETWORK_V4
from tests.lab.recorder import Sent
from tests.lab.site import Node, Site, site

HUB_PORT = 9000
MIRROR = f"{NETWORK_V4}.5"  # the first host after those of the site itself
NAME = "lab/tiny"
START_S = 400.0


@dataclass
class Joined:
    """`joined_s`, `ready_s`, `first_token_s`: since the agent was started, once they have come."""

    site: Site
    node: Node
    endpoint_id: str
    joined_s: float
    ready_s: float
    first_token_s: float

    def stop(self) -> None:
        """The endpoint ends, and its engine with it."""
        self.site.api.post(f"/endpoints/{self.endpoint_id}/stop")
        until(lambda: self.node.engines() == [], within_s=120, what="its engine has ended")

    def strangers(self) -> list[Sent]:
        """What the node sent to anybody but the control plane, the mirror, and who called it."""
        known = {(self.site.controlplane.address, 8443), (MIRROR, HUB_PORT), (MIRROR, HUB_PORT + 1)}
        sent = self.site.net.recorder.sent(self.node.host)
        return [
            one for one in sent if one.protocol != "tcp" or (one.address, one.port) not in known
        ]


@contextmanager
def joined(folder: Path, model: Path, say: Callable[[str], None]) -> Iterator[Joined]:
    """A site, its mirror with the files of `model`, and a node that serves them."""
    with site(folder, STOA_HUB_URL=f"http://{MIRROR}:{HUB_PORT}") as made:
        mirror = made.net.host("mirror")
        assert mirror.address == MIRROR
        _serve(made, mirror, model)
        began = time.monotonic()
        node = made.node("fresh", models=False)
        made.await_nodes()
        joined_s = time.monotonic() - began
        say(f"it has joined after {joined_s:.1f} s")
        wish = {
            "project": made.run["project"],
            "name": "first",
            "model": NAME,
            "device_kind": "cpu",
            "engine_args": {"max_model_len": 1024},
        }
        endpoint = made.api.post("/endpoints", wish)

        def ready() -> bool:
            states = {one["state"] for one in made.api.replicas(endpoint["id"])}
            return "ready" in states

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
        yield Joined(made, node, endpoint["id"], joined_s, ready_s, first_token_s)


def _serve(made: Site, mirror: Host, model: Path) -> None:
    arguments = ["-m", "tests.lab.mirror", mirror.address, str(HUB_PORT), NAME, str(model)]
    output = made.start_on(mirror, arguments)
    until(lambda: "listening" in output.read_text(), within_s=60, what="the mirror listens")
