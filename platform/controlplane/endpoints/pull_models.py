"""A wish that nodes have a model before anybody needs it; rows of endpoints.models."""

from django.db import models

from compliance.fields import IdField
from controlplane.fleet.models import Node, Pool
from controlplane.fleet.wire import PullState
from controlplane.tenancy.models import Project


class Pull(models.Model):
    """A model wished onto every node that the pool had then."""

    id = IdField("pul")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="pulls")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="pulls")
    source = models.CharField(max_length=16)  # wire.SourceKind
    secret = models.CharField(max_length=63, blank=True)
    model = models.CharField(max_length=300)
    revision = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()
    cancelled_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.model} {self.pool_id}"


class PullNode(models.Model):
    """How far one node is with it."""

    pull = models.ForeignKey(Pull, on_delete=models.CASCADE, related_name="nodes")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="pulls")
    state = models.CharField(
        max_length=16, default=PullState.WAITING, choices=[(s.value, s.value) for s in PullState]
    )
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(default=0)  # 0: not known
    revision = models.CharField(max_length=64, blank=True)  # what came, once it is here
    reason = models.CharField(max_length=32, blank=True)  # of a failure: states.Reason
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=("pull", "node"), name="pull_once"),)

    def __str__(self) -> str:
        return f"{self.pull_id} {self.node_id} {self.state}"
