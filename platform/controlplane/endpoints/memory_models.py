"""What is known of models and of starts, for predictions; rows of endpoints.models."""

from django.db import models

from compliance.fields import IdField
from controlplane.tenancy.models import Organization, Project


class ModelFacts(models.Model):
    """What the files of one revision of a model say of its size. Without a project it is open to
    everybody at its source; else the project alone may have it."""

    id = IdField("mdf")
    project = models.ForeignKey(
        Project, null=True, on_delete=models.CASCADE, related_name="model_facts"
    )
    source = models.CharField(max_length=16)  # wire.SourceKind
    model = models.CharField(max_length=300)
    asked = models.CharField(max_length=64, blank=True)  # the revision as it was wished for
    revision = models.CharField(max_length=64, blank=True)  # what that was
    config = models.JSONField()  # its config.json
    tensors = models.JSONField(default=dict)  # bytes by group; empty: not known
    seen_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("source", "model", "project", "asked", "revision"),
                nulls_distinct=False,
                name="model_facts_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.source} {self.model}@{self.revision}"


class MeasuredStart(models.Model):
    """What the start of a replica's engine teaches: bytes beyond the formulas, and no model's name.

    `shared`: measured on nodes that serve several organizations, so it teaches everybody; else its
    organization alone, which may be who runs them.
    """

    replica = models.OneToOneField(
        "endpoints.Replica", primary_key=True, on_delete=models.CASCADE, related_name="measured"
    )
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    shared = models.BooleanField()
    engine_version = models.CharField(max_length=64)
    architecture = models.CharField(max_length=100)
    device = models.CharField(max_length=64)  # as placement.devices names it
    backend = models.CharField(max_length=64, blank=True)
    ranks = models.PositiveSmallIntegerField()
    arguments = models.JSONField()  # those that change memory
    printed = models.JSONField()  # wire.EngineReport
    residual_bytes = models.FloatField()
    weights_ratio = models.FloatField()
    at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("device", "-at"), name="measured_newest"),)

    def __str__(self) -> str:
        return f"{self.architecture} on {self.device}"
