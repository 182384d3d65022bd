"""What the files of models say of their size, for the control plane: it predicts from that.

Each is told once; what an agent that dies had not told yet, the next fetch tells.
"""

import logging
import threading
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from controlplane.fleet import wire
from controlplane.placement.memory import checkpoint

log = logging.getLogger("stoa.agent")

AT_ONCE = 4  # in one report: a configuration has up to 256 KiB
MOST = 64  # kept while nobody listens; then the oldest go


def read(folder: Path) -> checkpoint.Checkpoint:
    """Of the files that lie there, and of none below. Raises OSError."""
    names = {path.name for path in folder.iterdir() if path.is_file()}

    def opened(name: str) -> BinaryIO:
        return (folder / name).open("rb")

    return checkpoint.read(names, opened)


class ModelFacts:
    """Those that no answered report has carried yet. Safe from any thread."""

    def __init__(self) -> None:
        self._waiting: list[wire.ModelFacts] = []
        self._lock = threading.Lock()

    def note(
        self,
        folder: Path,
        *,
        replica_id: str = "",
        pull_id: str = "",
        revision: str = "",
        public: bool = False,
    ) -> None:
        """Read what was just brought, for a replica or a pull. Never raises: nothing waits for it,
        and the files are a stranger's."""
        try:
            found = read(folder)
        except OSError as error:
            log.warning("%s: what it is like cannot be read: %s", folder.name, error)
            return
        if not found.config:
            return
        facts = wire.ModelFacts(
            replica_id=replica_id,
            pull_id=pull_id,
            revision=revision,
            config=found.config,
            tensors=found.tensors,
            public=public,
        )
        with self._lock:
            self._waiting = [*self._waiting[1 - MOST :], facts]

    def waiting(self) -> list[wire.ModelFacts]:
        with self._lock:
            return self._waiting[:AT_ONCE]

    def taken(self, facts: Collection[wire.ModelFacts]) -> None:
        """A report that carried these was answered."""
        gone = {id(one) for one in facts}
        with self._lock:
            self._waiting = [one for one in self._waiting if id(one) not in gone]
