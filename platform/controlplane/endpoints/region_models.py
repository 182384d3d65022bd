"""Where replicas were placed, kept for good; rows of endpoints.models."""

from django.db import models
from django.db.models.functions import Now


class PlacementRecord(models.Model):
    """A node took a replica, or a gang's member: where that is, and where it had to be.

    A trigger of the replica's (or member's) own table writes it (migration 0040), in the
    transaction that places, and nobody else can: the running role may only read, and no row is
    changed or removed. `pin` is the organization's region, `region` the node's, by the database's
    own reading of both.
    """

    organization_id = models.CharField(max_length=31)
    project_id = models.CharField(max_length=31)
    endpoint_id = models.CharField(max_length=31)
    generation = models.PositiveIntegerField()  # number of the endpoint's version
    replica_id = models.CharField(max_length=31)
    rank = models.PositiveSmallIntegerField()  # of a gang's member; else 0
    node_id = models.CharField(max_length=31)
    pool_id = models.CharField(max_length=31)
    region = models.CharField(max_length=32)
    country = models.CharField(max_length=2)
    pin = models.CharField(max_length=32)
    reason = models.CharField(max_length=300)  # why this node; empty: whoever placed said none
    decided_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("id",)
        indexes = (
            models.Index(fields=("organization_id", "decided_at"), name="placementrecord_of"),
            models.Index(fields=("replica_id",), name="placementrecord_replica"),
        )

    def __str__(self) -> str:
        return f"{self.replica_id} {self.node_id} {self.region}"
