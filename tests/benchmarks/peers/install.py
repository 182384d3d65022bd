"""Brings the peers here, once: into a cache beside the engines', outside the repository."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.peers.processes import PeerError
from tests.prepare import install_packages
from workers.agent.environment import default_cache
from workers.local.screen import Screen

# Debian's: the canned upstream and the bare proxy, and the load.
PACKAGES = ("nginx", "wrk", "libnginx-mod-http-lua")
VLLM_ROUTER = "vllm-router==0.1.17"
LITELLM = "litellm[proxy]==1.106.12"
PORTKEY = "@portkey-ai/gateway@1.15.2"
# The server it stands on: with the newest that its package.json admits, no stream is answered
# ("TypeError: immutable").
PORTKEY_OVERRIDES = {"@hono/node-server": "1.3.3"}
_FILES = ("/usr/sbin/nginx", "/usr/bin/wrk", "/usr/lib/nginx/modules/ngx_http_lua_module.so")
NGINX, WRK = _FILES[:2]


def system(screen: Screen) -> None:
    """nginx and wrk. Raises PeerError."""
    if not all(Path(file).exists() for file in _FILES):
        install_packages(list(PACKAGES), screen)
    if missing := [file for file in _FILES if not Path(file).exists()]:
        raise PeerError(f"{', '.join(missing)}: apt-get install {' '.join(PACKAGES)}")


def python(requirement: str, screen: Screen) -> Path:
    """The `bin` of a virtual environment with the package. Raises PeerError."""
    place = _place(requirement)
    with _made(place, requirement, screen) as missing:
        if missing:
            _run([sys.executable, "-m", "venv", str(place)])
            _run([str(place / "bin" / "pip"), "install", "--quiet", requirement])
    return place / "bin"


def npm(requirement: str, overrides: dict[str, str], screen: Screen) -> Path:
    """The folder of the package. Raises PeerError."""
    if not shutil.which("npm"):
        raise PeerError("there is no npm here")
    place = _place(requirement)
    name, _, pinned = requirement.rpartition("@")
    with _made(place, requirement, screen) as missing:
        if missing:
            place.mkdir(parents=True)
            wanted = {"private": True, "dependencies": {name: pinned}, "overrides": overrides}
            (place / "package.json").write_text(json.dumps(wanted))
            quiet = ["--silent", "--ignore-scripts", "--legacy-peer-deps"]
            _run(["npm", "install", *quiet, "--prefix", str(place)])
    return place / "node_modules" / name


def version(command: list[str]) -> str:
    """The last word of what a program says about its version."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return (done.stdout or done.stderr).split()[-1].rpartition("/")[2]


def npm_version(folder: Path) -> str:
    found: str = json.loads((folder / "package.json").read_text())["version"]
    return found


def _place(requirement: str) -> Path:
    name = "".join(char if char.isalnum() or char in ".-" else "_" for char in requirement)
    return default_cache() / "bench" / f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}"


@contextmanager
def _made(place: Path, what: str, screen: Screen) -> Iterator[bool]:
    """Yields whether it is missing; a half-made folder is made anew."""
    done = place / ".done"
    if done.exists():
        yield False
        return
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    with screen.timed(f"installing {what}"):
        yield True
    done.touch()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PeerError(f"{command[0]}: {said[-1] if said else done.returncode}")
