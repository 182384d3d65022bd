"""The only way out of a container: a proxy that knows where its organization may go.

One process for each replica from an image, in a directory of its own:

    rules.json         where it may go; the agent writes it, and again when it changes
    proxy.sock         HTTP: CONNECT, and requests with an absolute address
    counts.json        what was reached and what was refused, summed (list of wire.EgressCount)
    connections.jsonl  one line for each connection; the file before it is connections.jsonl.1

The agent, the door into the container's network and the proxy share nothing else, so the proxy
serves on while the agent is replaced.
"""

import contextlib
import sys
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files

PORT = 3128  # of the container's loopback, where its door joins the socket
RULES, SOCKET, COUNTS = "rules.json", "proxy.sock", "counts.json"
CONNECTIONS = "connections.jsonl"


class Rules(msgspec.Struct, frozen=True):
    """Where a replica may go; nothing that is not here."""

    replica: str = ""
    organization: str = ""
    allow: tuple[str, ...] = ()  # fleet.destinations
    networks: tuple[str, ...] = ()  # private ones (CIDR) that a name may lead into


def environment() -> dict[str, str]:
    """What makes the programs of a container use it."""
    url, direct = f"http://127.0.0.1:{PORT}", "localhost,127.0.0.1,::1"
    ways = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), url)
    both = {**ways, "NO_PROXY": direct}
    return {**both, **{name.lower(): value for name, value in both.items()}}


def command(directory: Path) -> list[str]:
    return [sys.executable, "-m", "workers.agent.egress", str(directory)]


def write_rules(directory: Path, spec: wire.ReplicaSpec) -> bool:
    """What the replica may reach from here on; whether that is news. Raises OSError."""
    rules = Rules(
        replica=spec.replica_id,
        organization=spec.organization_id,
        allow=tuple(spec.egress),
        networks=tuple(spec.egress_networks),
    )
    content = msgspec.json.encode(rules)
    if files.read(directory / RULES) == content:
        return False
    files.write(directory / RULES, content, mode=0o644, durable=False)
    return True


def read_counts(directory: Path) -> list[wire.EgressCount]:
    """What it reached so far; empty where nobody counted yet."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        content = files.read(directory / COUNTS)
        return msgspec.json.decode(content or b"[]", type=list[wire.EgressCount])
    return []
