"""The nodes of the month and what befalls them: the agents' real journal, signed with keys that the
region's authority has certified, and the control plane's own doors for reports and transitions.

Only the engines are missing. A node signs once a session, and not once a minute, so that a month
has an end; what it signs is cut on minutes all the same. Django must be ready.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.endpoints import hearing, lifecycle, node_records, reports
from controlplane.endpoints.models import Endpoint, Replica, Transition
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import authority, meter_wire, wire
from controlplane.fleet.credentials import Caller
from controlplane.fleet.meter_wire import MeterBatch, MeterBody
from controlplane.fleet.models import Node, Region
from tests.agent.node import spec
from tests.endpoints.world import WALLS, said
from tests.month.traffic import Session, Trouble
from workers.agent import credential
from workers.agent.meter import Journal
from workers.agent.records import Phase, Record

# Beyond the whole seconds of each stretch: that fraction is the tenant's.
REST = timedelta(seconds=0.4)
LOST = (timedelta(minutes=3), timedelta(minutes=6))  # the records between are lost
JUMP_S = 3600.0
DOUBLED = timedelta(seconds=37)  # in which both replicas of a move serve
LIFETIME = timedelta(days=60)


@dataclass
class Played:
    """What came of a session: its replicas, the one that was moved first, and the seconds that no
    signed record tells of."""

    session: Session
    replicas: list[str] = field(default_factory=list)
    lost_s: int = 0


def found_authority(region: Region, born: datetime) -> authority.Authority:
    """The region's, which certifies its nodes' keys."""
    found = authority.create(region.code, now=born)
    Region.objects.filter(code=region.code).update(ca_certificate=found.certificate_pem)
    return found


class Machine:
    """A node that holds one replica at a time."""

    def __init__(
        self,
        region_authority: authority.Authority,
        endpoint: Endpoint,
        folder: Path,
        born: datetime,
    ) -> None:
        self.endpoint, self.now = endpoint, born
        self.mono, self.skew, self.boot, self.seq = 500.0, 0.3, 1, 0
        self._folder = folder
        self.node = Node.objects.create(
            pool=endpoint.pool,
            name=folder.name,
            certificate_sha256="",
            certificate_expires_at=born + LIFETIME,
            inventory=WALLS,
            created_at=born,
        )
        self.identity = self._certified(region_authority)
        self.shown = authority.sha256(self.identity.certificate)
        Node.objects.filter(id=self.node.id).update(certificate_sha256=self.shown)
        self._records: list[Record] = []
        self.sent: list[MeterBatch] = []
        self._start()

    def _certified(self, of: authority.Authority) -> credential.Identity:
        key = Ed25519PrivateKey.generate()
        certificate = authority.node_certificate(
            of, key.public_key(), node_id=self.node.id, now=self.now, lifetime=LIFETIME
        )
        told = wire.Credential(
            node_id=self.node.id,
            region=of.region,
            pool=self.endpoint.pool.name,
            certificate_pem=authority.pem(certificate),
            ca_pem=of.certificate_pem,
            expires_at="",
        )
        return credential.Identity("", key, told, certificate)

    def _start(self) -> None:
        self.journal = Journal(
            self._folder,
            machine_boot=f"boot-{self.boot}",
            identity=lambda: self.identity,
            clock=lambda: self.mono,
            wall=lambda: self.now.timestamp() + self.skew,
        )

    def reboot(self) -> None:
        """Between two sessions: the monotonic clock and the numbers begin anew."""
        self.boot, self.mono = self.boot + 1, 4.0
        self._start()

    def until(self, at: datetime) -> None:
        """Time passes, on both clocks alike."""
        self.mono += (at - self.now).total_seconds()
        self.now = at

    # --- a replica here ---------------------------------------------------------------------

    def place(self, at: datetime, reason: Reason) -> str:
        """A replica is starting here; what went before needs no node."""
        self.until(at)
        replica = Replica.objects.create(
            endpoint=self.endpoint,
            generation=1,
            node=self.node,
            state=State.STARTING,
            reason=Reason.NODE_REPORT,
            state_at=at,
            created_at=at,
        )
        Transition.objects.create(
            replica=replica, to_state=State.REQUESTED, reason=reason, at=at, seconds=0
        )
        devices = list(range(self.endpoint.device_count))
        organization = self.endpoint.project.organization_id
        wished = spec(replica_id=replica.id, organization=organization, device_indexes=devices)
        self._records = [
            Record(spec=wished, machine_boot=f"boot-{self.boot}", phase_since=self.mono)
        ]
        return replica.id

    def enter(self, phase: Phase) -> None:
        self._records[0].enter(phase, self.mono)

    def collect(self) -> list[MeterBatch]:
        """What the journal has to say now; it stays there until `report`."""
        if pieces := self.journal.due(self._records):
            self.journal.write(pieces, [one.spec.replica_id for one in self._records])
            self.journal.settle(self._records, lambda record: None)
        return [batch for _, batch in self.journal.waiting()]

    def lose(self) -> None:
        """What waits in the journal never arrives."""
        self.collect()
        self.journal.taken([path for path, _ in self.journal.waiting()])

    def report(self) -> None:
        """The agent's report, with what the journal holds, is heard and answered."""
        self.collect()
        waiting = self.journal.waiting()
        batches = [batch for _, batch in waiting]
        self.seq += 1
        self.node.refresh_from_db()
        [record] = self._records
        told = said(
            record.spec.replica_id,
            record.phase,
            ready_s=round(record.ready_s(self.mono), 3),
            meters=True,
        )
        report = wire.Report(
            boot_id="boot",
            seq=self.seq,
            agent_version="1",
            desired_version=self.node.desired_version,
            replicas=[told],
            meter=batches,
        )
        key = self.identity.key.public_key()
        who = Caller(self.node.id, self.endpoint.region_code, self.shown, key, self.now, self.now)
        if hearing.hear(who, report, signed_at=self.now, now=self.now) is None:
            reports.apply(self.node, report, self.now)
        node_records.note(self.node.id, batches, self.now)
        self.sent = batches or self.sent
        self.journal.taken([path for path, _ in waiting])

    def end(self, reason: Reason) -> None:
        """We ask for the stop, and the node hears of it a moment later."""
        [record] = self._records
        lifecycle.advance(
            record.spec.replica_id,
            State.DRAINING,
            reason=reason,
            now=self.now,
            expected=(State.READY, State.ASLEEP),
        )
        self.until(self.now + REST)
        self.enter(Phase.STOPPED)
        self.report()

    # --- what should not be -------------------------------------------------------------------

    def say_again(self) -> None:
        """What was answered arrives once more."""
        node_records.note(self.node.id, self.sent, self.now)

    def say_twice(self) -> None:
        """A minute that was told comes under the next number, well signed. A reboot ends it."""
        body = msgspec.json.decode(self.sent[-1].body, type=MeterBody)
        last = body.records[-1]
        again = msgspec.structs.replace(last, seq=last.seq + 1)
        told = msgspec.json.encode(msgspec.structs.replace(body, records=[again]))
        batch = MeterBatch(
            body=told,
            signature=self.identity.key.sign(meter_wire.signed_bytes(told)),
            certificate=self.identity.certificate.public_bytes(serialization.Encoding.DER),
        )
        node_records.note(self.node.id, [batch], self.now)
        self.reboot()


def play(one: Session, machine: Machine, spare: Machine) -> Played:
    """One session on its machine, from ready to stopped; a move goes on on the spare one."""
    played = Played(one)
    ends = one.start + timedelta(seconds=one.busy_s + one.warm_s) + REST
    played.replicas.append(machine.place(one.start, Reason.WAKE))
    machine.enter(Phase.READY)
    machine.report()
    if one.trouble is Trouble.GAP:
        machine.until(one.start + LOST[0])
        machine.report()
        machine.until(one.start + LOST[1])
        machine.lose()
        played.lost_s = int((LOST[1] - LOST[0]).total_seconds())
    elif one.trouble is Trouble.JUMP:
        machine.until(one.start + LOST[0])
        machine.report()
        machine.skew += JUMP_S
    elif one.trouble is Trouble.MOVE:
        machine, moved = spare, machine
        played.replicas.append(_move(moved, spare, one.start + timedelta(seconds=one.busy_s)))
    machine.until(ends)
    if one.asleep_s:
        _sleep(machine, played.replicas[-1])
        machine.until(ends + timedelta(seconds=one.asleep_s) + REST)
    machine.end(Reason.STOP_REQUESTED)
    if one.trouble is Trouble.JUMP:
        machine.skew -= JUMP_S
    elif one.trouble is Trouble.REPLAY:
        machine.say_again()
    elif one.trouble is Trouble.OVERLAP:
        machine.say_twice()
    return played


def _move(old: Machine, new: Machine, at: datetime) -> str:
    """Its node is drained: another replica is made, and the old one ends once that is ready."""
    replica_id = new.place(at, Reason.NODE_DRAIN)
    new.enter(Phase.READY)
    new.report()
    old.until(at + DOUBLED + REST)
    old.end(Reason.NODE_DRAIN)
    return replica_id


def _sleep(machine: Machine, replica_id: str) -> None:
    lifecycle.advance(
        replica_id, State.ASLEEP, reason=Reason.IDLE, now=machine.now, expected=State.READY
    )
    machine.enter(Phase.ASLEEP)
    machine.report()
