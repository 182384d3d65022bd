"""What nodes did by themselves; rows of fleet.models."""

from django.db import models

from compliance.fields import IdField


class NodeEvent(models.Model):
    """Something that a node's agent did or measured, once: an orphan that it ended, the proof
    that a device is clean. `number` is the agent's own id of it: a repeated one is no second row.
    """

    id = IdField("nev")
    node = models.ForeignKey("fleet.Node", on_delete=models.CASCADE, related_name="events")
    number = models.CharField(max_length=64)
    kind = models.CharField(max_length=32)  # one of wire.NodeEventKind
    at = models.DateTimeField()  # by the node's clock
    recorded_at = models.DateTimeField()
    device_index = models.PositiveSmallIntegerField(null=True)
    from_organization = models.CharField(max_length=64, blank=True)  # whose engine was there
    to_organization = models.CharField(max_length=64, blank=True)  # whose comes next
    detail = models.JSONField(default=dict)  # what was measured: texts and whole numbers

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("node", "number"), name="node_event_number"),
        )
        indexes = (models.Index(fields=("recorded_at",), name="node_event_recorded"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"
