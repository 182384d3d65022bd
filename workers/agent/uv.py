"""uv, wherever it is, told of the package indexes that this machine is set up for.

Standard library alone: `make` runs this before anything is installed.
"""

import configparser
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / ".bootstrap" / "uv" / "bin" / "uv"

# How pip spells a setting, and how uv does.
_SETTINGS = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
}


def find() -> Path | None:
    """The uv to use: STOA_UV, our own copy, or one on the PATH."""
    if named := os.environ.get("STOA_UV"):
        return Path(named)
    if OWN.exists():
        return OWN
    beside = Path(sys.prefix) / "bin" / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    return Path(found) if found else None


def environment() -> dict[str, str]:
    """The environment for uv: what pip is configured with holds for uv too.

    A setting that uv already has wins, then PIP_* variables, then pip's files.
    """
    env = dict(os.environ)
    for name, variable in _SETTINGS.items():
        if variable not in env and (value := _pip_setting(name)):
            separator = "," if name == "find-links" else " "
            env[variable] = separator.join(value.split())
    # pip looks in every index that it is given; the locks' hashes say what is right.
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    env.setdefault("UV_PYTHON_DOWNLOADS", "never")
    env.setdefault("UV_HTTP_TIMEOUT", "180")
    env.setdefault("UV_LINK_MODE", "copy")
    return env


def _pip_setting(name: str) -> str:
    if value := os.environ.get("PIP_" + name.upper().replace("-", "_")):
        return value
    parser = configparser.RawConfigParser()
    parser.read(_pip_files(), encoding="utf-8")
    for section in ("install", "global"):
        if parser.has_option(section, name):
            return parser.get(section, name)
    return ""


def _pip_files() -> Iterable[Path]:
    if named := os.environ.get("PIP_CONFIG_FILE"):
        return [Path(named)]
    home = Path.home()
    return [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME", home / ".config")) / "pip" / "pip.conf",
    ]
