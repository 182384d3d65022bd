"""Where the engines of one agent are. Agents of a machine may share cache and run folder."""

from dataclasses import dataclass
from pathlib import Path

from workers.agent import processes
from workers.agent.settings import Settings


@dataclass(frozen=True)
class Places:
    mark: str  # of the agent's directory: what its processes carry
    run: Path  # e/: sockets; standby/
    homes: Path  # homes/, adapters/, caches/
    weights: Path

    @property
    def prefix(self) -> str:
        """Begins the name of each holder of weights."""
        return f"{self.mark[:6]}-"


def of(settings: Settings) -> Places:
    mark = processes.mark(settings.directory)
    return Places(
        mark=mark,
        run=settings.run_dir / mark[:6],
        homes=settings.cache / "nodes" / mark[:6],
        weights=settings.cache / "weights",
    )
