#!/usr/bin/env python3
"""Draw the platform's, the development, the agent's and the tests' locks anew: `make lock`.

Hashed, universal for Python 3.11 to 3.13, without any address of an index in them.
"""

import subprocess
import sys
from pathlib import Path

from workers.agent import uv

HERE = Path(__file__).resolve().parent
COMMON = ("--universal", "--python-version", "3.11", "--generate-hashes", "--no-header")


def main() -> None:
    project = HERE.parent / "pyproject.toml"
    platform, dev = HERE / "platform.lock", HERE / "dev.lock"
    _compile(project, platform, "--group", "build")
    _compile(project, dev, "--group", "build", "--group", "dev", "--constraints", str(platform))
    _compile(HERE / "agent.in", HERE / "agent.lock", "--constraints", str(platform))
    _compile(HERE / "clients.in", HERE / "clients.lock")
    _compile(HERE / "einvoice-rules.in", HERE / "einvoice-rules.lock", "--no-deps")


def _compile(source: Path, target: Path, *more: str) -> None:
    tool = uv.find()
    if tool is None:
        sys.exit("uv is missing: run `make dev` first")
    command = [str(tool), "pip", "compile", "--quiet", *COMMON, "--no-annotate", *more]
    command += [str(source), "--output-file", str(target)]
    # One index: a partial mirror beside it would leave out the hashes that it does not carry.
    env = {k: v for k, v in uv.environment().items() if k not in ("UV_INDEX", "UV_FIND_LINKS")}
    if subprocess.run(command, env=env, cwd=HERE.parent).returncode:
        sys.exit(1)


if __name__ == "__main__":
    main()
