"""The register of requests. Nothing in it names anybody: ids, codes and times."""

from datetime import datetime

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class SubjectRequest(models.Model):
    """One request and what became of it.

    `subject_id` is blank where a tenant's own data subject asked, whom this platform does not know.
    `log_id`: in whose log it stands: the organization's whose data it is about, or "platform".
    """

    id = IdField("dsr")
    type = models.CharField(max_length=16)
    role = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=31, blank=True)
    log_id = models.CharField(max_length=31)
    region = models.CharField(max_length=32, blank=True)
    channel = models.CharField(max_length=16)
    received_at = models.DateTimeField()
    opened_by = models.CharField(max_length=64)
    identity = models.CharField(max_length=16)  # services.IDENTITIES
    verified_at = models.DateTimeField(null=True)
    due_on = models.DateField()
    term = models.CharField(max_length=16)  # which edition of the table said so
    extended_at = models.DateTimeField(null=True)
    extension_reason = models.CharField(max_length=32, blank=True)
    decision = models.CharField(max_length=16, blank=True)
    refusal_ground = models.CharField(max_length=32, blank=True)
    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=64, blank=True)
    closed_at = models.DateTimeField(null=True)
    output = models.CharField(max_length=31, blank=True)  # the export or the certificate

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("due_on",), condition=Q(closed_at=None), name="request_open"),
            models.Index(fields=("subject_id",), name="request_subject"),
            models.Index(fields=("log_id", "id"), name="request_log"),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.id}"

    def overdue(self, now: datetime) -> bool:
        return self.closed_at is None and now.date() > self.due_on
