"""Other people's clients, in an environment of their own outside every checkout.

Python packages by requirements/clients.lock, the Node that one of them brings, and with it OpenAI's
SDK for JavaScript by package-lock.json. A new lock makes a new environment.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workers.agent import uv

HERE = Path(__file__).resolve().parent
LOCK = HERE.parents[1] / "requirements" / "clients.lock"
PACKAGES = ("package.json", "package-lock.json")
STAMP = "stoa-stamp"


@dataclass(frozen=True)
class Clients:
    root: Path

    def python(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run([str(self.root / "bin" / "python"), "-I", str(HERE / script), *arguments])

    def node(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Modules are looked for beside the script, so a copy lies beside them.
        copy = shutil.copy(HERE / script, self.root / "js")
        return _run([str(self.root / "bin" / "node"), str(copy), *arguments])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # Nothing of this process's secrets, and no proxies on the way to this machine.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def locate(cache: Path) -> Clients | None:
    root = _root(cache)
    return Clients(root) if (root / STAMP).exists() else None


def install(cache: Path) -> Clients:
    """Make it unless it is there. Raises CalledProcessError."""
    root = _root(cache)
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if found := locate(cache):
            return found
        tool = str(uv.find())
        python = root / "bin" / "python"
        _do(
            [tool, "venv", "--quiet", "--clear", "--python", sys.executable, str(root)], root.parent
        )
        pip = [tool, "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode"]
        _do([*pip, "--require-hashes", "-r", str(LOCK)], root.parent)
        folder = root / "js"
        folder.mkdir()
        for name in PACKAGES:
            shutil.copy(HERE / name, folder)
        npm = [str(root / "bin" / "npm"), "ci", "--ignore-scripts", "--loglevel=error"]
        _do([*npm, "--no-audit", "--no-fund"], folder)
        (root / STAMP).touch()
    return Clients(root)


def _do(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, env=uv.environment(), check=True, stdout=subprocess.DEVNULL)


def _root(cache: Path) -> Path:
    digest = hashlib.sha256(LOCK.read_bytes())
    for name in PACKAGES:
        digest.update((HERE / name).read_bytes())
    return cache / "clients" / digest.hexdigest()[:16]
