"""What is there of this agent's, and who else holds its devices. Only looks; blocks."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from workers.agent import caches, engines, kin, processes, remains, walls
from workers.agent.health.cards import Reading
from workers.agent.places import Places
from workers.agent.reaper.things import Kind, Thing
from workers.agent.weights.cache import Cache

log = logging.getLogger("stoa.agent")


class Container(Protocol):
    """One with our label. `pid` is its first process's on the host, 0 when it does not run."""

    @property
    def id(self) -> str: ...
    @property
    def replica_id(self) -> str: ...
    @property
    def pid(self) -> int: ...


class Containers(Protocol):
    """Those of this agent, running or not. Both raise OSError."""

    def list(self) -> Sequence[Container]: ...
    def remove(self, id: str) -> None: ...


class Observer:
    """`read_gpus`: what the driver says, None where there is none."""

    def __init__(
        self,
        directory: Path,
        places: Places,
        *,
        containers: Containers | None = None,
        read_gpus: Callable[[], Reading | None] = lambda: None,
        stale_weights_s: float = 86_400.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._places, self._containers = directory, places, containers
        self._read_gpus, self._stale_weights_s, self._wall = read_gpus, stale_weights_s, wall
        self._cache = Cache(places.weights)

    def look(self) -> list[Thing]:
        living = {process.pid: process for process in kin.everybody()}
        holders = walls.holders()
        containers = self._listed()
        ours = list(self._processes(living, holders))
        known = {thing.pid for thing in ours}
        inside = {one.pid for one in containers if one.pid}
        return [
            *ours,
            *(Thing(Kind.CONTAINER, one.id, replica_id=one.replica_id) for one in containers),
            *self._strangers(living, known, inside),
            # What is under a user id before the folder with whose end its claim ends.
            *self._memory(living, holders),
            *self._claims(living, holders),
            *self._folders(),
            *self._caches(),
            *self._weights(),
        ]

    def _listed(self) -> Sequence[Container]:
        if self._containers is None:
            return []
        try:
            return self._containers.list()
        except OSError as error:  # the rest can be looked at all the same
            log.warning("containers cannot be listed: %s", error)
            return []

    # --- processes -----------------------------------------------------------------------

    def _processes(
        self, living: dict[int, kin.Process], holders: dict[int, Path]
    ) -> Iterator[Thing]:
        marked = {one.process.pid: one for one in processes.marked(self._directory)}
        for pid, process in living.items():
            one, holder = marked.get(pid), holders.get(process.uid)
            theirs = self._replica_of(holder) if holder is not None else ""
            if one is None and not theirs:
                continue
            replica_id = (one.replica_id if one is not None else "") or theirs
            yield _process(
                Kind.PROCESS,
                process,
                living,
                group=f"replica {replica_id}" if replica_id else f"session {process.session}",
                replica_id=replica_id,
                standby=not replica_id,
            )

    def _replica_of(self, holder: Path) -> str:
        """The end of a replica's id, of a folder that is one of this agent's engines'."""
        return holder.name if holder.parent == self._places.run / "e" else ""

    def _strangers(
        self, living: dict[int, kin.Process], known: set[int], inside: set[int]
    ) -> Iterator[Thing]:
        reading = self._read_gpus()
        for card in reading.cards if reading is not None else []:
            for holder in card.holders:
                process = living.get(holder.pid)
                detail: dict[str, str | int] = {"device": card.index, "vram_bytes": holder.bytes}
                if process is None:  # of another machine's, or namespace's, counting
                    yield Thing(Kind.STRANGER, f"{holder.pid} on {card.index}", detail=detail)
                    continue
                thing = _process(Kind.STRANGER, process, living, detail=detail)
                if not thing.lineage & (known | inside):
                    yield thing

    # --- what lies about -----------------------------------------------------------------

    def _folders(self) -> Iterator[Thing]:
        places = self._places
        for folder in (places.run / "e", *(places.homes / name for name in ("homes", "adapters"))):
            for path in _entries(folder):
                detail: dict[str, str | int] = {}
                if (path / engines.SOCKET).is_socket():
                    detail["socket"] = str(path / engines.SOCKET)
                yield Thing(Kind.FOLDER, str(path), replica_id=path.name, detail=detail)

    def _caches(self) -> Iterator[Thing]:
        for slot, replica_id in caches.held(self._places.homes / engines.KEPT).items():
            yield Thing(Kind.CACHE, str(slot), replica_id=replica_id)

    def _memory(self, living: dict[int, kin.Process], holders: dict[int, Path]) -> Iterator[Thing]:
        used = {process.uid for process in living.values()}

        def left(uid: int) -> bool:
            holder = holders.get(uid)
            ours = holder is not None and bool(self._replica_of(holder))
            held = uid in used or (holder is not None and holder.exists())
            return walls.is_engines(uid) and (ours or not held)

        for remain in remains.find(left):
            holder = holders.get(remain.uid)
            replica_id = self._replica_of(holder) if holder is not None else ""
            detail: dict[str, str | int] = {"uid": remain.uid, "bytes": remain.bytes}
            if replica_id:
                detail["holder"] = str(holder)
            name = f"{remain.what} {remain.name}"
            yield Thing(Kind.MEMORY, name, replica_id=replica_id, detail=detail)

    def _claims(self, living: dict[int, kin.Process], holders: dict[int, Path]) -> Iterator[Thing]:
        used = {process.uid for process in living.values()}
        for uid, holder in holders.items():
            replica_id = self._replica_of(holder)
            if replica_id and uid not in used:
                detail: dict[str, str | int] = {"holder": str(holder)}
                yield Thing(Kind.CLAIM, str(uid), replica_id=replica_id, detail=detail)

    def _weights(self) -> Iterator[Thing]:
        for path in self._cache.stale(self._wall() - self._stale_weights_s):
            yield Thing(Kind.WEIGHTS, str(path))
        prefix = self._places.prefix
        for path in _entries(self._places.weights / "uses"):
            if path.name.startswith(prefix):
                yield Thing(Kind.HOLD, path.name, replica_id=path.name.removeprefix(prefix))


def _process(
    kind: Kind,
    process: kin.Process,
    living: dict[int, kin.Process],
    *,
    group: str = "",
    replica_id: str = "",
    standby: bool = False,
    detail: dict[str, str | int] | None = None,
) -> Thing:
    return Thing(
        kind,
        f"{process.pid} of {process.start_time}",
        group=group,
        replica_id=replica_id,
        pid=process.pid,
        start_time=process.start_time,
        lineage=_lineage(process, living),
        standby=standby,
        detail={**(detail or {}), "command": command(process.pid)},
    )


def _lineage(process: kin.Process, living: dict[int, kin.Process]) -> frozenset[int]:
    """Down to the first process of the machine, which is nobody's in particular."""
    found: set[int] = set()
    here: kin.Process | None = process
    while here is not None and here.pid > 1 and here.pid not in found:
        found |= {here.pid, here.session}
        here = living.get(here.parent)
    return frozenset(found - {0, 1})


def command(pid: int) -> str:
    """The name of a process's program; arguments may hold what is nobody's to read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return []
