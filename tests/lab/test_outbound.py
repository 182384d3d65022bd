"""What a node sends out in a whole run, from joining to the end of its engine: all of it is seen.

Real vLLM on a host of its own, which fetches its weights from a mirror. `make bench NAME=join`
says how long it took.
"""

import sys
import tempfile
from pathlib import Path

import pytest

from tests.engine_fixtures import engine_environment, tiny_model
from tests.flows.stoa import until
from tests.lab.joining import MIRROR, joined
from tests.lab.lab import NETWORK_V4
from tests.lab.marks import needs_lab, reaches_hosts

__all__ = ["engine_environment", "tiny_model"]

pytestmark = [pytest.mark.engine, needs_lab, reaches_hosts, pytest.mark.xdist_group("lab")]

PLANTED = """
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as planted:
        planted.settimeout(1)
        try:
            planted.connect(("192.0.2.9", 443))
            planted.send(b"what we did today")
        except OSError:
            pass
try:
    socket.getaddrinfo("telemetry.example", 443)
except OSError:
    pass
"""


def test_a_node_reaches_the_control_plane_and_the_mirror_alone(tiny_model: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="stoa-join-", dir="/tmp") as folder,
        joined(Path(folder), tiny_model / "model", print) as found,
    ):
        found.stop()
        assert found.strangers() == []
        reached = {one.address for one in found.site.net.recorder.sent(found.node.host)}
        assert reached == {found.site.controlplane.address, MIRROR}
        # Whoever had sent anything else would have been seen.
        found.node.host.run([sys.executable, "-c", PLANTED])
        until(lambda: len(found.strangers()) >= 3, what="the planted ones are seen")
        planted = {(one.protocol, one.address, one.name) for one in found.strangers()}
        assert planted == {
            ("tcp", "192.0.2.9", ""),
            ("udp", "192.0.2.9", ""),
            ("dns", f"{NETWORK_V4}.1", "telemetry.example"),
        }
