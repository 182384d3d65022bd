"""Work on nodes that takes its time: maintenance, and leaving for good; rows of fleet.models."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class MaintenanceState(models.TextChoices):
    PLANNED = "planned"
    ACTIVE = "active"  # drained, and not yet taken back
    OVER = "over"
    CANCELLED = "cancelled"


class Maintenance(models.Model):
    """A node is out of service from then to then, and whom it concerns is told beforehand."""

    id = IdField("mnt")
    node = models.ForeignKey("fleet.Node", on_delete=models.CASCADE, related_name="maintenances")
    state = models.CharField(
        max_length=16, choices=MaintenanceState.choices, default=MaintenanceState.PLANNED
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    message = models.CharField(max_length=500, blank=True)  # to the tenants that it concerns
    take_back = models.BooleanField(default=True)  # at the end, if the node is well
    drained = models.BooleanField(default=False)  # by this; else it was out of service before
    told = models.JSONField(default=list)  # ids of the organizations that were told
    result = models.CharField(max_length=200, blank=True)  # how it ended, for people
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(ends_at__gt=models.F("starts_at")), name="maintenance_forward"
            ),
        )
        indexes = (
            models.Index(
                fields=("starts_at",),
                condition=Q(state__in=("planned", "active")),
                name="maintenance_open",
            ),
        )

    def __str__(self) -> str:
        return f"{self.node_id} {self.starts_at}"


class DecommissionState(models.TextChoices):
    """In this order; a device skips `erasing`, and waits for its successor instead."""

    DRAINING = "draining"  # what runs there is moved
    ERASING = "erasing"  # the agent removes what tenants left, its credential last
    CLOSING = "closing"  # the certificate is dead; what it served is being settled
    AWAITING = "awaiting"  # nothing runs on the device: it may be taken out
    DONE = "done"  # the record is signed
    CANCELLED = "cancelled"


class Decommission(models.Model):
    """A node, or one device of it, leaves the fleet for good; ends in a signed record."""

    id = IdField("dcm")
    node = models.ForeignKey("fleet.Node", on_delete=models.PROTECT, related_name="decommissions")
    device = models.ForeignKey(
        "fleet.Device", null=True, on_delete=models.PROTECT, related_name="decommissions"
    )
    state = models.CharField(
        max_length=16, choices=DecommissionState.choices, default=DecommissionState.DRAINING
    )
    reason = models.CharField(max_length=500, blank=True)
    # The operator says that the node will never answer again: nothing it should do is waited for.
    unconfirmed = models.BooleanField(default=False)
    was = models.JSONField(default=dict)  # what leaves: names, serial numbers, UUIDs
    successor = models.JSONField(null=True)  # of a device: what took its place
    moved = models.JSONField(default=list)  # ids of the replicas that were on it
    requested_by = models.CharField(max_length=64)
    requested_at = models.DateTimeField()
    drained_at = models.DateTimeField(null=True)
    erased = models.JSONField(null=True)  # wire.Erased, as the node signed it
    erased_at = models.DateTimeField(null=True)
    credential_erased_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)  # no serving interval is open
    record = models.JSONField(null=True)
    signature = models.CharField(max_length=128, blank=True)  # base64, Ed25519 over JCS(record)
    signed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("node", "device"),
                condition=~Q(state__in=("done", "cancelled")),
                nulls_distinct=False,
                name="decommission_open",
            ),
        )

    def __str__(self) -> str:
        return f"{self.node_id} {self.state}"
