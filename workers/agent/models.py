"""Models that lie on this node: where somebody put them, or made here for a trial."""

import hashlib
import stat
import subprocess
from pathlib import Path

from workers.agent.environment import Environment
from workers.agent.weights.errors import FETCH_FAILED, Missing, ModelError

__all__ = ["ModelError", "folder", "tiny", "unreadable"]

_TINY = Path(__file__).with_name("tiny_model.py")
_BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}


def folder(path: str) -> Path:
    """The folder that somebody put there. Raises ModelError."""
    found = Path(path)
    if not found.is_dir():
        raise Missing(f"there is no model at {path} on this node")
    if not (found / "config.json").is_file():
        raise Missing(f"{path} holds no model: it has no config.json")
    return found


def tiny(cache: Path, environment: Environment, layers: int | None = None) -> Path:
    """A folder with `model` and `adapter`, built here for want of a hub. Raises ModelError."""
    digest = hashlib.sha256(_TINY.read_bytes()).hexdigest()[:12]
    depth = [] if layers is None else [str(layers)]
    folder = cache / "models" / "-".join(("tiny", digest, *depth))
    if not folder.exists():
        command = [str(environment.python), "-I", str(_TINY), str(folder), *depth]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=_BARE)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise ModelError(FETCH_FAILED, f"the tiny model could not be built: {lines[-1]}")
    return folder


def unreadable(folder: Path) -> str:
    """Why engines under a uid of their own could not read a model's folder; empty if they can.

    Directories above it do not matter: launcher.isolation shows the engine the folder itself.
    """
    for path in (folder, *folder.iterdir()):
        mode = path.stat().st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        if mode & needed != needed:
            return f"{path} is not readable for engines (chmod -R o+rX {folder})"
    return ""
