"""What an engine on a GPU compiles with: Triton builds a C module in each new cache of kernels."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from workers.agent.checks.finding import Finding
from workers.agent.health.cards import Reading

PATH = "/usr/local/bin:/usr/bin:/bin"  # an engine's, but for its environment's own programs
COMPILERS = ("gcc", "clang")  # as Triton looks for them


def findings(
    reading: Reading | None, *, path: str = PATH, include: Path | None = None
) -> list[Finding]:
    """Nothing on a node without GPUs. `include`: where Python's headers lie."""
    if reading is None or not reading.cards:
        return []
    headers = include or Path(sysconfig.get_paths()["include"])
    found = next((one for one in COMPILERS if shutil.which(one, path=path)), None)
    lacking = [] if found else ["no C compiler"]
    if not os.path.exists(headers / "Python.h"):
        lacking.append(f"no {headers / 'Python.h'}")
    if not lacking:
        return [Finding("compiler", True, f"{found}, with Python's headers")]
    text = f"{' and '.join(lacking)}: no engine starts on its GPUs, but those of images"
    cure = f"apt-get install gcc python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    return [Finding("compiler", False, text, cure)]
