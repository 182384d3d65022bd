"""What came in from elsewhere, once for each bundle."""

from django.db import models

from compliance.fields import IdField
from controlplane.tenancy.models import Organization


class SwitchingImport(models.Model):
    """A bundle of another installation, and the organization that was made of it.

    `ids`: what was called so there is called so here; `notes`: what could not be taken over.
    """

    id = IdField("swi")
    origin = models.CharField(max_length=300)  # of the log that the bundle is of
    bundle_id = models.CharField(max_length=31)
    bundle_sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="switched_from"
    )
    ids = models.JSONField()
    counts = models.JSONField()  # rows taken over, by resource
    notes = models.JSONField()
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("origin", "bundle_id"), name="switching_import_once"),
        )

    def __str__(self) -> str:
        return f"{self.bundle_id} {self.organization_id}"
