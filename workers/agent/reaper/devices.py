"""A device is proved clean before each start on it, and used by nobody until it is.

Who had it last stands on disk before its engine starts, so that no kill forgets it. Clean is: no
process of the engine before (by mark and by user id), nothing of that user id on the machine
(remains.py), no folder of its own, and on a GPU no process that holds its memory, of which no more
is used than the driver's own (`residue_bytes`). What was measured is told as an event.

Engines of one organization may share a device: those that still run on it are let be, and what
they hold of it is theirs. Once the last has ended the device is clean of all of them, or dirty.
"""

import contextlib
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files, kin, processes, remains, walls
from workers.agent.engines import Running
from workers.agent.events import Events
from workers.agent.health.cards import Card, Reading
from workers.agent.places import Places
from workers.agent.reaper.observe import Containers

log = logging.getLogger("stoa.agent")

CHECK = "device_dirty"
CURE = (
    "end the processes that hold it (nvidia-smi, fuser -v /dev/nvidia*), or reset it"
    " (nvidia-smi --gpu-reset -i INDEX); the agent takes it back by itself once it is clean"
)


class Tenant(msgspec.Struct, kw_only=True):
    """Whose engine was started on a device last."""

    replica_id: str
    organization_id: str
    pid: int = 0  # of its engine, with the time it began: no other has had both
    start_time: int = 0
    uid: int | None = None
    contained: bool = True  # from an image; of one that was written down before this, unknown


class Book(msgspec.Struct, kw_only=True):
    """Of each device, by its index. `sharers`: those that ran when the tenant came."""

    tenants: dict[int, Tenant] = {}
    sharers: dict[int, list[Tenant]] = {}
    dirty: dict[int, str] = {}  # why it is used by nobody


# By index, or why the driver does not say; none where devices are shares of a CPU.
Cards = dict[int, Card] | str


@dataclass(frozen=True)
class Verdict:
    """`why` is empty for a clean device. `over`: waiting has not helped."""

    why: str = ""
    over: bool = False


@dataclass
class Evidence:
    """What was found on a device. All of `left` is what should not be there."""

    left: list[str] = field(default_factory=list)
    processes: int = 0
    remains: int = 0
    ended: int = 0  # processes that this look killed
    erased: int = 0  # remains that it removed
    memory_bytes: int | None = None  # of a GPU

    def detail(self) -> dict[str, str | int]:
        found: dict[str, str | int] = {
            "processes": self.processes,
            "remains": self.remains,
            "ended": self.ended,
            "erased": self.erased,
        }
        if self.memory_bytes is not None:
            found["memory_bytes"] = self.memory_bytes
        return found


class Devices:
    """Of one agent. `read_gpus` as in observe.py. Blocks; safe from any thread."""

    def __init__(
        self,
        directory: Path,
        places: Places,
        events: Events,
        *,
        containers: Containers | None = None,
        read_gpus: Callable[[], Reading | None] = lambda: None,
        residue_bytes: int = 1 << 30,
        dirty_after_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._places, self._events = directory, places, events
        self._containers = containers
        self._read_gpus, self._residue_bytes = read_gpus, residue_bytes
        self._dirty_after_s, self._clock = dirty_after_s, clock
        self._lock = threading.RLock()
        self._since: dict[int, float] = {}  # when a device was first found not to be clean
        self._path = directory / "devices.json"
        self._book = _read(self._path)

    @property
    def dirty(self) -> dict[int, str]:
        """Devices that nobody may use now, and why."""
        return dict(self._book.dirty)

    def findings(self) -> list[wire.Finding]:
        return [
            wire.Finding(
                check=CHECK, severity=wire.Severity.CRITICAL, device=index, text=why, cure=CURE
            )
            for index, why in sorted(self.dirty.items())
        ]

    def prove(self, spec: wire.ReplicaSpec, beside: Collection[str] = ()) -> Verdict:
        """Before an engine starts: are its devices clean? Then they are its own, from now on.

        `beside`: replicas that live on them and share them with it.
        """
        with self._lock:
            cards = self._cards()
            for index in spec.device_indexes:
                verdict = self._prove(index, cards, spec, beside)
                if verdict.why:
                    return verdict
            for index in spec.device_indexes:
                self._book.sharers[index] = self._had(index, beside)[1]
                self._book.tenants[index] = Tenant(
                    replica_id=spec.replica_id,
                    organization_id=spec.organization_id,
                    contained=spec.image is not None,
                )
            self._save()
        return Verdict()

    def started(self, spec: wire.ReplicaSpec, running: Running) -> None:
        """Which process its engine is, and under which user id it runs."""
        with self._lock:
            for index in spec.device_indexes:
                tenant = self._book.tenants.get(index)
                if tenant is not None and tenant.replica_id == spec.replica_id:
                    tenant.uid = running.uid
                    tenant.pid, tenant.start_time = running.pid, running.start_time
            self._save()

    def look(self, busy: Collection[int]) -> None:
        """Devices that nobody uses: is one dirty, has one come clean?"""
        with self._lock:
            cards = self._cards()
            idle = {*self._book.dirty, *(cards if isinstance(cards, dict) else ())} - set(busy)
            for index in sorted(idle):
                self._prove(index, cards, None)

    # --- one device ----------------------------------------------------------------------

    def _had(self, index: int, beside: Collection[str]) -> tuple[list[Tenant], list[Tenant]]:
        """Those who had the device, the newest first: who has ended, and who is there still."""
        newest = self._book.tenants.get(index)
        had = [*([newest] if newest else []), *self._book.sharers.get(index, [])]
        gone = [one for one in had if one.replica_id not in beside]
        return gone, [one for one in had if one.replica_id in beside]

    def _prove(
        self,
        index: int,
        cards: Cards,
        spec: wire.ReplicaSpec | None,
        beside: Collection[str] = (),
    ) -> Verdict:
        gone, there = self._had(index, beside)
        tenant = gone[0] if gone else None
        found = self._measure(index, gone, there, cards)
        now = self._clock()
        since = self._since.setdefault(index, now)
        if found.left:
            why = "; ".join(found.left)
            over = now - since >= self._dirty_after_s or index in self._book.dirty
            if over and index not in self._book.dirty:
                self._book.dirty[index] = why
                self._save()
                self._tell(wire.NodeEventKind.DEVICE_DIRTY, index, tenant, spec, found, why=why)
            return Verdict(f"device {index} is not clean: {why}", over)
        del self._since[index]
        came_back = self._book.dirty.pop(index, None) is not None
        if came_back:
            self._save()
        if came_back or (spec is not None and (tenant is not None or bool(cards))):
            waited = {"waited_ms": round((now - since) * 1000)}
            self._tell(wire.NodeEventKind.DEVICE_CLEAN, index, tenant, spec, found, **waited)
        return Verdict()

    def _measure(
        self, index: int, gone: list[Tenant], there: list[Tenant], cards: Cards
    ) -> Evidence:
        found = Evidence()
        for tenant in gone:
            self._clear(tenant, found)
        if isinstance(cards, str):
            found.left.append(f"the driver does not say what is on it: {cards}")
        elif cards and index not in cards:
            found.left.append("the driver does not show it")
        elif cards:
            self._measure_card(cards[index], there, found)
        return found

    def _clear(self, tenant: Tenant, found: Evidence) -> None:
        """End and erase what is left of an engine that has ended, and count what stays."""
        if left := self._processes(tenant):
            for process in left:
                kin.send(process, signal.SIGKILL)
            deadline = time.monotonic() + 1.0
            while self._processes(tenant) and time.monotonic() < deadline:
                time.sleep(0.01)
            stay = self._processes(tenant)
            found.ended, found.processes = len(left) - len(stay), len(stay)
            found.left += [f"process {one.pid} of {tenant.replica_id} does not end" for one in stay]
        if tenant.contained:
            self._clear_containers(tenant, found)
        for path in self._folders(tenant.replica_id):
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                found.remains += 1
                found.left.append(f"{path} cannot be removed")
        if tenant.uid is not None:
            own = self._places.run / "e" / tenant.replica_id[-12:]
            with walls.unheld(tenant.uid, own) as free:
                for remain in remains.find(lambda uid: free and uid == tenant.uid):
                    if remains.erase(remain):
                        found.erased += 1
                    else:
                        found.remains += 1
                        found.left.append(f"{remain} of {tenant.replica_id} cannot be removed")

    def _clear_containers(self, tenant: Tenant, found: Evidence) -> None:
        try:
            listed = self._containers.list() if self._containers is not None else []
        except OSError as error:  # what is there is not known: nothing is proved
            found.left.append(f"containers of {tenant.replica_id} cannot be looked for: {error}")
            return
        for one in listed:
            if one.replica_id == tenant.replica_id and self._containers is not None:
                try:
                    self._containers.remove(one.id)
                    found.ended += 1
                except OSError as error:
                    found.processes += 1
                    found.left.append(f"container {one.id[:12]} does not end: {error}")

    def _processes(self, tenant: Tenant) -> list[kin.Process]:
        """By its mark; by its user id unless that is another engine's by now."""
        marked = processes.marked(self._directory)
        found = {one.process.pid: one.process for one in marked if self._is(one, tenant)}
        if tenant.uid is not None:
            holder = walls.holders().get(tenant.uid)
            own = self._places.run / "e" / tenant.replica_id[-12:]
            if holder in (None, own):
                theirs = (one for one in kin.everybody() if one.uid == tenant.uid)
                found |= {one.pid: one for one in theirs}
        return list(found.values())

    @staticmethod
    def _is(one: processes.Marked, tenant: Tenant) -> bool:
        return one.replica_id == tenant.replica_id

    def _folders(self, replica_id: str) -> list[Path]:
        run, homes = self._places.run, self._places.homes
        places = (
            run / "e" / replica_id[-12:],
            homes / "homes" / replica_id,
            homes / "adapters" / replica_id,
        )
        return [path for path in places if path.exists()]

    def _measure_card(self, card: Card, there: list[Tenant], found: Evidence) -> None:
        theirs = {
            process.pid for one in there for process in kin.of(one.pid, one.start_time, one.uid)
        }
        strangers = [holder for holder in card.holders if holder.pid not in theirs]
        used = card.memory_used_bytes
        used -= sum(holder.bytes for holder in card.holders if holder.pid in theirs)
        found.memory_bytes = used
        for holder in strangers:
            found.processes += 1
            found.left.append(f"process {holder.pid} holds {holder.bytes >> 20} MiB of it")
        if used > self._residue_bytes and not strangers:
            found.left.append(
                f"{used >> 20} MiB of it are used by no process that the driver"
                f" names; {self._residue_bytes >> 20} MiB may be"
            )

    def _cards(self) -> Cards:
        reading = self._read_gpus()
        if reading is None:
            return {}
        return reading.error or {card.index: card for card in reading.cards if not card.error}

    def _tell(
        self,
        kind: wire.NodeEventKind,
        index: int,
        tenant: Tenant | None,
        spec: wire.ReplicaSpec | None,
        found: Evidence,
        **more: str | int,
    ) -> None:
        detail: dict[str, str | int] = {"device": index}
        if tenant is not None:
            detail |= {
                "from_organization": tenant.organization_id,
                "from_replica": tenant.replica_id,
            }
            if tenant.uid is not None:
                detail["uid"] = tenant.uid
        if spec is not None:
            detail |= {"to_organization": spec.organization_id, "to_replica": spec.replica_id}
        if found.memory_bytes is not None:
            detail["residue_bytes"] = self._residue_bytes
        self._events.tell(kind, {**detail, **found.detail(), **more})

    def _save(self) -> None:
        files.write(self._path, msgspec.json.encode(self._book))


def _read(path: Path) -> Book:
    content = files.read(path)
    if content is not None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(content, type=Book)
        log.warning("%s is damaged: who had which device is not known any more", path)
    return Book()
