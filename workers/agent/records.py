"""What the agent remembers of each replica: one file each, on disk before and after each start.

The clock is CLOCK_MONOTONIC, which all processes of one boot of the machine share: an agent that
comes back counts on where the one before it stopped, and loses or doubles no second.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from controlplane.fleet.meter_wire import MeterState
from workers.agent import files, processes
from workers.agent.engines import Running

Phase = wire.Phase

ENDED = frozenset({Phase.STOPPED, Phase.FAILED})
SEEN_EVERY_S = 5.0  # what an agent's death can cost of a dead engine's ready seconds


class Stretch(msgspec.Struct, kw_only=True, frozen=True):
    """Time that a replica was ready or asleep, of the monotonic clock of the boot `boot`."""

    state: MeterState
    boot: str
    start: float
    end: float
    before_s: float  # how long it had been ready before


class Record(msgspec.Struct, kw_only=True):
    """One replica. Times are of the monotonic clock of the boot `machine_boot`, in seconds."""

    spec: wire.ReplicaSpec
    phase: Phase = Phase.FETCHING
    reason: str = ""
    detail: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    revision: str = ""  # of the weights
    machine_boot: str = ""
    agent_boot: str = ""  # the agent process that wrote this
    running: Running | None = None  # None in STARTING: killed between the wish and the pid
    phase_since: float = 0.0
    brought: bool = False  # something had to be fetched for it
    tier: wire.StartTier | None = None  # of its newest start
    waking: bool = False  # its engine is asleep and wanted
    can_sleep: bool = False  # as its runner said, until its engine refused
    start_flags: dict[str, str] = {}
    phase_seconds: dict[str, float] = {}
    ready_before_s: float = 0.0
    ready_since: float | None = None
    asleep_since: float | None = None
    stretches: list[Stretch] = []  # closed, and perhaps not in the metering journal yet
    seen_at: float = 0.0  # when the engine was last seen alive
    left_at: float = 0.0  # when it was last ready; 0: never, so no gateway knows of it
    drain_s: float | None = None  # a stop was asked
    peers: list[wire.Peer] = []  # of a gang: all members, as the newest wish list says
    go: bool = True  # of a gang: each member has fetched what it needs
    engine: wire.EngineReport | None = None
    adapters: list[wire.AdapterReport] = []
    proof: wire.Proof | None = None
    log_tail: list[str] = []

    def ready_s(self, now: float) -> float:
        running_s = 0.0 if self.ready_since is None else max(0.0, now - self.ready_since)
        return self.ready_before_s + running_s

    def open_stretch(self, until: float) -> Stretch | None:
        """What is being metered, as if it ended then; None: nothing is."""
        for state, since in (
            (MeterState.READY, self.ready_since),
            (MeterState.ASLEEP, self.asleep_since),
        ):
            if since is not None and until > since:
                before_s = self.ready_before_s
                return Stretch(
                    state=state, boot=self.machine_boot, start=since, end=until, before_s=before_s
                )
        return None

    def close_metered(self, at: float) -> None:
        """It is ready, or asleep, no longer than until then."""
        if (stretch := self.open_stretch(at)) is not None:
            self.stretches.append(stretch)
        self.ready_before_s, self.ready_since, self.asleep_since = self.ready_s(at), None, None

    def enter(self, phase: Phase, now: float) -> None:
        """Close the phase that we are in and open `phase`."""
        spent = max(0.0, now - self.phase_since)
        before = self.phase_seconds.get(self.phase, 0.0)
        self.phase_seconds[self.phase.value] = round(before + spent, 6)
        self.close_metered(now)
        if self.phase is Phase.READY:
            self.left_at = now
        if phase is Phase.READY:
            self.ready_since = now
        if phase is Phase.ASLEEP:
            self.asleep_since = now
        self.phase, self.phase_since = phase, now


class Store:
    """The records of one agent directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "replicas"
        self.machine_boot = processes.machine_boot()
        self.agent_boot = os.urandom(16).hex()

    def save(self, record: Record) -> None:
        record.machine_boot, record.agent_boot = self.machine_boot, self.agent_boot
        files.write(self._path(record.spec.replica_id), msgspec.json.encode(record))

    def see(self, record: Record, now: float) -> None:
        """Its engine lives. On disk every SEEN_EVERY_S."""
        if now - record.seen_at >= SEEN_EVERY_S:
            record.seen_at = now
            self.save(record)

    def load(self) -> list[Record]:
        """All records, oldest replica first. A damaged one is set aside: its engine is reaped."""
        found = []
        for path in sorted(self._directory.glob("[!.]*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                path.rename(path.with_suffix(".damaged"))
        return found

    def forget(self, replica_id: str) -> None:
        files.remove(self._path(replica_id))

    def _path(self, replica_id: str) -> Path:
        if not replica_id.replace("_", "").isalnum():
            raise ValueError(f"{replica_id!r} is not a replica's id")
        return self._directory / f"{replica_id}.json"


class Locked(Exception):
    """Another agent runs on the same directory."""


@contextlib.contextmanager
def lock(directory: Path, *, wait_s: float = 0.5) -> Iterator[None]:
    """Hold the directory for this process alone; the kernel lets go however it ends."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(handle, directory, wait_s)
        yield
    finally:
        os.close(handle)


def _take(handle: int, directory: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Locked(f"another agent runs on {directory}: stop it first") from None
            time.sleep(0.05)
