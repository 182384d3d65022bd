#!/usr/bin/env python3
"""Make the virtual environment from its lock, on a machine that has Python and nothing else.

    python3 deploy/bootstrap.py platform|dev|agent

Idempotent and quick when nothing changed; an interrupted run is simply run again. It gets uv
(with pip, else by itself from the index that pip is told of, else in a venv, for which it installs
Debian's python3-venv where that is allowed), and uv makes `.venv` with a Python from 3.11 to 3.13.
"""

import base64
import hashlib
import html
import http.client
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from workers.agent import uv  # noqa: E402  (the path must be set first)

VENV = ROOT / ".venv"
STAMP = VENV / "stoa-stamp"
PYTHONS = ("python3.11", "python3.12", "python3.13")


def main() -> None:
    level = sys.argv[1] if len(sys.argv) > 1 else "platform"
    wanted = fingerprint(level)
    stamps = STAMP.read_text().split() if STAMP.exists() else []
    if wanted in stamps:
        return
    tool = uv.find() or fetch_uv()
    print(f"installing the {level} environment into .venv", flush=True)
    run(tool, "venv", "--allow-existing", "--python", interpreter(), str(VENV))
    python = ("--python", str(VENV / "bin" / "python"))
    lock = ROOT / "requirements" / f"{level}.lock"
    STAMP.unlink(missing_ok=True)
    run(tool, "pip", "sync", *python, "--require-hashes", "--compile-bytecode", str(lock))
    if level != "agent":  # a node's bundle is no project: it is run where it lies
        alone = ("--no-deps", "--no-build-isolation")
        run(tool, "pip", "install", *python, *alone, "--editable", str(ROOT))
    # The development environment holds the platform's, so it satisfies both.
    levels = ("platform", "dev") if level == "dev" else (level,)
    STAMP.write_text("\n".join(fingerprint(name) for name in levels))


def fingerprint(level: str) -> str:
    digest = hashlib.sha256(level.encode())
    for path in (ROOT / "requirements" / f"{level}.lock", ROOT / "pyproject.toml"):
        if path.exists():
            digest.update(path.read_bytes())
    digest.update(str(ROOT).encode())
    return digest.hexdigest()


def interpreter() -> str:
    """A Python from 3.11 to 3.13: the one that runs this, or one on the PATH that really runs."""
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return sys.executable
    for name in PYTHONS:
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    stop("Stoa needs Python 3.11, 3.12 or 3.13: install one (Debian: apt-get install python3)")


def fetch_uv() -> Path:
    """uv from the configured package index, into .bootstrap/."""
    target = uv.OWN.parents[1]
    if not has_module("pip") and fetch_uv_plainly():
        return uv.OWN
    if has_module("pip") or install_venv_package():
        pip = [sys.executable, "-m", "pip"]
        if not has_module("pip"):
            helper = target.parent / "venv"
            check([sys.executable, "-m", "venv", "--clear", str(helper)])
            pip = [str(helper / "bin" / "python"), "-m", "pip"]
        check([*pip, "install", "--quiet", "--upgrade", "--target", str(target), "uv"])
        return uv.OWN
    stop(
        "uv is missing and this Python has neither pip nor venv to get it with.\n"
        "Name your package index in PIP_INDEX_URL, run `apt-get install python3-venv` as root, or"
        " put uv on the PATH, then try again."
    )


def fetch_uv_plainly() -> bool:
    """uv's newest wheel for this machine, where an index is configured that has one."""
    settings = uv.environment()
    indexes = f"{settings.get('UV_DEFAULT_INDEX', '')} {settings.get('UV_INDEX', '')}".split()
    for page in (f"{index.rstrip('/')}/uv/" for index in indexes):
        try:
            links = re.findall(r'href="([^"]+)"', get(page).decode())
            places = [urljoin(page, html.unescape(link)) for link in links]
            wheels = [(version, place) for place in places if (version := uv_version(place))]
            if not wheels:
                continue
            place = max(wheels)[1]
            content = get(place)
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"no uv from {urlsplit(page).hostname or page}: {error}", flush=True)
            continue
        wanted = urlsplit(place).fragment.partition("sha256=")[2]
        if wanted and hashlib.sha256(content).hexdigest() != wanted:
            stop(f"{place.partition('#')[0]} is not what its index says")
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            (program,) = (name for name in wheel.namelist() if name.endswith("/scripts/uv"))
            uv.OWN.parent.mkdir(parents=True, exist_ok=True)
            draft = uv.OWN.with_suffix(".new")
            draft.write_bytes(wheel.read(program))
        draft.chmod(0o755)
        draft.rename(uv.OWN)
        return True
    return False


def uv_version(place: str) -> "tuple[int, ...]":
    """Of a wheel of uv that runs here; empty for any other file."""
    name = urlsplit(place).path.rpartition("/")[2]
    tags = rf"uv-([0-9.]+)-py3-none-manylinux[a-z0-9_.]*_{platform.machine()}[.]whl"
    found = re.fullmatch(tags, name)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def get(url: str) -> bytes:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    if user:
        proof = base64.b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {proof}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def has_module(name: str) -> bool:
    return (
        subprocess.run([sys.executable, "-m", name, "--version"], capture_output=True).returncode
        == 0
    )


def install_venv_package() -> bool:
    """True once `python3 -m venv` makes environments with pip in them."""
    probe = [sys.executable, "-c", "import ensurepip"]
    if subprocess.run(probe, capture_output=True).returncode == 0:
        return True
    apt = shutil.which("apt-get")
    if not apt:
        return False
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and not shutil.which("sudo"):
        return False
    if root and subprocess.run([*root, "true"], capture_output=True).returncode != 0:
        return False
    print("installing Debian's python3-venv", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*root, apt, "update", "-qq"], env=env)
    package = f"python3.{sys.version_info[1]}-venv"
    done = subprocess.run([*root, apt, "install", "-y", "-qq", package], env=env)
    return done.returncode == 0


def run(tool: Path, *arguments: str) -> None:
    # uv draws a progress bar for people; for a file it would list every package.
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    check([str(tool), *quiet, *arguments], env=uv.environment())


def check(command: list[str], env: dict[str, str] | None = None) -> None:
    if subprocess.run(command, env=env, cwd=ROOT).returncode != 0:
        stop(f"failed: {' '.join(command)}")


def stop(message: str) -> NoReturn:
    sys.exit(message)


if __name__ == "__main__":
    main()
