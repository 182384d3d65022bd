"""What nodes said, under their own signatures, of the time they served; and what came of it.

Ids of nodes and replicas are plain text: billing knows neither. Certificates are evidence and only
added, batches and records too until their time is over (`keeping`); a finding is settled once, and
never changes otherwise.
"""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class NodeCertificate(models.Model):
    """By which key a node signed: an auditor needs it long after it was replaced."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    node_id = models.CharField(max_length=31)
    der = models.BinaryField()
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256


class NodeBatch(models.Model):
    """A signed batch, byte for byte. With a `problem` nothing, or not all, of it counts.

    `account_id`: whose replicas all of its records are of, and so who may see it whole.
    """

    id = IdField("mbt")
    node_id = models.CharField(max_length=31)
    machine_boot = models.CharField(max_length=64, blank=True)
    sha256 = models.CharField(max_length=64, unique=True)  # of signature and body
    body = models.BinaryField()
    signature = models.BinaryField()
    certificate_sha256 = models.CharField(max_length=64)
    received_at = models.DateTimeField()
    problem = models.CharField(max_length=200, blank=True)
    account_id = models.CharField(max_length=31, blank=True, db_default="")  # blank: of several

    class Meta:
        indexes = (
            models.Index(fields=("node_id", "received_at"), name="nodebatch_node"),
            models.Index(fields=("account_id", "received_at"), name="nodebatch_account"),
            BrinIndex(fields=("received_at",), name="nodebatch_received"),
        )

    def __str__(self) -> str:
        return self.id


class NodeRecord(models.Model):
    """A stretch of one replica on a node's monotonic clock (`fleet.meter_wire.MeterRecord`).

    No number is taken twice, and no two stretches of a replica in one boot overlap (migration).
    """

    id = models.BigAutoField(primary_key=True)
    batch_id = models.CharField(max_length=31)
    node_id = models.CharField(max_length=31)
    machine_boot = models.CharField(max_length=64)
    seq = models.BigIntegerField()
    replica_id = models.CharField(max_length=31)
    state = models.CharField(max_length=8)
    devices = models.PositiveSmallIntegerField()
    mono_start_us = models.BigIntegerField()
    mono_end_us = models.BigIntegerField()
    before_us = models.BigIntegerField()
    wall_start = models.DateTimeField()
    wall_end = models.DateTimeField()
    received_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("node_id", "machine_boot", "seq"), name="noderecord_once"
            ),
            models.CheckConstraint(
                condition=Q(mono_start_us__gte=0)
                & Q(before_us__gte=0)
                & Q(mono_end_us__gt=models.F("mono_start_us"))
                & Q(mono_end_us__lte=models.F("mono_start_us") + 62_000_000),
                name="noderecord_short",
            ),
        )
        indexes = (
            models.Index(fields=("replica_id", "before_us"), name="noderecord_replica"),
            BrinIndex(fields=("received_at",), name="noderecord_received"),
        )

    def __str__(self) -> str:
        return f"{self.node_id} {self.machine_boot} {self.seq}"


class FindingKind(models.TextChoices):
    """What was found between node records, our own clock and usage."""

    GAP = "gap", "records are missing"
    CONFLICT = "conflict", "a record came again with other content"
    OVERLAP = "overlap", "a stretch was said twice"
    FORGED = "forged", "a batch that the node's key did not sign, or that says nothing"
    CLOCK_JUMP = "clock_jump", "the node's wall clock jumped"
    FAST_CLOCK = "fast_clock", "the node counts more seconds than our clock"
    OUTSIDE = "outside", "served before it was ready or after its stop was asked for here"
    NOT_ITS_NODE = "not_its_node", "a node that the replica was not placed on"
    UNPROVED = "unproved", "served by our clock, and no node record proves it"
    UNEXPLAINED = "unexplained", "usage differs from what both sides agree on"
    PLATFORM_FAULT = "platform_fault", "a replica failed, and not by its tenant"
    MOVED = "moved", "the platform moved a replica, and both served"
    OVERBILLED = "overbilled", "more was billed than was agreed in the end"


class MeterFinding(models.Model):
    """A difference, how it was settled, and for whom it counts. Always in the tenant's favour.

    One that `blocks` keeps its account's invoices back until it is explained.
    """

    id = IdField("mfd")
    key = models.CharField(max_length=200, unique=True)  # what was found is found once
    kind = models.CharField(max_length=16, choices=FindingKind)
    at = models.DateTimeField()  # of the time that it is about
    found_at = models.DateTimeField()
    node_id = models.CharField(max_length=31, blank=True)
    replica_id = models.CharField(max_length=31, blank=True)
    interval_id = models.CharField(max_length=31, blank=True)
    account_id = models.CharField(max_length=31, blank=True)  # blank: of the platform alone
    project_id = models.CharField(max_length=31, blank=True)
    endpoint_id = models.CharField(max_length=31, blank=True)
    seconds = models.BigIntegerField(default=0)  # of the replica: not billed, or given back
    detail = models.CharField(max_length=300)
    blocks = models.BooleanField(default=False)
    explained_at = models.DateTimeField(null=True)
    explained_by = models.CharField(max_length=64, blank=True)
    explanation = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = (
            models.CheckConstraint(condition=Q(seconds__gte=0), name="meterfinding_not_negative"),
        )
        indexes = (
            models.Index(fields=("account_id", "at"), name="meterfinding_account"),
            models.Index(
                fields=("account_id", "at"),
                condition=Q(blocks=True, explained_at=None),
                name="meterfinding_open",
            ),
        )

    def __str__(self) -> str:
        return self.key


class MeteringDigest(models.Model):
    """What an account's usage of one hour came to, chained to the digest before it."""

    id = IdField("mdg")
    account_id = models.CharField(max_length=31)
    number = models.BigIntegerField()  # of the account's digests, from 1 on
    hour = models.DateTimeField()
    events = models.BigIntegerField()
    events_sha256 = models.CharField(max_length=64)
    previous_sha256 = models.CharField(max_length=64)  # empty for the first
    sha256 = models.CharField(max_length=64)
    made_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("account_id", "number"), name="meteringdigest_once"),
        )
        indexes = (
            models.Index(fields=("account_id", "hour", "number"), name="meteringdigest_hour"),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.number}"
