"""The tables of the logs. Event bodies are in `compliance_auditevent`; here are hashes and heads.

Leaves, nodes, checkpoints and anchors are only added (migration 0004); what waits goes when its
leaf is written, by a trigger. The running role may not write `LogPending` at all.
"""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class Log(models.Model):
    """One Merkle log. `owner`: an organization's id, "platform" or "meta"; one of each is open.

    `number` counts an owner's logs; `peaks` is its frontier (`merkle.Frontier.dump`). `refused`:
    the code with which the signer refused its head, until it is succeeded.
    """

    id = IdField("log")
    owner = models.CharField(max_length=31)
    number = models.PositiveIntegerField(default=1)
    origin = models.CharField(max_length=300, unique=True)
    size = models.BigIntegerField(default=0)
    peaks = models.BinaryField(default=bytes)
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    refused = models.CharField(max_length=32, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("owner",), condition=Q(closed_at=None), name="log_one_open"
            ),
        )

    def __str__(self) -> str:
        return self.origin


class LogPending(models.Model):
    """The leaf of an event, or of a checkpoint, that has no index yet; queued by a trigger.

    `queued_at` is the database's own clock.
    """

    event_id = models.CharField(max_length=31, primary_key=True)
    owner = models.CharField(max_length=31)
    leaf_hash = models.BinaryField()
    recorded_at = models.DateTimeField()
    queued_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("queued_at",), name="logpending_age"),)

    def __str__(self) -> str:
        return self.event_id


class LogLeaf(models.Model):
    """A leaf has its index for good. `event_id`: of an event; in the meta log, of a checkpoint.

    `recorded_at` is what the writer said, `queued_at` the database's clock at the same moment.
    """

    pk = models.CompositePrimaryKey("log_id", "index")
    log_id = models.CharField(max_length=31)
    index = models.BigIntegerField()
    event_id = models.CharField(max_length=31)
    leaf_hash = models.BinaryField()
    recorded_at = models.DateTimeField()
    queued_at = models.DateTimeField()

    class Meta:
        # In its log once; in a successor again where no head of the first covers it.
        constraints = (
            models.UniqueConstraint(fields=("event_id", "log_id"), name="logleaf_event_once"),
        )

    def __str__(self) -> str:
        return f"{self.log_id} {self.index}"


class LogNode(models.Model):
    """The root of a perfect subtree of 256 ** `level` leaves: what proofs need not add up again."""

    pk = models.CompositePrimaryKey("log_id", "level", "index")
    log_id = models.CharField(max_length=31)
    level = models.PositiveSmallIntegerField()
    index = models.BigIntegerField()
    hash = models.BinaryField()

    def __str__(self) -> str:
        return f"{self.log_id} {self.level} {self.index}"


class LogCheckpoint(models.Model):
    """A signed head. `salt` blinds it in the meta log, where its leaf's body is `blind`."""

    id = IdField("chk")
    log_id = models.CharField(max_length=31)
    owner = models.CharField(max_length=31)
    size = models.BigIntegerField()
    root = models.BinaryField()
    note = models.TextField()
    signed_at = models.DateTimeField()
    salt = models.BinaryField()
    blind = models.BinaryField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("log_id", "size"), name="logcheckpoint_once"),
        )

    def __str__(self) -> str:
        return f"{self.log_id} {self.size}"


class LogAnchor(models.Model):
    """A checkpoint that is known outside: sent to an address that its organization controls."""

    id = IdField("anc")
    checkpoint_id = models.CharField(max_length=31)
    owner = models.CharField(max_length=31)
    kind = models.CharField(max_length=16)  # webhook, mail
    place = models.CharField(max_length=300)  # a host's name, never a whole address
    receipt = models.TextField(blank=True)
    at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("owner", "at"), name="loganchor_newest"),)

    def __str__(self) -> str:
        return f"{self.checkpoint_id} {self.kind}"


class LogSubscription(models.Model):
    """An address that is sent a log's heads (each day) or its events (as they get their index).

    `sealed` is what it is sent to and signed with (`outbound.Route`), under the master key. The
    next leaf is `next_index` of the log `log_id`; it moves on when a batch was taken.
    """

    id = IdField("sub")
    owner = models.CharField(max_length=31)
    region = models.CharField(max_length=32, blank=True)
    kind = models.CharField(max_length=16)  # heads, events
    via = models.CharField(max_length=16)  # webhook, syslog, mail
    host = models.CharField(max_length=253)
    form = models.CharField(max_length=16)  # ocsf, native
    sealed = models.BinaryField()
    log_id = models.CharField(max_length=31, blank=True)
    next_index = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    next_try_at = models.DateTimeField()
    failures = models.PositiveIntegerField(default=0)
    failure = models.CharField(max_length=200, blank=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(
                fields=("next_try_at",), condition=Q(ended_at=None), name="logsubscription_due"
            ),
        )

    def __str__(self) -> str:
        return self.id
