"""What is kept of retention and of records of processing: versions, runs, holds, contacts."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class RetentionRule(models.Model):
    """One version of a rule of the schedule, from a moment on. `created_by` empty: as published.

    `effective_to` null: until another version takes its place. `amount` null: no period.
    """

    id = IdField("rtn")
    code = models.CharField(max_length=48)
    category = models.CharField(max_length=32)
    basis = models.CharField(max_length=32)
    amount = models.PositiveIntegerField(null=True)
    unit = models.CharField(max_length=8, blank=True)
    calendar_year = models.BooleanField(default=False)
    starts = models.CharField(max_length=80)
    action = models.CharField(max_length=16)
    jurisdiction = models.CharField(max_length=64)
    source = models.CharField(max_length=100)
    ground = models.CharField(max_length=400, blank=True)
    effective_from = models.DateTimeField()
    effective_to = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ("code", "effective_from")
        constraints = (
            models.UniqueConstraint(
                fields=("code",), condition=Q(effective_to=None), name="retentionrule_one_open"
            ),
            models.CheckConstraint(
                condition=Q(effective_to=None) | Q(effective_to__gte=models.F("effective_from")),
                name="retentionrule_ends",
            ),
        )

    def __str__(self) -> str:
        return f"{self.code} {self.amount} {self.unit}"


class RetentionRun(models.Model):
    """A transaction in which a rule was carried out; append-only.

    Of what began before `before` (and from `since` on, where it is not null), `done` went, `held`
    was kept by a hold, `failed` counts parts that broke. `complete`: nothing was left. `log`: whose
    part it is, of rules that go log by log.
    """

    id = IdField("rrn")
    code = models.CharField(max_length=48)
    rule_id = models.CharField(max_length=31, blank=True)
    log = models.CharField(max_length=31, blank=True)
    at = models.DateTimeField()
    since = models.DateTimeField(null=True)
    before = models.DateTimeField(null=True)
    done = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    complete = models.BooleanField(default=False)
    event_id = models.CharField(max_length=31, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("code", "-at"), name="retentionrun_newest"),
            models.Index(fields=("log", "before"), name="retentionrun_of_log"),
        )

    def __str__(self) -> str:
        return f"{self.code} {self.at}"


class Hold(models.Model):
    """Nothing of this subject is erased or ends by retention while `lifted_at` is null."""

    id = IdField("hld")
    log = models.CharField(max_length=31)  # whose log tells of it
    subject_kind = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=31)
    reason = models.CharField(max_length=500)
    placed_at = models.DateTimeField()
    placed_by = models.CharField(max_length=64)
    lifted_at = models.DateTimeField(null=True)
    lifted_by = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=("subject_kind", "subject_id"),
                condition=Q(lifted_at=None),
                name="hold_standing",
            ),
        )

    def __str__(self) -> str:
        return f"{self.subject_kind} {self.subject_id}"


class ProcessingContact(models.Model):
    """Who answers for processing (Art. 30): of the installation (`scope` "platform"), or as an
    organization names its own."""

    id = IdField("pct")
    scope = models.CharField(max_length=31)
    part = models.CharField(max_length=24)  # records.PARTS
    name = models.CharField(max_length=200)
    address = models.CharField(max_length=400, blank=True)
    email = models.CharField(max_length=254, blank=True)
    phone = models.CharField(max_length=40, blank=True)
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=64)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("scope", "part"), name="processingcontact_once"),
        )

    def __str__(self) -> str:
        return f"{self.scope} {self.part}"


class ProcessingVersion(models.Model):
    """A record of processing as it was from `at` on, until the next; append-only."""

    id = IdField("prv")
    scope = models.CharField(max_length=31)
    number = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    document = models.BinaryField()  # canonical JSON
    at = models.DateTimeField()
    event_id = models.CharField(max_length=31)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("scope", "number"), name="processingversion_once"),
        )

    def __str__(self) -> str:
        return f"{self.scope} {self.number}"
