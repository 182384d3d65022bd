"""Releases of the agent, and how they come to a pool's nodes; rows of fleet.models."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class AgentRelease(models.Model):
    """The agent as nodes fetch it (fleet.bundle), kept for as long as a rollout may name it."""

    sha256 = models.CharField(max_length=64, primary_key=True)  # of the bundle
    version = models.CharField(max_length=32)  # as its agents report it
    content = models.BinaryField()  # the bundle, sealed (compliance.sealing)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.version


class RolloutState(models.TextChoices):
    RUNNING = "running"
    HALTED = "halted"  # nodes got worse: the operator resumes or aborts it
    DONE = "done"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"  # by a later one of the pool


OPEN = (RolloutState.RUNNING.value, RolloutState.HALTED.value)


class AgentRollout(models.Model):
    """A release on its way to the nodes of a pool, in waves; fleet.waves decides the next step."""

    id = IdField("aro")
    pool = models.ForeignKey("fleet.Pool", on_delete=models.PROTECT, related_name="+")
    release = models.ForeignKey(AgentRelease, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(
        max_length=16, choices=RolloutState.choices, default=RolloutState.RUNNING
    )
    canary_share = models.FloatField()  # of the pool's nodes: the first wave
    wave_size = models.PositiveIntegerField()
    pause_s = models.FloatField()  # between two waves
    limit_s = models.FloatField()  # for one node, from being told until it reports
    attempt = models.PositiveIntegerField(default=1)  # rises with each resumption
    halt_reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("pool",), condition=Q(state__in=OPEN), name="agent_rollout_open"
            ),
        )

    def __str__(self) -> str:
        return f"{self.pool_id} {self.release_id[:12]} {self.state}"


class AgentUpdate(models.Model):
    """A node was told to run the rollout's release, and, once `done_at`, reported that it does."""

    id = IdField("aup")
    rollout = models.ForeignKey(AgentRollout, on_delete=models.CASCADE, related_name="updates")
    node = models.ForeignKey("fleet.Node", on_delete=models.CASCADE, related_name="+")
    wave = models.PositiveIntegerField()
    told_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("rollout", "node"), name="agent_update_node"),
        )

    def __str__(self) -> str:
        return f"{self.rollout_id} {self.node_id}"
