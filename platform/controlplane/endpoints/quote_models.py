"""What was quoted, and how fast engines then were; rows of endpoints.models."""

from django.db import models

from compliance.fields import IdField
from controlplane.tenancy.models import Organization, Project


class Quote(models.Model):
    """What was asked and what was answered, as both stood then: prices and predictions change.

    `source`, `model` and `revision` are empty where the question brought its own configuration.
    """

    id = IdField("quo")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="quotes")
    source = models.CharField(max_length=16, blank=True)  # wire.SourceKind
    model = models.CharField(max_length=300, blank=True)
    revision = models.CharField(max_length=64, blank=True)
    engine_version = models.CharField(max_length=64)
    body = models.JSONField()  # load or job, slo, arguments, quantizations
    answer = models.JSONField()  # placement.quote_bodies.answer
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.model} {self.created_at}"


class ServedDay(models.Model):
    """What happened on an endpoint in a day (UTC) that is over: kept longer than its requests."""

    endpoint = models.ForeignKey(
        "endpoints.Endpoint", on_delete=models.CASCADE, related_name="served_days"
    )
    day = models.DateField()
    figures = models.JSONField()  # served_days.figures
    taught_at = models.DateTimeField(null=True)  # speed_lessons has seen it

    class Meta:
        ordering = ("-day",)
        constraints = (models.UniqueConstraint(fields=("endpoint", "day"), name="served_day"),)
        indexes = (
            models.Index(
                fields=("day",), condition=models.Q(taught_at=None), name="served_day_untaught"
            ),
        )

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.day}"


class SpeedCorrection(models.Model):
    """One measurement of how fast an engine was: seconds measured over seconds predicted.

    No model's or tenant's name; `shared` and `organization` as of MeasuredStart. The newest of a
    key are the moving mean that the next prediction uses (corrections_kept).
    """

    about = models.CharField(max_length=80, primary_key=True)  # what was measured, once
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    shared = models.BooleanField()
    model = models.CharField(max_length=160)  # speed.corrections.likeness
    device = models.CharField(max_length=64)  # as placement.devices names it
    ranks = models.PositiveSmallIntegerField()
    quantization = models.CharField(max_length=64)
    ratio = models.FloatField()  # of the seconds of a token
    ratio_ttft = models.FloatField(null=True)  # of a first token, where that was measured
    at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("model", "-at"), name="speed_newest"),)

    def __str__(self) -> str:
        return f"{self.model} on {self.ranks} x {self.device}"
