"""What was reached, summed for the control plane, and a line for each connection beside it."""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files
from workers.agent.egress import CONNECTIONS, COUNTS
from workers.agent.egress.policy import Outcome

MOST = 200  # destinations told apart; a container could make up any number of names
OTHERS = "others"
_LOG_BYTES = 4 << 20  # of each of the two files


class Line(msgspec.Struct, frozen=True):
    """One connection, when it is over."""

    at: str
    replica: str
    organization: str
    destination: str
    address: str
    outcome: Outcome
    bytes_out: int
    bytes_in: int
    seconds: float


@dataclass
class Tally:
    """Of one destination and outcome; it is counted up while a connection is open."""

    destination: str
    outcome: Outcome
    connections: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    last_at: str = ""


class Counts:
    def __init__(self, directory: Path, now: Callable[[], datetime]) -> None:
        self._directory, self._now = directory, now
        self.proxy_id = uuid.uuid4().hex
        self._tallies: dict[tuple[str, Outcome], Tally] = {}
        self._saved = b""

    def begin(self, destination: str, outcome: Outcome) -> Tally:
        """A connection, counted."""
        key = (destination, outcome)
        if key not in self._tallies and len(self._tallies) >= MOST:
            key = (OTHERS, outcome)
        tally = self._tallies.setdefault(key, Tally(*key))
        tally.connections += 1
        tally.last_at = self._now().isoformat(timespec="seconds")
        return tally

    def tell(self, line: Line) -> None:
        """Into the log of connections, of which the newest two files are kept."""
        path = self._directory / CONNECTIONS
        with contextlib.suppress(OSError):
            if path.exists() and path.stat().st_size > _LOG_BYTES:
                path.replace(path.with_name(f"{CONNECTIONS}.1"))
            with path.open("ab") as log:
                log.write(msgspec.json.encode(line) + b"\n")

    def all(self) -> list[wire.EgressCount]:
        return [
            wire.EgressCount(
                proxy_id=self.proxy_id,
                destination=one.destination,
                outcome=one.outcome,
                connections=one.connections,
                bytes_out=one.bytes_out,
                bytes_in=one.bytes_in,
                last_at=one.last_at,
            )
            for one in self._tallies.values()
        ]

    def save(self) -> None:
        """For the agent, where something changed. A full disk costs evidence, no connection."""
        content = msgspec.json.encode(self.all())
        if content != self._saved:
            with contextlib.suppress(OSError):
                files.write(self._directory / COUNTS, content, mode=0o644, durable=False)
                self._saved = content
