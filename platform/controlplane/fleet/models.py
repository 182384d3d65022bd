"""What the operator owns: regions, pools, nodes and their devices."""

from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from compliance.fields import IdField
from controlplane.fleet.event_models import NodeEvent as NodeEvent
from controlplane.fleet.health_models import NodeFinding as NodeFinding
from controlplane.fleet.keeping_models import Decommission as Decommission
from controlplane.fleet.keeping_models import Maintenance as Maintenance
from controlplane.fleet.rollout_models import AgentRelease as AgentRelease
from controlplane.fleet.rollout_models import AgentRollout as AgentRollout
from controlplane.fleet.rollout_models import AgentUpdate as AgentUpdate
from controlplane.tenancy.models import Organization


class Region(models.Model):
    """A place in one EU country, with a certificate authority of its own."""

    code = models.CharField(max_length=32, primary_key=True)  # e.g. "eu-de-1"
    country = models.CharField(max_length=2)  # one of fleet.regions.COUNTRIES
    name = models.CharField(max_length=100)
    ca_certificate = models.TextField()  # PEM
    ca_key = models.BinaryField()  # encrypted (compliance.sealing)
    # Signs records of what left the fleet (fleet.records); made when the first one is.
    record_public_key = models.TextField(blank=True)  # PEM, Ed25519
    record_key = models.BinaryField(null=True)  # encrypted
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.code


class Pool(models.Model):
    """Nodes that serve alike. `organization` set: theirs alone; empty: several organizations'."""

    id = IdField("pool")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="pools")
    name = models.CharField(max_length=100)
    organization = models.ForeignKey(Organization, null=True, on_delete=models.PROTECT)
    share_standby = models.BooleanField(default=False)  # one standby engine for several tenants
    # Of its aligned blocks of so many devices one stays free for who needs all of it; 0: none.
    keep_block = models.PositiveSmallIntegerField(default=0)
    # Replicas of one organization may share a device, each with thousandths of it.
    share_devices = models.BooleanField(default=False)
    health_policy = models.JSONField(default=dict)  # what differs from health_policy.DEFAULT
    health_braked_at = models.DateTimeField(null=True)  # too many nodes ail for the policy to act
    # Private networks (CIDR) that names on its tenants' egress lists may lead into.
    egress_networks = ArrayField(models.CharField(max_length=64), default=list)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("region", "name"), name="pool_name"),)

    def __str__(self) -> str:
        return self.name


class Node(models.Model):
    """A machine that an agent speaks for. Region and pool come from its enrolment token."""

    id = IdField("node")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="nodes")
    name = models.CharField(max_length=100)
    # The credential that the agent must prove: SHA-256 of its current certificate.
    certificate_sha256 = models.CharField(max_length=64, unique=True)
    certificate_expires_at = models.DateTimeField()
    # The one before, while the agent has not shown the current one: a renewal's reply can be lost.
    previous_certificate_sha256 = models.CharField(max_length=64, blank=True)
    boot_id = models.CharField(max_length=64, blank=True)  # of the agent's process
    report_seq = models.BigIntegerField(default=0)  # the newest report of that boot
    report_signed_at = models.DateTimeField(null=True)  # by the node's clock: orders boots
    heartbeat_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    unreachable_at = models.DateTimeField(null=True)  # since when the log says so (fleet.silence)
    cordoned_at = models.DateTimeField(null=True)
    drain_requested_at = models.DateTimeField(null=True)
    removed_at = models.DateTimeField(null=True)
    agent_version = models.CharField(max_length=32, blank=True)
    inventory = models.JSONField(default=dict)  # wire.Inventory
    desired_version = models.BigIntegerField(default=1)  # rises when its desired state changes
    has_findings = models.BooleanField(default=False)  # its newest report had some
    # What the policy did because of its findings: cordon or drain. Empty: nothing, or an operator
    # has taken the node over.
    health_action = models.CharField(max_length=16, blank=True)
    health_reason = models.CharField(max_length=64, blank=True)  # the check that it was for
    health_since = models.DateTimeField(null=True)
    in_gangs = models.BooleanField(default=False)  # a gang's member was placed here once
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def reachable(self, now: datetime) -> bool:
        return self.lease_until is not None and now < self.lease_until

    def schedulable(self, now: datetime) -> bool:
        return self.reachable(now) and self.cordoned_at is None and self.removed_at is None


class Device(models.Model):
    """One thing that a replica can hold: a GPU, or a share of the CPU of kind `cpu`."""

    id = IdField("dev")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="devices")
    index = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=64)  # "cpu", "nvidia-h200", …
    name = models.CharField(max_length=100)
    uuid = models.CharField(max_length=100, blank=True)
    serial = models.CharField(max_length=100, blank=True)
    memory_bytes = models.BigIntegerField()
    healthy = models.BooleanField(default=True)
    retiring_at = models.DateTimeField(null=True)  # it is to be replaced: nothing new on it

    class Meta:
        ordering = ("node", "index")
        constraints = (models.UniqueConstraint(fields=("node", "index"), name="device_index"),)

    def __str__(self) -> str:
        return f"{self.kind} #{self.index}"


class Revocation(models.Model):
    """The certificates of one name that were issued until `issued_until` are worth nothing."""

    id = IdField("rvk")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=16)  # "node" | "gateway"
    subject = models.CharField(max_length=64)  # the id in the certificates
    issued_until = models.DateTimeField()
    expired_by = models.DateTimeField()  # by then the last of them has ended anyway

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("region", "kind", "subject"), name="revocation_name"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


class EnrollmentToken(models.Model):
    """Lets one machine join one pool, once. `node` set: lets that node join again."""

    id = IdField("enr")
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE)
    node = models.ForeignKey(Node, null=True, on_delete=models.CASCADE, related_name="+")
    hash = models.BinaryField(max_length=32, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    # By whom: the same machine may ask again, for an answer that never reached it.
    used_key_sha256 = models.CharField(max_length=64, blank=True)
    admitted = models.ForeignKey(Node, null=True, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)

    class Meta:
        indexes = (
            models.Index(fields=("expires_at",), condition=Q(used_at=None), name="enr_open"),
        )

    def __str__(self) -> str:
        return self.id
