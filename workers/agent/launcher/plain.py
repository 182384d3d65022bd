"""The plain start: raise the walls, then turn into the engine's own program.

Standard library alone, because everything imported here is thrown away by the exec.
"""

import json
import os
import sys

from . import engine


def main() -> None:
    request = json.load(sys.stdin)
    engine.prepare(request)
    command = [sys.executable, "-I", *request["entry"], *request["argv"]]
    os.execve(command[0], command, request["env"])
