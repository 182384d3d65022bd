"""Weights that a project brings itself; rows of endpoints.models."""

from django.db import models

from compliance.fields import IdField
from controlplane.tenancy.models import Project


class Upload(models.Model):
    """A model, as the list of its files; it can be served when all are whole."""

    id = IdField("upl")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="uploads")
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)  # unless another piece comes; null: finished

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.name


class UploadFile(models.Model):
    """One file; its bytes lie in STOA_UPLOADS_DIR under the upload's id and this number."""

    upload = models.ForeignKey(Upload, on_delete=models.CASCADE, related_name="files")
    number = models.PositiveIntegerField()
    path = models.CharField(max_length=512)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    received_bytes = models.BigIntegerField(default=0)
    verified = models.BooleanField(default=False)

    class Meta:
        ordering = ("number",)
        constraints = (
            models.UniqueConstraint(fields=("upload", "number"), name="upload_file_number"),
        )

    def __str__(self) -> str:
        return self.path
