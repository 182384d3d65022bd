"""Replies kept so that a repeated create answers the same (Idempotency-Key)."""

from django.db import models

from compliance.fields import IdField


class StoredReply(models.Model):
    """The sealed reply of one create, for 24 hours. `principal` is who asked."""

    id = IdField("idm")
    principal = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)  # SHA-256 of method, path and body
    status = models.PositiveSmallIntegerField(null=True)  # null: still under way
    sealed_body = models.BinaryField(default=bytes)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("principal", "key"), name="reply_once"),)

    def __str__(self) -> str:
        return self.key
