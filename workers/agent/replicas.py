"""All replicas of this node: what the wish list asks for against what is there."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from controlplane.fleet import wire
from workers.agent import gang, logs, processes, sharers, threads
from workers.agent.cleanliness import Cleanliness
from workers.agent.engines import Running
from workers.agent.reaper.things import Expected
from workers.agent.records import ENDED, Phase, Record, Store
from workers.agent.replica import (
    ENGINE_MISSING,
    LISTENING,
    WALLS_MISSING,
    Replica,
)
from workers.agent.runner import Runner

log = logging.getLogger("stoa.agent")

REAP_DRAIN_S = 1.0  # for an engine that is nobody's


class Replicas:
    """`missing_walls` are those without which two organizations may not share this node."""

    def __init__(
        self,
        directory: Path,
        *,
        store: Store,
        runner: Runner,
        clock: Callable[[], float],
        changed: Callable[[], None],
        address: Callable[[Running], str],
        missing_walls: Callable[[], dict[str, str]],
        devices: Cleanliness | None = None,
        ended: Callable[[list[processes.Marked]], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._store, self._runner, self._clock = store, runner, clock
        self._changed, self._address, self._missing_walls = changed, address, missing_walls
        self._devices, self._ended = devices, ended
        self._all: dict[str, Replica] = {}
        self._gone: dict[str, wire.ReplicaReport] = {}  # asked to stop, and never ours
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sharers = sharers.Sharers()
        self.version = 0  # of the newest wish list that was taken account of

    # --- what there is -----------------------------------------------------------------

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._all.values()))

    def reports(self) -> list[wire.ReplicaReport]:
        ours = [replica.report() for replica in self._all.values() if not replica.unlisted]
        return ours + list(self._gone.values())

    def records(self) -> list[Record]:
        return [replica.record for replica in self]

    def running(self, replica_id: str) -> Running | None:
        """The engine of a replica that takes requests."""
        replica = self._all.get(replica_id)
        return replica.record.running if replica and replica.record.phase in LISTENING else None

    def gangs(self) -> dict[str, gang.Wanted]:
        """The members of gangs whose engines run here, by replica id."""
        found: dict[str, gang.Wanted] = {}
        for replica in self._all.values():
            record = replica.record
            if record.spec.seat is not None and record.running is not None and not replica.ended:
                found[replica.id] = (record.running, record.spec.seat, record.peers)
        return found

    def expected(self) -> Expected:
        """What of this node's is accounted for. From any thread."""
        live = [replica.record for replica in self if not replica.ended]
        return Expected(
            replicas=frozenset(record.spec.replica_id for record in live),
            engines=frozenset(one.running.pid for one in live if one.running is not None),
            standbys=frozenset(self._runner.standbys()),
            starting=any(record.running is None for record in live),
        )

    def used(self) -> set[int]:
        """The devices of replicas that have not ended."""
        live = (replica.record for replica in self if not replica.ended)
        return {index for record in live for index in record.spec.device_indexes}

    # --- after a restart of the agent ---------------------------------------------------

    async def adopt(self, *, keep_standbys: bool = True) -> None:
        """Take over what still runs, end what has no record, and count what died meanwhile."""
        for record in await threads.call(self._reconcile, keep_standbys):
            self._add(record)

    def _reconcile(self, keep_standbys: bool) -> list[Record]:
        """The records, each true again of what runs."""
        records = self._store.load()
        alive = {r.running.pid for r in records if r.running is not None and self._alive(r)}
        if keep_standbys:
            self._runner.tend()
        killed = processes.reap(
            self._directory, alive, self._runner.standbys if keep_standbys else set
        )
        if killed:
            log.warning("ended processes without a record: %s", [one.process.pid for one in killed])
            self._ended(killed)
        for record in records:
            self._resume(record)
        self._runner.tidy({r.spec.replica_id for r in records if r.phase not in ENDED})
        return records

    def _alive(self, record: Record) -> bool:
        return (
            record.machine_boot == self._store.machine_boot
            and record.phase not in ENDED
            and record.running is not None
            and self._runner.alive(record.running)
        )

    def _resume(self, record: Record) -> None:
        if record.phase not in ENDED:
            if record.running is not None and not self._alive(record):
                self._bury(record)
            elif record.running is None:
                self._begin_again(record)
            else:
                log.info("%s: adopted, pid %s", record.spec.replica_id, record.running.pid)

    def _bury(self, record: Record) -> None:
        """Its engine ended while no agent looked."""
        assert record.running is not None
        self._runner.stop(record.running, 0.0)  # what it left: children, sockets, its uid
        record.log_tail = logs.tail(record.running.log)
        record.close_metered(record.seen_at)
        stopping = record.drain_s is not None
        if not stopping:
            record.reason, record.detail = ENGINE_MISSING, "the engine ended while no agent ran"
        self._move(record, Phase.STOPPED if stopping else Phase.FAILED)

    def _begin_again(self, record: Record) -> None:
        """No engine yet, or one that was reaped because its pid was never written."""
        self._move(record, Phase.STOPPED if record.drain_s is not None else Phase.FETCHING)

    def _move(self, record: Record, phase: Phase) -> None:
        now = self._clock()
        if record.machine_boot != self._store.machine_boot:
            record.phase_since = now  # another boot's clock says nothing
        record.enter(phase, now)
        self._store.save(record)

    # --- the wish list ------------------------------------------------------------------

    def apply(self, desired: wire.Desired) -> None:
        """Make the wish list ours. Equal lists change nothing; every change happens in tasks."""
        if desired.replicas is None:
            return  # as we have it
        listed = {wish.replica_id: wish for wish in desired.replicas}
        self._gone = {}
        for wish in desired.replicas:
            self._apply_one(wish)
        for replica in self._all.values():
            replica.unlisted = replica.id not in listed
            if replica.unlisted and not replica.ended:
                log.warning("%s: nobody wants it, stopping it", replica.id)
                replica.request_stop(REAP_DRAIN_S)
        if self.version != desired.version:
            self.version = desired.version
            self._changed()

    def _apply_one(self, wish: wire.DesiredReplica) -> None:
        replica = self._all.get(wish.replica_id)
        if not wish.run:
            if replica is not None:
                replica.request_stop(wish.drain_s)
            else:
                self._gone[wish.replica_id] = wire.ReplicaReport(
                    replica_id=wish.replica_id, phase=Phase.STOPPED
                )
        elif replica is None and wish.spec is not None:
            record = Record(spec=wish.spec, phase_since=self._clock(), peers=wish.peers, go=wish.go)
            if refusal := self._refusal(wish.spec):
                record.reason, record.detail = WALLS_MISSING, refusal
                record.enter(Phase.FAILED, self._clock())
            self._store.save(record)
            self._add(record)
        elif replica is not None:
            replica.hear(wish.peers, wish.go)
            replica.request_sleep(wish.sleep)
            if wish.spec is not None:
                replica.adapting.wish(wish.spec.adapters)
                replica.let_out(wish.spec.egress, wish.spec.egress_networks)

    def _refusal(self, spec: wire.ReplicaSpec) -> str:
        """Why `spec` may not start beside what is here, or nothing."""
        others = {
            replica.record.spec.organization_id
            for replica in self._all.values()
            if not replica.ended
        } - {spec.organization_id}
        missing = self._missing_walls() if others else {}
        if not missing:
            return ""
        why = "; ".join(f"{wall}: {text}" for wall, text in sorted(missing.items()))
        return f"another organization's engine runs on this node and walls are missing: {why}"

    def _add(self, record: Record) -> None:
        replica = Replica(
            record,
            store=self._store,
            runner=self._runner,
            clock=self._clock,
            changed=self._changed,
            address=self._address,
            devices_busy=self._devices_busy,
            turn=lambda record: self._sharers.turn(record, self.records()),
            beside=self._beside,
            devices=self._devices,
        )
        self._all[replica.id] = replica
        if not replica.ended:
            self._tasks[replica.id] = asyncio.create_task(replica.run(), name=replica.id)

    def _beside(self, record: Record) -> list[str]:
        """Ids of those that live on its device with it."""
        found = sharers.beside(record.spec, self.records())
        return [one.spec.replica_id for one in found]

    def _devices_busy(self, replica: Replica) -> bool:
        wanted = set(replica.record.spec.device_indexes)
        beside = self._beside(replica.record)
        return any(
            other is not replica
            and other.id not in beside
            and not other.ended
            and other.record.running is not None
            and wanted & set(other.record.spec.device_indexes)
            for other in self._all.values()
        )

    # --- ends ----------------------------------------------------------------------------

    def forget(self, replica: Replica) -> None:
        """Drop an ended replica that the wish list no longer holds."""
        self._store.forget(replica.id)
        self._tasks.pop(replica.id, None)
        del self._all[replica.id]

    async def stop_all(self, drain_s: float) -> None:
        """Stop every engine and wait for the end of it."""
        for replica in self._all.values():
            replica.request_stop(drain_s)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def leave(self) -> None:
        """Stop driving; the engines run on, and the next agent adopts them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
