"""What was found wrong with nodes, and what was done about it; rows of fleet.models."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField
from controlplane.fleet.wire import Severity

_SEVERITIES = [(one.value, one.value) for one in Severity]


class NodeFinding(models.Model):
    """One finding of a node, from when it was first reported to when it no longer was.

    One that gets worse or better is over, and another begins: so what stands here is also the
    history of what changed.
    """

    id = IdField("fnd")
    node = models.ForeignKey("fleet.Node", on_delete=models.CASCADE, related_name="findings")
    check_name = models.CharField(max_length=64)
    device = models.PositiveSmallIntegerField(null=True)  # the index of the device it is about
    severity = models.CharField(max_length=16, choices=_SEVERITIES)
    text = models.CharField(max_length=500, blank=True)
    cure = models.CharField(max_length=500, blank=True)
    since = models.DateTimeField()
    seen_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    # An operator took the node back into service all the same: it moves the policy no more.
    acknowledged_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("node", "check_name", "device", "severity"),
                condition=Q(ended_at=None),
                nulls_distinct=False,
                name="finding_open",
            ),
        )
        indexes = (models.Index(fields=("node", "-since"), name="finding_newest"),)

    def __str__(self) -> str:
        return f"{self.check_name} {self.severity}"
