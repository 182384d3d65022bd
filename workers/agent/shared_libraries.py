"""Shared libraries that an engine's wheels take for granted and a bare machine lacks.

They are put into the environment itself (`<root>/lib/stoa`), where engines find them by
LD_LIBRARY_PATH: nothing of the machine is changed, and no root is needed to unpack one.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = "lib/stoa"


class MissingLibrary(Exception):
    """It is not there and could not be fetched; the message says what to run."""


def folder(root: Path) -> str:
    """For LD_LIBRARY_PATH of whatever runs in the environment at `root`."""
    return str(root / FOLDER)


def provide(needed: Mapping[str, str], root: Path) -> None:
    """Fetch what the machine lacks of these libraries, each from its Debian package. Raises
    MissingLibrary."""
    for library, package in needed.items():
        if not (root / FOLDER / library).exists() and not _on_machine(library):
            _fetch(library, package, root / FOLDER)


def _on_machine(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _fetch(library: str, package: str, target: Path) -> None:
    message = f"the engine needs {library}: run `apt-get install {package}` as root"
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise MissingLibrary(message)
    with tempfile.TemporaryDirectory(prefix="stoa-package-") as draft:
        # World-writable for a moment: apt fetches as a user of its own.
        os.chmod(draft, 0o777)
        if _run("apt-get", "-qq", "download", package, cwd=draft) and os.geteuid() == 0:
            _run("apt-get", "-qq", "update", cwd=draft)
            _run("apt-get", "-qq", "download", package, cwd=draft)
        for archive in Path(draft).glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), f"{draft}/tree", cwd=draft)
        found = [path for path in Path(draft).glob(f"tree/**/{library}") if path.is_file()]
        if not found:
            raise MissingLibrary(message)
        target.mkdir(parents=True, exist_ok=True)
        copy = target / f"{library}.new"
        shutil.copyfile(found[0].resolve(), copy)
        copy.chmod(0o755)
        copy.rename(target / library)


def _run(*command: str, cwd: str) -> int:
    return subprocess.run(command, cwd=cwd, capture_output=True).returncode
