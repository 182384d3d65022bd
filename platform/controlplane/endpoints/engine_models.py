"""Which versions of an engine there are, and which endpoints may use."""

from django.db import models

from compliance.fields import IdField


class EngineVersion(models.Model):
    """A version of an engine (fleet.engines). Those that our release ships come by themselves."""

    id = IdField("egv")
    engine = models.CharField(max_length=32)
    version = models.CharField(max_length=64)
    status = models.CharField(max_length=16, default="supported")  # engine_versions.Status
    # What replicas are started from; empty: the environment that nodes install by our lock.
    image = models.CharField(max_length=500, blank=True)
    note = models.CharField(max_length=200, blank=True)  # why, in a person's words
    replacement = models.CharField(max_length=64, blank=True)  # of a blocked one: what it becomes
    deadline = models.DateTimeField(null=True)  # of a blocked one: when nothing runs on it any more
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()  # when it got its status

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("engine", "version"), name="engine_version_once"),
        )

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"
