"""`python -c THIS PACKAGE==VERSION SHA256 CACHE` on a node: the installer of engines, at work.

An engine's environment as any other, but of two small packages: one by a hashed lock, and
"torch", as engines on a CPU get it.
"""

import sys
from pathlib import Path

from controlplane.fleet.engines.base import Recipe
from workers.agent import environment

PRELOAD = "def main():\n    import idna, torch\n    assert torch.CPU\n"


def main(requirement: str, digest: str, cache: Path) -> None:
    locks, launcher = cache / "locks", cache / "small" / "launcher"
    for folder in (locks, launcher):
        folder.mkdir(parents=True)
    (locks / "engine-small.lock").write_text(f"{requirement} --hash=sha256:{digest}\n")
    (launcher / "preload.py").write_text(PRELOAD)
    environment.LOCKS, environment.LAUNCHER = locks, launcher
    environment.RECIPES["small"] = Recipe("1.0", "0.0.1", alias="small")
    print(environment.install("small", cache).root)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
