"""What a look sees, and what there should be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    PROCESS = "process"
    CONTAINER = "container"
    STRANGER = "stranger"  # a process that is not ours, on a device of ours
    FOLDER = "folder"  # of an engine: its socket, its home, its adapters
    CACHE = "cache"  # a slot of compiled code that a replica took and nobody gave back
    MEMORY = "memory"  # shared memory, semaphores, queues, files outside of an engine's folders
    CLAIM = "claim"  # on a user id
    WEIGHTS = "weights"  # parts of a model that nobody fetches any more
    HOLD = "hold"  # on a snapshot of a model


@dataclass(frozen=True)
class Thing:
    """`name` names it among its kind for as long as it is there. `group` ages as one: whoever
    forks and ends all the time is no younger for that."""

    kind: Kind
    name: str
    group: str = ""
    replica_id: str = ""  # whose it says it is; a folder of a short path has the end of an id
    pid: int = 0
    start_time: int = 0
    lineage: frozenset[int] = frozenset()  # pids and sessions: its own, and those above it
    standby: bool = False  # it carries our mark and no replica's name
    detail: Mapping[str, str | int] = field(default_factory=dict, compare=False, hash=False)

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.group or self.name


@dataclass(frozen=True)
class Expected:
    """What the records and the standbys account for."""

    replicas: frozenset[str] = frozenset()  # that have not ended
    engines: frozenset[int] = frozenset()  # pids of their engines' first processes
    standbys: frozenset[int] = frozenset()
    starting: bool = False  # one of the replicas has no pid yet: it may be on its way

    def knows(self, thing: Thing) -> bool:
        """Whether something accounts for it."""
        if thing.replica_id and self._has(thing.replica_id):
            return True
        if thing.kind not in (Kind.PROCESS, Kind.STRANGER):
            return False
        if thing.pid in self.standbys or thing.lineage & self.engines:
            return True
        # A standby forks an engine a moment before anybody can write its pid down.
        return thing.standby and self.starting and bool(thing.lineage & self.standbys)

    def _has(self, replica_id: str) -> bool:
        return any(one == replica_id or one.endswith(replica_id) for one in self.replicas)
