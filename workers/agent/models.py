"""Where a model lives on this node: a folder that somebody put there, or a hub's snapshot.

A snapshot is `<cache>/models/<owner>--<name>/<revision>`. It appears under its name when it is
whole; a download that was cut off goes on where it stopped.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from workers.agent.environment import Environment

MODEL_NOT_FOUND = "model_not_found"  # reasons of endpoints.states
FETCH_FAILED = "fetch_failed"

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
_TINY = Path(__file__).with_name("tiny_model.py")
_BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
_PASSED_ON = ("HF_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")

# What people are told while it goes on.
Progress = Callable[[str], None]


class ModelError(Exception):
    """A model that cannot be had; `reason` is an endpoints.states.Reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def locate(model: str, revision: str, cache: Path) -> Path | None:
    """The model's folder; None for a hub's model that is not here yet. Raises ModelError."""
    if model.startswith("/"):
        return _folder(Path(model))
    snapshot = _snapshot(model, revision, cache)
    return snapshot if snapshot.exists() else None


def fetch(
    model: str,
    revision: str,
    cache: Path,
    environment: Environment,
    *,
    progress: Progress = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """The model's folder, brought from the hub where need be. Blocks; raises ModelError."""
    if (found := locate(model, revision, cache)) is not None:
        return found
    target = _snapshot(model, revision, cache)
    draft = target.with_name(f".{target.name}.part")
    draft.mkdir(parents=True, exist_ok=True)
    with draft.with_suffix(".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _check(cancelled)
                time.sleep(0.2)
        if not target.exists():
            _download(model, revision, draft, environment, progress, cancelled)
            _open_to_engines(draft)
            draft.rename(target)
    return target


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


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ModelError(MODEL_NOT_FOUND, f"there is no model at {path} on this node")
    if not (path / "config.json").is_file():
        raise ModelError(MODEL_NOT_FOUND, f"{path} holds no model: it has no config.json")
    return path


def _snapshot(model: str, revision: str, cache: Path) -> Path:
    if not _HUB_ID.fullmatch(model) or (revision and not _REVISION.fullmatch(revision)):
        raise ModelError(
            MODEL_NOT_FOUND, f"{model!r} is neither an absolute path nor a hub's OWNER/NAME"
        )
    name = (revision or "main").replace("/", "--")
    return cache / "models" / model.replace("/", "--") / name


def _download(
    model: str,
    revision: str,
    draft: Path,
    environment: Environment,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> None:
    request = {"model": model, "revision": revision, "directory": str(draft)}
    process = subprocess.Popen(
        environment.program("hub", json.dumps(request)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_variables(draft),
        text=True,
    )
    try:
        while process.poll() is None:
            _check(cancelled)
            progress(f"fetching {model}: {_size(draft) / 1e9:.2f} GB here")
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            process.kill()
        output = process.communicate()[0]
    try:
        reply = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        reply = {"error": f"the download ended with status {process.returncode}"}
    if "error" in reply:
        reason = MODEL_NOT_FOUND if reply.get("missing") else FETCH_FAILED
        raise ModelError(reason, f"{model} could not be fetched: {reply['error']}")


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise ModelError(FETCH_FAILED, "the fetch was cancelled")


def _variables(draft: Path) -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed,
        "PATH": "/usr/bin:/bin",
        "HOME": str(draft),
        "HF_HOME": str(draft.with_suffix(".hub")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DO_NOT_TRACK": "1",
    }


def _size(folder: Path) -> int:
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except OSError:
                continue  # renamed meanwhile
    return total


def _open_to_engines(folder: Path) -> None:
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the download's own notes
    shutil.rmtree(folder.with_suffix(".hub"), ignore_errors=True)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
