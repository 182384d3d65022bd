"""What the foundation keeps: audit events and the deletable openings of their personal values."""

from django.db import models
from django.db.models import Q

from compliance.erasure.models import Erasure, ErasureStep
from compliance.fields import IdField
from compliance.keys.models import DataKey, KekVersion, KeyDestruction
from compliance.log.models import (
    Log,
    LogAnchor,
    LogCheckpoint,
    LogLeaf,
    LogNode,
    LogPending,
    LogSubscription,
)
from compliance.privacy.models import (
    Hold,
    ProcessingContact,
    ProcessingVersion,
    RetentionRule,
    RetentionRun,
)
from compliance.subject_requests.models import SubjectRequest

__all__ = [
    "AuditEvent",
    "DataKey",
    "Erasure",
    "ErasureStep",
    "EventSecret",
    "Export",
    "Hold",
    "KekVersion",
    "KeyDestruction",
    "Log",
    "LogAnchor",
    "LogCheckpoint",
    "LogLeaf",
    "LogNode",
    "LogPending",
    "LogSubscription",
    "ProcessingContact",
    "ProcessingVersion",
    "RetentionRule",
    "RetentionRun",
    "SubjectRequest",
    "Tombstone",
]


class AuditEvent(models.Model):
    """One fact in an append-only log. `body` is the truth; the columns index it.

    The table is partitioned by month of `recorded_at`; the database refuses UPDATE, DELETE and
    TRUNCATE (migration 0001). `log_id` is an organization's id or "platform".
    """

    id = IdField("evt")
    log_id = models.CharField(max_length=31)
    recorded_at = models.DateTimeField()
    action = models.CharField(max_length=64)
    outcome = models.CharField(max_length=16)
    actor_type = models.CharField(max_length=16)
    actor_id = models.CharField(max_length=64)
    target_type = models.CharField(max_length=32)
    target_id = models.CharField(max_length=64)
    region = models.CharField(max_length=32, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    body = models.BinaryField()

    class Meta:
        managed = False  # made in SQL: Django cannot declare a partitioned table
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.action} {self.target_id}"


class EventSecret(models.Model):
    """Salt and value of one personal field of an event, encrypted; deleting the row redacts it."""

    id = IdField("sec")
    event_id = models.CharField(max_length=31, db_index=True)
    path = models.CharField(max_length=64)
    nonce = models.BinaryField()
    ciphertext = models.BinaryField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("event_id", "path"), name="eventsecret_once"),
        )

    def __str__(self) -> str:
        return f"{self.event_id} {self.path}"


class Export(models.Model):
    """A bundle that somebody asked for: who, what, why, and where its file lies.

    `choice`: with which signed head of the log it was built; `rows_done`: how far a builder is;
    `about`: the id of the one thing that it is about, for kinds that need one.
    """

    id = IdField("exp")
    log_id = models.CharField(max_length=31)
    kind = models.CharField(max_length=32)
    reason = models.CharField(max_length=200)
    requested_by = models.CharField(max_length=64)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    manifest_sha256 = models.CharField(max_length=64, blank=True)
    path = models.CharField(max_length=300, blank=True)
    size_bytes = models.BigIntegerField(default=0)
    failure = models.CharField(max_length=300, blank=True)
    profile = models.CharField(max_length=16, default="full")
    rows_done = models.BigIntegerField(default=0)
    choice = models.JSONField(default=dict)
    about = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.id


class Tombstone(models.Model):
    """Something that ended for good and that no older backup may bring back (`tombstones`).

    `facts` are an event's changes, path to new value: never personal. `journaled_at` is null until
    it stands in the journal outside of this database.
    """

    id = IdField("tmb")
    event_id = models.CharField(max_length=31, blank=True)
    action = models.CharField(max_length=64)
    target_type = models.CharField(max_length=32)
    target_id = models.CharField(max_length=200)
    facts = models.JSONField(default=dict)
    at = models.DateTimeField()
    journaled_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(fields=("id",), condition=Q(journaled_at=None), name="tombstone_waiting"),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.target_id}"
