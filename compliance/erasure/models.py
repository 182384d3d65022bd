"""Erasures and their steps."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class State(models.TextChoices):
    PLANNED = "planned"
    SUPERSEDED = "superseded"  # by a later plan, or the data changed after it
    APPROVED = "approved"
    EXECUTING = "executing"
    EXECUTED = "executed"
    VERIFIED = "verified"
    ISSUED = "issued"


UNDER_WAY = (State.APPROVED, State.EXECUTING, State.EXECUTED, State.VERIFIED)


class Erasure(models.Model):
    """One erasure from its plan to its certificate.

    `known` is what the subject is recognized by, sealed, from execution until the certificate.
    `logs`: in which logs openings of theirs were erased; `told_by`: log to the event there.
    `failure`: why it does not go on by itself.
    """

    id = IdField("ers")
    subject_kind = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=31)
    log_id = models.CharField(max_length=31)
    region = models.CharField(max_length=32, blank=True)
    request_id = models.CharField(max_length=31, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.PLANNED)
    plan = models.JSONField()
    plan_sha256 = models.CharField(max_length=64)
    planned_by = models.CharField(max_length=64)
    planned_at = models.DateTimeField()
    approved_by = models.CharField(max_length=64, blank=True)
    approved_at = models.DateTimeField(null=True)
    began_at = models.DateTimeField(null=True)
    executed_at = models.DateTimeField(null=True)
    verified_at = models.DateTimeField(null=True)
    issued_at = models.DateTimeField(null=True)
    known = models.BinaryField(null=True)
    logs = models.JSONField(default=list)
    findings = models.JSONField(default=dict)
    certificate_id = models.CharField(max_length=31, blank=True)
    certificate = models.BinaryField(null=True)
    signature = models.TextField(blank=True)
    told_by = models.JSONField(default=dict)
    failure = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=("id",), condition=Q(state__in=UNDER_WAY), name="erasure_under_way"
            ),
            models.Index(fields=("subject_id",), name="erasure_subject"),
        )

    def __str__(self) -> str:
        return f"{self.id} {self.state}"


class ErasureStep(models.Model):
    """What one store has to do, and what it did. `outcome` is null until then."""

    id = IdField("est")
    erasure = models.ForeignKey(Erasure, on_delete=models.CASCADE, related_name="steps")
    number = models.PositiveIntegerField()
    store = models.CharField(max_length=64)
    outcome = models.JSONField(null=True)
    done_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("number",)
        constraints = (
            models.UniqueConstraint(fields=("erasure", "number"), name="erasurestep_once"),
        )

    def __str__(self) -> str:
        return f"{self.erasure_id} {self.store}"
