"""What placement remembers beside the claims; rows of endpoints.models."""

from django.db import models

from controlplane.fleet.models import Node


class Reservation(models.Model):
    """Devices of a node that a waiting replica is to have once enough are free; of a gang one for
    each of its nodes. It ends by itself: whoever still waits takes it anew."""

    replica = models.ForeignKey(
        "endpoints.Replica", on_delete=models.CASCADE, related_name="reservations"
    )
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="reservations")
    kind = models.CharField(max_length=64)
    count = models.PositiveSmallIntegerField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("replica", "node"), name="reservation_once"),
        )

    def __str__(self) -> str:
        return f"{self.replica_id} {self.count} of {self.node_id}"


class PlacementNote(models.Model):
    """Why a replica stands where it does. Goes when its devices do."""

    replica = models.OneToOneField(
        "endpoints.Replica",
        primary_key=True,
        on_delete=models.CASCADE,
        related_name="placement_note",
    )
    rejected = models.JSONField()  # why a node was not taken, to the ids of those nodes
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.replica_id} {len(self.rejected)}"
