"""A small world for the tests of endpoints: one tenant, one pool, nodes that say what we choose."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings

from billing.models import Account
from compliance import audit
from controlplane.endpoints import assignments, gangs, hearing, placing, pulse, reports, services
from controlplane.endpoints.board import Board
from controlplane.endpoints.models import Endpoint, Pulse, Replica, ServingInterval
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.fleet.credentials import Caller
from controlplane.fleet.models import Device, Node, Pool, Region
from controlplane.placement.choose import Refusal
from controlplane.placement.nodes import Candidate
from controlplane.tenancy.models import Organization, Project
from workers import provisioning

START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
ACTOR = audit.Actor("user", "usr_test")
_KEY = Ed25519PrivateKey.generate().public_key()  # it has signed already, where it is asked for
WALLS = {"walls": ["uid", "network", "socket"]}


def organization(name: str = "acme", region: str = "eu-de-1") -> Project:
    account = Account.objects.create(name=name, created_at=START)
    owner = Organization.objects.create(
        name=name, region_code=region, account=account, created_at=START
    )
    return Project.objects.create(organization=owner, name="agents", created_at=START)


class OneNode(Board):
    """A picture of a pool in which only this node is seen."""

    def __init__(self, now: datetime, node: Node) -> None:
        super().__init__(now)
        self.node = node

    def candidates(self, endpoint: Endpoint, kind: str, replica_id: str = "") -> list[Candidate]:
        there = super().candidates(endpoint, kind, replica_id)
        return [one for one in there if one.node_id == self.node.id]


@dataclass
class World:
    """Time stands still unless `later` is called. Node agents speak through `report`."""

    project: Project
    pool: Pool
    now: datetime = START
    seqs: dict[str, int] = field(default_factory=dict)

    @classmethod
    def build(cls, *, shared: bool = False) -> "World":
        project = organization()
        region = Region.objects.create(
            code="eu-de-1", country="DE", name="Test", ca_key=b"", created_at=START
        )
        owner = None if shared else project.organization
        pool = Pool.objects.create(region=region, name="p", organization=owner, created_at=START)
        world = cls(project, pool)
        world.listen()
        return world

    def listen(self) -> None:
        """The control plane has been up for long."""
        since = self.now - timedelta(days=1)
        Pulse.objects.update_or_create(name=pulse.SWEEP, defaults={"since": since, "at": self.now})

    def later(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        self.listen()
        return self.now

    def node(self, name: str = "n1", devices: int = 2, kind: str = "cpu", **facts: Any) -> Node:
        memory = facts.pop("memory", 1 << 30)  # bytes of each device
        node = Node.objects.create(
            pool=facts.pop("pool", self.pool),
            name=name,
            certificate_sha256=name,
            certificate_expires_at=self.now + timedelta(days=1),
            inventory=facts.pop("inventory", WALLS),
            created_at=self.now,
            **facts,
        )
        for index in range(devices):
            Device.objects.create(node=node, index=index, kind=kind, name=kind, memory_bytes=memory)
        self.heartbeat(node)
        return node

    def heartbeat(self, node: Node) -> None:
        lease = self.now + timedelta(seconds=settings.NODE_LEASE_S)
        Node.objects.filter(id=node.id).update(heartbeat_at=self.now, lease_until=lease)

    def endpoint(self, **spec: Any) -> Endpoint:
        wish = {"name": "chat", "model": "org/model", "device_kind": "cpu"} | spec
        project = wish.pop("project", self.project)
        return services.create(
            actor=ACTOR, project=project, spec=services.EndpointSpec(**wish), now=self.now
        )

    def replica(self, endpoint: Endpoint, node: Node, state: State = State.PLACED) -> Replica:
        """One that was placed there and then taken straight to `state`."""
        replica = Replica.objects.create(
            endpoint=endpoint,
            generation=endpoint.generation,
            reason=Reason.SCALE_UP,
            state_at=self.now,
            created_at=self.now,
        )
        board = OneNode(self.now, node) if endpoint.node_count == 1 else None
        assert not isinstance(placing.place(replica.id, now=self.now, board=board), Refusal)
        if state is not State.PLACED:
            self.report(node, said(replica.id, wire.Phase(state)))
        replica.refresh_from_db()
        assert replica.state == state
        return replica

    def reconcile(self, endpoint: Endpoint) -> int:
        return provisioning.reconcile(endpoint.id, now=self.now)

    def report(self, node: Node, *replicas: wire.ReplicaReport, version: int | None = None) -> None:
        """A heartbeat with these replicas; by default it knows the newest list of wishes."""
        self.heartbeat(node)
        node.refresh_from_db()
        self.seqs[node.id] = self.seqs.get(node.id, 0) + 1
        report = wire.Report(
            boot_id="boot",
            seq=self.seqs[node.id],
            agent_version="1",
            desired_version=node.desired_version if version is None else version,
            replicas=list(replicas),
        )
        caller = Caller(node.id, "eu-de-1", node.certificate_sha256, _KEY, self.now, self.now)
        if hearing.hear(caller, report, signed_at=self.now, now=self.now) is None:
            reports.apply(node, report, self.now)
            if node.in_gangs:
                gangs.hear(node, report, self.now)

    def desired(self, node: Node) -> dict[str, wire.DesiredReplica]:
        listed = assignments.desired(node, self.now).replicas or []
        return {one.replica_id: one for one in listed}

    def states(self, endpoint: Endpoint) -> list[str]:
        rows = Replica.objects.filter(endpoint=endpoint).order_by("id")
        return list(rows.values_list("state", flat=True))

    def intervals(self, replica: Replica) -> Sequence[ServingInterval]:
        return list(ServingInterval.objects.filter(replica=replica).order_by("started_at"))


def said(replica_id: str, phase: wire.Phase, **facts: Any) -> wire.ReplicaReport:
    """What a node says of a replica; one that is ready has an address."""
    if phase is wire.Phase.READY:
        facts.setdefault("address", "unix:/run/engine.sock")
    return wire.ReplicaReport(replica_id=replica_id, phase=phase, **facts)
