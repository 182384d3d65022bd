"""A node's real journal against the real control plane, in time that the test makes pass."""

import random
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db.models import Sum

from billing.models import NodeRecord, UsageEvent
from controlplane.endpoints import hearing, lifecycle, node_records, reports
from controlplane.endpoints.models import Endpoint, Replica, ServingInterval
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import authority, meter_wire, wire
from controlplane.fleet.credentials import Caller
from controlplane.fleet.meter_wire import MeterBatch, MeterBody, MeterRecord, MeterState
from controlplane.fleet.models import Node, Region
from tests.agent.node import spec
from tests.endpoints.world import START, World, said
from workers import metering, settling
from workers.agent import credential
from workers.agent.meter import Journal
from workers.agent.records import Phase, Record, Store

FIRST_BOOT = "boot-1"


def founded(world: World) -> authority.Authority:
    """The region's authority, which signs nodes' certificates."""
    found = authority.create("eu-de-1", now=START - timedelta(days=1))
    Region.objects.filter(code="eu-de-1").update(ca_certificate=found.certificate_pem)
    return found


@dataclass
class Signer:
    """A node's key and certificate."""

    authority: authority.Authority
    node_id: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def identity(self) -> credential.Identity:
        certificate = authority.node_certificate(
            self.authority,
            self.key.public_key(),
            node_id=self.node_id,
            now=START - timedelta(hours=1),
            lifetime=timedelta(days=7),
        )
        said = wire.Credential(
            node_id=self.node_id,
            region="eu-de-1",
            pool="p",
            certificate_pem=authority.pem(certificate),
            ca_pem=self.authority.certificate_pem,
            expires_at="",
        )
        return credential.Identity("", self.key, said, certificate)

    def batch(self, *records: MeterRecord, boot: str = FIRST_BOOT, **other: str) -> MeterBatch:
        body = MeterBody(
            node_id=other.get("node_id", self.node_id), machine_boot=boot, records=list(records)
        )
        said = msgspec.json.encode(body)
        der = self.identity().certificate.public_bytes(serialization.Encoding.DER)
        return MeterBatch(
            body=said, signature=self.key.sign(meter_wire.signed_bytes(said)), certificate=der
        )


def record(replica_id: str, seq: int, start_s: float, end_s: float, **other: int) -> MeterRecord:
    """Ready from `start_s` to `end_s` of a boot, which are of the replica's ready time too."""
    start, end = round(start_s * 1e6), round(end_s * 1e6)
    wall = round(START.timestamp() * 1e6)
    fields = {
        "seq": seq,
        "devices": 1,
        "mono_start_us": start,
        "mono_end_us": end,
        "before_us": start,
        "wall_start_us": wall + start,
        "wall_end_us": wall + end,
        **other,
    }
    return MeterRecord(replica_id=replica_id, state=MeterState.READY, **fields)


class Stand:
    """One replica on one node."""

    def __init__(self, world: World, directory: Path, *, rate: float = 1.0) -> None:
        self.world, self.directory, self.rate = world, directory, rate
        self.node: Node = world.node()
        self.endpoint: Endpoint = world.endpoint()
        self.replica: Replica = world.replica(self.endpoint, self.node)
        self.signer = Signer(founded(world), self.node.id)
        self.identity = self.signer.identity()
        self.mono, self.skew, self.boot = 500.0, 0.3, 1
        self.seq = 100
        self.sent: list[list[MeterBatch]] = []
        Store(directory).save(
            Record(spec=spec(replica_id=self.replica.id, device_indexes=[0]), phase_since=500.0)
        )
        self.start()

    # --- the node -----------------------------------------------------------------------

    def start(self) -> None:
        self.store = Store(self.directory)
        self.store.machine_boot = f"boot-{self.boot}"
        [self.record] = self.store.load()
        if self.record.machine_boot != self.store.machine_boot and self.alive:
            self.record.close_metered(self.record.seen_at)
            self.record.phase_since = self.mono
            self.record.reason = "engine_missing"
            self.record.enter(Phase.FAILED, self.mono)
        self.store.save(self.record)
        self.journal = Journal(
            self.directory,
            machine_boot=self.store.machine_boot,
            identity=lambda: self.identity,
            clock=lambda: self.mono,
            wall=lambda: self.world.now.timestamp() + self.skew,
        )

    @property
    def alive(self) -> bool:
        return self.record.phase not in (Phase.FAILED, Phase.STOPPED)

    def enter(self, phase: Phase) -> None:
        self.record.enter(phase, self.mono)
        self.record.seen_at = self.mono
        self.store.save(self.record)

    def reboot(self) -> None:
        self.boot += 1
        self.mono = 4.0
        self.start()

    # --- time -----------------------------------------------------------------------------

    def later(self, seconds: float) -> None:
        self.world.later(seconds)
        self.mono += seconds * self.rate
        if self.alive:
            self.store.see(self.record, self.mono)
        self.node.refresh_from_db()
        heard = self.node.heartbeat_at
        assert heard is not None
        silent = (self.world.now - heard).total_seconds()
        if silent > 20:
            lifecycle.advance(
                self.replica.id,
                State.UNREACHABLE,
                reason=Reason.NODE_UNREACHABLE,
                now=self.world.now,
                expected=State.READY,
            )

    # --- what is said ----------------------------------------------------------------------

    def report(self, *, heard: bool = True, answered: bool = True) -> None:
        pieces = self.journal.due([self.record])
        if pieces:
            self.journal.write(pieces, [self.replica.id])
            self.journal.settle([self.record], self.store.save)
        waiting = self.journal.waiting()
        batches = [batch for _, batch in waiting]
        if not heard:
            return
        self.seq += 1
        self.node.refresh_from_db()
        one = said(
            self.replica.id,
            self.record.phase,
            ready_s=round(self.record.ready_s(self.mono), 3),
            reason=self.record.reason,
            meters=True,
        )
        report = wire.Report(
            boot_id="boot",
            seq=self.seq,
            agent_version="1",
            desired_version=self.node.desired_version,
            replicas=[one],
            meter=batches,
        )
        shown, now = self.node.certificate_sha256, self.world.now
        caller = Caller(self.node.id, "eu-de-1", shown, self.signer.key.public_key(), now, now)
        if hearing.hear(caller, report, signed_at=now, now=now) is None:
            reports.apply(self.node, report, now)
        node_records.note(self.node.id, batches, now)
        if batches:
            self.sent.append(batches)
        if answered:
            self.journal.taken([path for path, _ in waiting])

    def again(self, chance: random.Random) -> None:
        """What was sent before arrives once more, in some order."""
        if self.sent:
            batches = list(chance.choice(self.sent))
            chance.shuffle(batches)
            node_records.note(self.node.id, batches, self.world.now)

    def stop(self, after_s: float = 0.4) -> None:
        """We ask for its stop, and its node hears of that a moment later."""
        lifecycle.advance(
            self.replica.id,
            State.DRAINING,
            reason=Reason.STOP_REQUESTED,
            now=self.world.now,
            expected=(State.READY, State.UNREACHABLE),
        )
        self.later(after_s)
        if self.alive:
            self.enter(Phase.DRAINING)
            self.report()
            self.enter(Phase.STOPPED)
        self.report()

    def meter(self) -> None:
        metering.meter_replicas(self.world.now)
        settling.give_back(self.world.now)

    # --- what came of it --------------------------------------------------------------------

    def intervals(self) -> list[ServingInterval]:
        return list(ServingInterval.objects.filter(replica=self.replica).order_by("started_at"))

    def charged(self, interval: ServingInterval, basis: str = "charge") -> int:
        mine = UsageEvent.objects.filter(
            id__startswith=f"{self.replica.id}:{interval.id}:", basis=basis
        )
        return int(mine.aggregate(total=Sum("quantity"))["total"] or 0)

    def agreed(self, interval: ServingInterval) -> int:
        """Whole seconds that our clock, the count of its reports and the evidence agree on."""
        low = Fraction(interval.node_offset_s)
        high = low + Fraction(interval.served_s)
        rows = NodeRecord.objects.filter(replica_id=self.replica.id, state="ready")
        proved = Fraction(0)
        for row in rows:
            before = Fraction(row.before_us, 10**6)
            length = Fraction(row.mono_end_us - row.mono_start_us, 10**6)
            proved += max(Fraction(0), min(before + length, high) - max(before, low))
        ended = interval.ended_at or self.world.now
        clock = Fraction((ended - interval.started_at) // timedelta(microseconds=1), 10**6)
        return int(min(Fraction(interval.served_s), clock, proved))
