"""Files with their sealed chunks; batches with their lines."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField
from controlplane.batches.forecast_models import Forecast as Forecast
from controlplane.tenancy.models import ApiKey, Project


class File(models.Model):
    """Content that a project asked to have kept. Its rows are gone when it is deleted."""

    id = IdField("file")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="files")
    purpose = models.CharField(max_length=32)
    filename = models.CharField(max_length=255)
    bytes = models.BigIntegerField(default=0)
    sealed_key = models.BinaryField()  # the content's own key, sealed (compliance.keys)
    complete = models.BooleanField(default=False)  # False: still on its way, nobody sees it
    created_by = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("expires_at",), name="file_expiry"),)

    def __str__(self) -> str:
        return self.id


class FileChunk(models.Model):
    """So many bytes of a file, encrypted; `number` counts from 0."""

    file = models.ForeignKey(File, on_delete=models.CASCADE, related_name="chunks")
    number = models.PositiveIntegerField()
    blob = models.BinaryField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("file", "number"), name="filechunk_once"),)

    def __str__(self) -> str:
        return f"{self.file_id} {self.number}"


class Status(models.TextChoices):
    """OpenAI's."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = (Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED)


class Batch(models.Model):
    """A file of requests. `ends_as` is set when no more of its lines are begun."""

    id = IdField("bat")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="batches")
    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="batches")
    endpoint = models.CharField(max_length=64)  # such as /v1/chat/completions
    completion_window = models.CharField(max_length=8)
    metadata = models.JSONField(null=True)
    input_file_id = models.CharField(max_length=31)
    output_file_id = models.CharField(max_length=31, blank=True)
    error_file_id = models.CharField(max_length=31, blank=True)
    status = models.CharField(max_length=16, choices=Status, default=Status.VALIDATING)
    ends_as = models.CharField(max_length=16, choices=Status, blank=True)
    errors = models.JSONField(default=list)  # [{code, line, message, param}]; nothing of a line
    waits_for = models.CharField(max_length=64, blank=True)  # why its lines do not run now: a code
    sealed_key = models.BinaryField()  # of its lines' results, until they are in files
    place = models.BinaryField(null=True)  # how far its input is read, or its files are written
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)  # this and `failed`: once it has ended
    failed = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=("status",), condition=~Q(status__in=ENDED), name="batch_under_way"
            ),
        )

    def __str__(self) -> str:
        return self.id


class LineState(models.TextChoices):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Line(models.Model):
    """One request: where it stands in the input file, who runs it, and its sealed result.

    `attempt` is part of the id that its request has in the books. It rises when it is known what
    became of the attempt before; where that is unknown the same id is used again, so that nothing
    is charged twice. `paid`: that attempt is in the books with all of its answer. `unsure`: its id
    is used again, and the first use may yet turn up there.
    """

    id = IdField("brq")
    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="lines", db_index=False)
    number = models.PositiveIntegerField()  # of the input file's lines, from 1
    offset = models.BigIntegerField()  # bytes
    size = models.PositiveIntegerField()
    model = models.CharField(max_length=300)
    state = models.CharField(max_length=8, choices=LineState, default=LineState.PENDING)
    attempt = models.PositiveIntegerField(default=1)
    paid = models.BooleanField(default=False)
    unsure = models.BooleanField(default=False)
    failures = models.PositiveSmallIntegerField(default=0)  # answers that may be an engine's fault
    owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    not_before = models.DateTimeField(null=True)
    result = models.BinaryField(null=True)  # a line of the output or error file
    began_at = models.DateTimeField(null=True)  # the attempt that runs, or that brought the result
    ended_at = models.DateTimeField(null=True)
    prompt_tokens = models.PositiveIntegerField(null=True)  # as the answer counts them
    output_tokens = models.PositiveIntegerField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("batch", "number"), name="line_once"),)
        indexes = (
            models.Index(
                fields=("batch", "model", "number"),
                condition=Q(state="pending"),
                name="line_pending",
            ),
            models.Index(
                fields=("lease_until",), condition=Q(state="running"), name="line_running"
            ),
            models.Index(fields=("batch", "state"), name="line_states"),
        )

    def __str__(self) -> str:
        return self.id

    @property
    def request_id(self) -> str:
        """Its id in the books, for the attempt at hand."""
        return f"{self.id}-{self.attempt}"
