"""The verbs of files. Content comes and goes by `content`; here is what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, Sum

from compliance import audit, ids
from controlplane.batches import content
from controlplane.batches.errors import FileRefused, FileTooLarge, StorageFull
from controlplane.batches.models import Batch, File, FileChunk, Status
from controlplane.tenancy import events
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Project

INPUT = "batch"
OUTPUT = "batch_output"
EXPIRES_FROM_S, EXPIRES_TO_S = 3600, 2_592_000  # what OpenAI's expires_after takes
UPLOAD_LIFE = timedelta(hours=1)  # of one that never became complete


@dataclass
class Upload:
    """A file on its way. `write` until `keep`, or `drop`."""

    file: File
    writer: content.Writer

    def write(self, data: bytes) -> None:
        """Raises FileTooLarge."""
        if self.writer.size + len(data) > settings.FILE_MAX_BYTES:
            message = f"a file has at most {settings.FILE_MAX_BYTES} bytes"
            raise FileTooLarge(message, field="file")
        self.writer.write(data)

    def drop(self) -> None:
        """Nothing of it stays. No event: nobody ever saw it."""
        _remove(self.file)


def begin(
    *, actor: audit.Actor, project: Project, now: datetime, expires_at: datetime | None = None
) -> Upload:
    """`expires_at`: when it is removed although it never became complete."""
    file_id = ids.new("file")
    file = File.objects.create(
        id=file_id,
        project=project,
        sealed_key=content.new_key(content.context(file_id), project.id),
        created_by=actor.id,
        created_at=now,
        expires_at=expires_at or now + UPLOAD_LIFE,
    )
    return Upload(file, content.Writer(file))


def create(
    *,
    actor: audit.Actor,
    upload: Upload,
    filename: str,
    purpose: str,
    now: datetime,
    kept_s: float | None = None,
) -> File:
    """The upload is a file from now on. Raises FileRefused, StorageFull."""
    if purpose != INPUT:
        message = f"purpose must be {INPUT!r}: files are kept for batches alone"
        raise FileRefused(message, code="invalid_purpose", field="purpose")
    if not upload.writer.size:
        raise FileRefused("the file is empty", code="empty_file", field="file")
    if kept_s is not None and not EXPIRES_FROM_S <= kept_s <= EXPIRES_TO_S:
        message = f"expires_after.seconds is from {EXPIRES_FROM_S} to {EXPIRES_TO_S}"
        raise FileRefused(message, code="invalid_expiry", field="expires_after")
    life_s = settings.FILES_KEPT_S if kept_s is None else min(kept_s, settings.FILES_KEPT_S)
    with transaction.atomic():
        # One after the other, so that two uploads cannot both be the last that fits.
        project = Project.objects.select_for_update(no_key=True).get(id=upload.file.project_id)
        kept = File.objects.filter(project=project, complete=True).aggregate(all=Sum("bytes"))
        if (kept["all"] or 0) + upload.writer.size > settings.FILES_PROJECT_BYTES:
            message = f"the project keeps at most {settings.FILES_PROJECT_BYTES} bytes of files"
            raise StorageFull(message, field="file")
        return complete(
            actor=actor,
            file=upload.file,
            writer=upload.writer,
            filename=filename,
            purpose=purpose,
            now=now,
            # Its anchor is `created_at`, however long it took to come.
            expires_at=upload.file.created_at + timedelta(seconds=life_s),
        )


def complete(
    *,
    actor: audit.Actor,
    file: File,
    writer: content.Writer,
    filename: str,
    purpose: str,
    now: datetime,
    expires_at: datetime,
) -> File:
    """In a transaction: the last chunk, and all that is said of a file."""
    writer.close()
    file.filename, file.purpose = filename[:255].replace("\0", ""), purpose
    file.bytes, file.complete, file.expires_at = writer.size, True, expires_at
    file.save()
    size = audit.Change("bytes", None, writer.size)
    _record(file, actor, "file.create", now, size, filename=file.filename)
    return file


def delete(*, actor: audit.Actor, file: File, now: datetime) -> None:
    """At once, its key first. A batch that still needs it ends with what it has.

    Raises NotFound where it is deleted already.
    """
    with transaction.atomic():
        _locked(file)
        _end_batches(file)
        _record(file, actor, "file.delete", now)
        _remove(file)


def expire(now: datetime, *, held: Sequence[str] = (), limit: int | None = None) -> int:
    """Removes files whose time is over, and uploads that never became complete, but for
    organizations in `held`; returns how many."""
    rows = _over(now).exclude(project__organization_id__in=held).order_by("expires_at")
    found = list(rows.select_related("project__organization")[:limit])
    for file in found:
        with transaction.atomic():
            _end_batches(file)
            if file.complete:
                _record(file, audit.SYSTEM, "file.expire", now)
            _remove(file)
    return len(found)


def over(now: datetime, *, of: Sequence[str]) -> int:
    """How many files of these organizations are over."""
    return _over(now).filter(project__organization_id__in=of).count()


def _over(now: datetime) -> QuerySet[File]:
    return File.objects.filter(expires_at__lte=now)


def _end_batches(file: File) -> None:
    needing = Batch.objects.filter(
        input_file_id=file.id, ends_as="", status__in=(Status.VALIDATING, Status.IN_PROGRESS)
    )
    message = "The input file was deleted before all of its requests were run."
    error = {"code": "input_file_deleted", "line": None, "message": message, "param": None}
    needing.update(ends_as=Status.FAILED, errors=[error])


def _remove(file: File) -> None:
    FileChunk.objects.filter(file_id=file.id).delete()
    File.objects.filter(id=file.id).delete()


def _locked(file: File) -> None:
    rows = File.objects.select_for_update(of=("self",)).filter(id=file.id)
    if rows.first() is None:
        raise NotFound("file", code="file_not_found")


def _record(
    file: File,
    actor: audit.Actor,
    action: str,
    now: datetime,
    *change: audit.Change,
    filename: str = "",
) -> None:
    events.record(
        file.project,
        audit.Target("file", file.id),
        action,
        actor=actor,
        now=now,
        change=[audit.Change("purpose", None, file.purpose), *change] if change else [],
        personal={"filename": filename} if filename else {},
    )
