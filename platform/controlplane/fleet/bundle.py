"""The agent as nodes fetch it: its code, the locks it needs and nothing else, hashed by content.

Taken from this installation's own files, a checkout's or a wheel's, so that a node runs the agent
that belongs to this control plane. Nothing of it is secret.
"""

import functools
import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from controlplane.fleet import errors

_PLATFORM = Path(__file__).resolve().parents[2]
_WIRE = ("__init__.py", "fleet/__init__.py", "fleet/*wire.py", "fleet/engines/*.py")
# How the agent reads an engine's log and a model's files.
_READING = (
    *("placement/__init__.py", "placement/refusals.py"),
    *("placement/models/__init__.py", "placement/models/plausible.py"),
    *("placement/memory/__init__.py", "placement/memory/checkpoint.py"),
    *("placement/memory/safetensors.py", "placement/memory/startup_log.py"),
)
_LOCKS = "*.lock"
HEADER = "x-stoa-bundle"  # of the answer that is a bundle: its digest


class NoAgent(errors.FleetError):
    """This installation has no agent's files."""

    code = "no_agent"


@dataclass(frozen=True)
class Bundle:
    """A gzipped tar. `digest`: SHA-256 of it, 64 hexadecimal digits."""

    digest: str
    content: bytes


def script() -> bytes:
    """What joins a machine: `workers/agent/join_script.py`, for a bare Python."""
    return (_agent() / "join_script.py").read_bytes()


def script_sha256() -> str:
    return hashlib.sha256(script()).hexdigest()


@functools.cache
def current() -> Bundle:
    """Raises NoAgent."""
    packed = io.BytesIO()
    # The same files give the same bytes: no times, no owners.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, path in sorted(_files()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    content = packed.getvalue()
    return Bundle(hashlib.sha256(content).hexdigest(), content)


def version(bundle: Bundle) -> str:
    """As its agents report it (workers/agent/settings.py)."""
    said = re.search(r'^_RELEASE = "([^"]+)"$', (_agent() / "settings.py").read_text(), re.M)
    return f"{said[1] if said else '?'}+{bundle.digest[:12]}"


def _files() -> Iterator[tuple[str, Path]]:
    agent = _agent()
    yield "workers/__init__.py", agent.parent / "__init__.py"
    for path in agent.rglob("*"):
        below = path.relative_to(agent)
        if path.is_file() and "__pycache__" not in below.parts and below.parts[0] != "requirements":
            yield f"workers/agent/{below}", path
    for pattern in (*_WIRE, *_READING):
        for path in (_PLATFORM / "controlplane").glob(pattern):
            yield f"platform/{path.relative_to(_PLATFORM)}", path
    # Beside the agent in an installed wheel; in a checkout each where it is at home.
    wheel, checkout = agent / "requirements", agent.parents[1]
    locks = wheel if wheel.is_dir() else checkout / "requirements"
    for path in locks.glob(_LOCKS):
        if path.name == "agent.lock" or path.name.startswith("engine-"):
            yield f"requirements/{path.name}", path
    bootstrap = wheel if wheel.is_dir() else checkout / "deploy"
    yield "deploy/bootstrap.py", bootstrap / "bootstrap.py"


def _agent() -> Path:
    found = find_spec("workers.agent")
    if found is None or not found.submodule_search_locations:
        raise NoAgent("This installation has no agent to hand out.")
    return Path(found.submodule_search_locations[0])
