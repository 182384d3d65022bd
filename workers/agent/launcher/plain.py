"""The plain start: raise the walls, then turn into stock `vllm serve`.

Standard library alone, because everything imported here is thrown away by the exec.
"""

import json
import os
import sys
from pathlib import Path

from . import engine

_QUIET = Path(__file__).with_name("quiet.py")  # which becomes `vllm serve`


def main() -> None:
    request = json.load(sys.stdin)
    engine.prepare(request)
    command = [sys.executable, "-I", str(_QUIET), "serve", *request["argv"]]
    os.execve(command[0], command, request["env"])
