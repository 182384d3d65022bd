"""Versions of an endpoint's spec, the rollouts between them, and how each served meanwhile."""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from compliance.fields import IdField
from controlplane.placement.mix import WHOLE


class EndpointVersion(models.Model):
    """A spec as it was asked for; a trigger (migration 0033) keeps it so. Replicas name its number.

    Going back to a version makes no new one: its replicas that still run are kept, as Kubernetes
    keeps the pods of a ReplicaSet. That it was done stands in a Rollout.
    """

    id = IdField("ver")
    endpoint = models.ForeignKey(
        "endpoints.Endpoint", on_delete=models.PROTECT, related_name="versions"
    )
    number = models.PositiveIntegerField()  # from 1
    spec = models.JSONField()  # what a replica needs: versions.FIELDS
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)  # the actor's id; empty: made before versions were
    note = models.CharField(max_length=200, blank=True)  # why, in a person's words
    # What is predicted of it (preflight.Outlook), as it was made or since its model is known.
    outlook = models.JSONField(null=True)

    class Meta:
        ordering = ("-number",)
        constraints = (
            models.UniqueConstraint(fields=("endpoint", "number"), name="version_number"),
        )

    def __str__(self) -> str:
        return f"{self.endpoint_id} v{self.number}"

    @property
    def source(self) -> str:
        return str(self.spec["source"])

    @property
    def model(self) -> str:
        return str(self.spec["model"])

    @property
    def revision(self) -> str:
        return str(self.spec["revision"])

    @property
    def image(self) -> dict[str, Any] | None:
        """None also of versions from before there were images."""
        found: dict[str, Any] | None = self.spec.get("image")
        return found

    @property
    def engine(self) -> str:
        return str(self.spec["engine"])

    @property
    def engine_version(self) -> str:
        """Empty also of versions from before engines had theirs."""
        return str(self.spec.get("engine_version", ""))

    @property
    def device_kind(self) -> str:
        return str(self.spec["device_kind"])

    @property
    def device_count(self) -> int:
        return int(self.spec["device_count"])

    @property
    def device_share(self) -> int:
        """Thousandths of its device; all of it also of versions from before there were shares."""
        return int(self.spec.get("device_share", WHOLE))

    @property
    def devices_each(self) -> int:
        """What one replica holds, on all of its nodes."""
        return self.device_count * int(self.spec["node_count"])


class Rollout(models.Model):
    """The way of an endpoint from one version to another. At most one is under way."""

    id = IdField("rol")
    endpoint = models.ForeignKey(
        "endpoints.Endpoint", on_delete=models.PROTECT, related_name="rollouts"
    )
    from_number = models.PositiveIntegerField()  # what serves, and where it would go back to
    to_number = models.PositiveIntegerField()
    plan = models.JSONField()  # rollout_plan.RolloutPlan
    state = models.CharField(max_length=16, default="progressing")  # rollout_progress.Outcome
    reason = models.CharField(max_length=32)  # rollout_progress.RolloutReason
    detail = models.CharField(max_length=300, blank=True)
    # Of traffic, in percent, that the new version gets; null: as much as its replicas can take.
    share = models.FloatField(null=True)
    step = models.PositiveSmallIntegerField(default=0)  # of a canary
    step_at = models.DateTimeField(null=True)  # since when a replica of it serves at this share
    proved_at = models.DateTimeField(null=True)  # the first replica of the new version was ready
    replaced_at = models.DateTimeField(null=True)  # none of another version was left
    progress_at = models.DateTimeField()
    most_ready = models.PositiveSmallIntegerField(default=0)
    failures = models.PositiveSmallIntegerField(default=0)  # engines of the new version
    retry_at = models.DateTimeField(null=True)  # back-off of the new version alone
    looks = models.PositiveSmallIntegerField(default=0)  # tests of its health that were made
    health = models.JSONField(default=dict)  # what the last of them saw
    note = models.CharField(max_length=200, blank=True)
    started_at = models.DateTimeField()
    started_by = models.CharField(max_length=64)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("endpoint",), condition=Q(state="progressing"), name="rollout_one_open"
            ),
            models.CheckConstraint(
                condition=~Q(from_number=F("to_number")), name="rollout_leads_elsewhere"
            ),
        )

    def __str__(self) -> str:
        return f"{self.endpoint_id} v{self.from_number} → v{self.to_number}"


class VersionHealth(models.Model):
    """What a gateway saw of one version since its row before, insert-only, while a rollout is on.

    The two last columns count requests by their seconds, as {bucket: count} (gateway.buckets).
    """

    id = models.BigAutoField(primary_key=True)
    rollout_id = models.CharField(max_length=31)
    version = models.PositiveIntegerField()
    gateway_id = models.CharField(max_length=64)
    requests = models.PositiveIntegerField()  # tries at a replica: what was tried again counts
    errors = models.PositiveIntegerField()  # of them those that the replica failed
    first = models.JSONField()  # from the replica's request to a stream's first byte
    total = models.JSONField()  # … to the end of a whole answer
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (models.Index(fields=("rollout_id",), name="versionhealth_rollout"),)

    def __str__(self) -> str:
        return f"{self.rollout_id} v{self.version} {self.requests}"
