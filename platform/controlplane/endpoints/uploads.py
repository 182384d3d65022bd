"""Weights that a project brings itself: declared, sent in pieces, verified, and served from.

The whole list of files is declared first. A piece says at which byte it begins; that is where the
last one ended, so a client that was cut off asks for `received_bytes` and goes on from there. A
file counts when its SHA-256 is the declared one, and the upload when all its files do. One that
nobody goes on with is removed after STOA_UPLOADS_UNFINISHED_S.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, Sum

from compliance import audit
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import ModelFacts, Upload, UploadFile
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy import events, names
from controlplane.tenancy.errors import Conflict, NotFound
from controlplane.tenancy.models import Project

MAX_FILES = 2_000
PIECE_MAX_BYTES = 64 << 20
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BUFFER = 1 << 20


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def begin_upload(
    *,
    actor: audit.Actor,
    project: Project,
    name: str,
    files: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Upload:
    """Declare an upload; each file has `path`, `size_bytes` and `sha256`. Raises Invalid."""
    name = names.check(name, field="name")
    _check(files)
    mine = UploadFile.objects.filter(upload__project=project)
    kept = mine.aggregate(all=Sum("size_bytes"))["all"] or 0
    if kept + sum(file["size_bytes"] for file in files) > settings.UPLOADS_PROJECT_BYTES:
        message = f"a project uploads at most {settings.UPLOADS_PROJECT_BYTES} bytes"
        raise Invalid(message, code="uploads_too_large", field="files")
    with transaction.atomic():
        upload = Upload.objects.create(
            project=project, name=name, created_at=now, expires_at=_expiry(now)
        )
        UploadFile.objects.bulk_create(
            UploadFile(
                upload=upload,
                number=number,
                path=file["path"],
                size_bytes=file["size_bytes"],
                sha256=file["sha256"],
            )
            for number, file in enumerate(files)
        )
        count = [audit.Change("files", None, len(files))]
        _tell(upload, "upload.create", actor, now, change=count, personal={"name": name})
    return upload


def take_piece(
    *,
    actor: audit.Actor,
    upload: Upload,
    number: int,
    offset: int,
    body: Readable,
    now: datetime,
) -> UploadFile:
    """Append a piece to a file; with its last byte the file is verified.

    Raises Invalid, and Conflict (`wrong_offset`, `wrong_sum`): then ask where to go on.
    """
    with transaction.atomic():
        rows = UploadFile.objects.select_for_update().filter(upload=upload, number=number)
        file = rows.first()
        if file is None:
            raise Invalid("the upload has no file of this number", field="number")
        if file.verified or offset != file.received_bytes:
            message = f"the next piece of this file begins at byte {file.received_bytes}"
            raise Conflict(message, code="wrong_offset", field="offset")
        file.received_bytes = _append(place(file), offset, file.size_bytes, body)
        wrong = False
        if file.received_bytes == file.size_bytes:
            file.verified = _sum(place(file)) == file.sha256
            wrong = not file.verified
            file.received_bytes = 0 if wrong else file.size_bytes
        file.save(update_fields=["received_bytes", "verified"])
        # It locks the row: of two last pieces at once, the second sees what the first has brought.
        Upload.objects.filter(pk=upload.pk).update(expires_at=_expiry(now))
        if file.verified and not upload.files.filter(verified=False).exists():
            Upload.objects.filter(pk=upload.pk).update(finished_at=now, expires_at=None)
            _tell(upload, "upload.complete", actor, now)
    if wrong:
        message = f"{file.path} is not what was declared: send it again from its beginning"
        raise Conflict(message, code="wrong_sum", field="number")
    return file


def take_out(
    *, actor: audit.Actor, upload: Upload, number: int, start: int, now: datetime
) -> tuple[UploadFile, Path]:
    """A file that is whole, for its owner to take elsewhere from the byte `start` on.

    Raises NotFound, and Conflict for one that is not whole.
    """
    file = upload.files.filter(number=number).first()
    if file is None:
        raise NotFound("file of this upload")
    if not file.verified:
        raise Conflict("this file is not whole yet", code="not_whole", field="number")
    told: dict[str, Any] = {"number": number, "start": start, "sha256": file.sha256}
    change = [audit.Change(name, None, value) for name, value in told.items()]
    _tell(upload, "upload.download", actor, now, change=change)
    return file, place(file)


def delete_upload(*, actor: audit.Actor, upload: Upload, now: datetime) -> None:
    """Remove it and its bytes; what nodes have of it is handed out to nobody any more."""
    with transaction.atomic():
        _tell(upload, "upload.delete", actor, now)
        folder = _folder(upload.id)
        ModelFacts.objects.filter(source=SourceKind.UPLOAD, model=upload.id).delete()
        upload.delete()
    shutil.rmtree(folder, ignore_errors=True)


def expire(now: datetime, *, held: Sequence[str] = (), limit: int | None = None) -> int:
    """Removes those that nobody went on with, but for organizations in `held`."""
    removed = 0
    rows = _over(now).exclude(project__organization_id__in=held).order_by("expires_at")
    for id in list(rows.values_list("id", flat=True)[:limit]):
        with transaction.atomic():
            # A piece that is on its way has its file locked, and comes first.
            list(UploadFile.objects.select_for_update().filter(upload_id=id).values_list("id"))
            over = Upload.objects.select_related("project__organization").filter(id=id)
            upload = over.filter(expires_at__lte=now).first()
            if upload is None:
                continue
            _tell(upload, "upload.expire", audit.SYSTEM, now)
            upload.delete()
        shutil.rmtree(_folder(id), ignore_errors=True)
        removed += 1
    return removed


def over(now: datetime, *, of: Sequence[str]) -> int:
    """How many of these organizations nobody went on with."""
    return _over(now).filter(project__organization_id__in=of).count()


def _over(now: datetime) -> QuerySet[Upload]:
    return Upload.objects.filter(expires_at__lte=now)


def place(file: UploadFile) -> Path:
    """Where its bytes lie."""
    return _folder(file.upload_id) / str(file.number)


def _expiry(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.UPLOADS_UNFINISHED_S)


def _folder(upload_id: str) -> Path:
    return Path(settings.UPLOADS_DIR) / upload_id


def _append(path: Path, offset: int, size: int, body: Readable) -> int:
    """Write from `offset` on, over what a piece that was cut off left; the new end."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("r+b" if path.exists() else "w+b") as out:
        out.truncate(offset)
        out.seek(offset)
        taken = 0
        while chunk := body.read(_BUFFER):
            taken += len(chunk)
            if taken > PIECE_MAX_BYTES or offset + taken > size:
                message = f"a piece has at most {PIECE_MAX_BYTES} bytes and ends with its file"
                raise Invalid(message, code="piece_too_large", field="offset")
            out.write(chunk)
    return offset + taken


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(files: Sequence[Mapping[str, Any]]) -> None:
    paths = [file["path"] for file in files]
    if not 1 <= len(files) <= MAX_FILES or len(set(paths)) < len(paths):
        raise Invalid(f"expected 1 to {MAX_FILES} files, each once", field="files")
    if "config.json" not in paths:
        raise Invalid("a model has a config.json", field="files")
    for file in files:
        good = _PATH.fullmatch(file["path"]) and len(file["path"]) <= 512
        if not good or not _SHA256.fullmatch(file["sha256"]) or file["size_bytes"] < 1:
            message = "each file has a plain relative path, a size and a SHA-256 in hex"
            raise Invalid(message, field="files")


def _tell(upload: Upload, action: str, actor: audit.Actor, now: datetime, **facts: Any) -> None:
    target = audit.Target("upload", upload.id)
    events.record(upload.project, target, action, actor=actor, now=now, **facts)
