"""NVIDIA's driver, asked through its own library (NVML), where the machine has one."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from workers.agent.health.cards import Reading

LIBRARY = "libnvidia-ml.so.1"
TIMEOUT_S = 30.0
_CACHE = Path("/etc/ld.so.cache")


def read(timeout_s: float = TIMEOUT_S) -> Reading | None:
    """What the driver says of all GPUs; None on a machine without one. Blocks.

    A driver that hangs, or crashes, is a reading with an `error`.
    """
    if not installed():
        return None
    command = [sys.executable, "-m", "workers.agent.health.nvml_reader"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return Reading(error=f"the driver did not answer within {timeout_s:.0f} s")
    except OSError as error:
        return Reading(error=f"the driver could not be asked: {error}")
    try:
        return msgspec.json.decode(done.stdout, type=Reading)
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        return Reading(error=f"the driver could not be read: {why}")


def installed() -> bool:
    """Whether the loader would find the library: looked up as it does, without loading it."""
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/lib", "/usr/lib"]
    if any(folder and (Path(folder) / LIBRARY).exists() for folder in folders):
        return True
    try:
        return LIBRARY.encode() in _CACHE.read_bytes()
    except OSError:
        return False
