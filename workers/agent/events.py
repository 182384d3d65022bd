"""What the agent did and has to tell once: on disk until a report that carried it was answered.

One file for each event, so that a kill between any two lines loses none and tells none twice: the
control plane knows an event by its id.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files

log = logging.getLogger("stoa.agent")

AT_ONCE = 50  # in one report
MOST = 2_000  # kept while nobody listens; then the oldest go


def now_utc() -> datetime:
    return datetime.now(UTC)


class Events:
    """Those of one agent directory, oldest first. Blocks; safe from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        now: Callable[[], datetime] = now_utc,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory, self._now, self._told = directory / "events", now, told

    def tell(self, kind: wire.NodeEventKind, detail: dict[str, str | int]) -> wire.NodeEvent:
        """Keep one; it is on disk when this returns. Raises OSError."""
        event = wire.NodeEvent(
            # Sorts by birth, as file names do.
            id=f"{time.time_ns():020d}-{secrets.token_hex(8)}",
            at=self._now().isoformat(),
            kind=kind.value,
            detail=detail,
        )
        self._forget_oldest()
        files.write(self._path(event.id), msgspec.json.encode(event))
        log.info("%s: %s", kind.value, " ".join(f"{k}={v}" for k, v in detail.items()))
        self._told()
        return event

    def waiting(self) -> list[wire.NodeEvent]:
        """The oldest that nobody has taken yet."""
        found = []
        for path in self._paths()[:AT_ONCE]:
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=wire.NodeEvent))
            except (msgspec.DecodeError, UnicodeDecodeError):
                path.rename(path.with_suffix(".damaged"))
            except FileNotFoundError:
                continue
        return found

    def taken(self, events: Collection[wire.NodeEvent]) -> None:
        """A report that carried these was answered."""
        for event in events:
            self._path(event.id).unlink(missing_ok=True)

    def _forget_oldest(self) -> None:
        paths = self._paths()
        for path in paths[: max(0, len(paths) - MOST + 1)]:
            log.warning("an event that nobody took is dropped: %s", path.stem)
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(self._directory.glob("[!.]*.json"))
        return []

    def _path(self, number: str) -> Path:
        return self._directory / f"{number}.json"
