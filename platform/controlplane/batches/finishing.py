"""From validating to the files of the end: what a runner does with batches as a whole.

`advance` may be called by any number of runners at once, and be killed anywhere: each batch is
taken under its row's lock by one of them, and each step is one transaction.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec
from cryptography.exceptions import InvalidTag
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from compliance import audit, sealing
from controlplane.batches import content, files, lines, services, validating
from controlplane.batches.catalog import Catalog
from controlplane.batches.models import ENDED, Batch, File, FileChunk, Line, LineState, Status
from controlplane.batches.validating import Found, Problem, Rules

log = logging.getLogger(__name__)

_UNDONE = {
    Status.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    Status.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was run."),
    Status.FAILED: ("batch_failed", "The batch failed before this request was run."),
}
_AT = {
    Status.COMPLETED: "completed_at",
    Status.EXPIRED: "expired_at",
    Status.CANCELLED: "cancelled_at",
    Status.FAILED: "failed_at",
}


def under_way() -> bool:
    return Batch.objects.exclude(status__in=ENDED).exists()


def advance(now: datetime) -> int:
    """Every batch that is due for its next step; how many took one."""
    _end_what_is_over(now)
    done = 0
    live = Batch.objects.exclude(status__in=ENDED).order_by("id")
    for batch_id, status, ends_as in live.values_list("id", "status", "ends_as"):
        try:
            if status == Status.VALIDATING and not ends_as:
                done += validate(batch_id, now)
            elif ends_as or _all_settled(batch_id):
                done += finish(batch_id, now)
        except Exception:  # one batch must not stop the others
            log.exception("batch %s could not be advanced", batch_id)
    return done


def validate(batch_id: str, now: datetime) -> bool:
    """Read the whole input file: its lines are there and wait, or the batch has failed."""
    with transaction.atomic():
        batch = _take(batch_id)
        if batch is None or batch.status != Status.VALIDATING or batch.ends_as:
            return False
        problems: list[Problem] = []
        found: list[Line] = []
        for one in _look(batch):
            if isinstance(one, Problem):
                problems.append(one)
            elif not problems:
                found.append(_line(batch, one))
                batch.total += 1
                if len(found) == 1000:
                    lines.add(batch, found)
                    found.clear()
        if problems:
            Line.objects.filter(batch=batch).delete()
            batch.errors = [msgspec.to_builtins(problem) for problem in problems]
            batch.status, batch.failed_at, batch.total = Status.FAILED, now, 0
        else:
            lines.add(batch, found)
            batch.status, batch.in_progress_at = Status.IN_PROGRESS, now
        batch.save()
        if problems:
            services.tell_end(batch, services.Counts(0, 0, 0), now)
    return True


def finish(batch_id: str, now: datetime) -> bool:
    """No more of its lines run: their results become files. False while some still run."""
    with transaction.atomic():
        batch = _take(batch_id)
        if batch is None or batch.status in ENDED or lines.running(batch):
            return False
        if batch.status != Status.FINALIZING:
            batch.status, batch.finalizing_at = Status.FINALIZING, now
            batch.save(update_fields=["status", "finalizing_at"])
    with transaction.atomic():
        batch = _take(batch_id)
        if batch is None or batch.status != Status.FINALIZING:
            return False
        _write(batch, now)
        ended = Status(batch.ends_as or Status.COMPLETED)
        batch.status, batch.waits_for = ended, ""
        setattr(batch, _AT[ended], now)
        batch.save()
        Line.objects.filter(batch=batch).delete()
        counted = services.Counts(batch.total, batch.completed, batch.failed)
        services.tell_end(batch, counted, now)
    return True


def _end_what_is_over(now: datetime) -> None:
    """Windows that are over, and keys that are good no more: what runs may end, no more begins."""
    open_ones = Batch.objects.filter(status__in=(Status.VALIDATING, Status.IN_PROGRESS), ends_as="")
    open_ones.filter(expires_at__lte=now).update(ends_as=Status.EXPIRED)
    message = "The API key that made the batch was revoked or has expired."
    error = {"code": "invalid_api_key", "line": None, "message": message, "param": None}
    dead = Q(key__revoked_at__isnull=False) | Q(key__expires_at__lte=now)
    ids = list(open_ones.filter(dead).values_list("id", flat=True))
    open_ones.filter(id__in=ids).update(ends_as=Status.FAILED, errors=[error])


def _all_settled(batch_id: str) -> bool:
    rows = Line.objects.filter(batch_id=batch_id)
    return not rows.filter(state__in=(LineState.PENDING, LineState.RUNNING)).exists()


def _take(batch_id: str) -> Batch | None:
    """None while another runner has it, or once it is gone."""
    rows = Batch.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
    return (
        rows.select_related("project__organization", "key__project__organization")
        .filter(id=batch_id)
        .first()
    )


def _look(batch: Batch) -> Iterator[Found | Problem]:
    file = File.objects.filter(id=batch.input_file_id, complete=True).first()
    if file is None:
        yield Problem("input_file_deleted", None, "The input file was deleted.")
        return
    rules = Rules(
        batch.endpoint,
        Catalog(batch.key).knows,
        settings.BATCH_MAX_REQUESTS,
        settings.BATCH_LINE_MAX_BYTES,
    )
    yield from validating.look(content.read(file), rules)


def _line(batch: Batch, found: Found) -> Line:
    return Line(
        batch=batch,
        number=found.number,
        offset=found.offset,
        size=found.size,
        model=found.model[:300],
    )


class _File:
    """An output or error file, made when its first line comes."""

    def __init__(self, batch: Batch, name: str, now: datetime) -> None:
        self._batch = batch
        self._name = name
        self._now = now
        self._upload: files.Upload | None = None
        self.lines = 0

    def add(self, line: bytes) -> None:
        if self._upload is None:
            project = self._batch.project
            self._upload = files.begin(actor=audit.SYSTEM, project=project, now=self._now)
        self._upload.writer.write(line + b"\n")
        self.lines += 1

    def close(self) -> str:
        """Its id; empty where there was nothing to write."""
        if self._upload is None:
            return ""
        file = files.complete(
            actor=audit.SYSTEM,
            file=self._upload.file,
            writer=self._upload.writer,
            filename=self._name,
            purpose=files.OUTPUT,
            now=self._now,
            expires_at=self._now + timedelta(seconds=settings.FILES_KEPT_S),
        )
        return file.id


def _write(batch: Batch, now: datetime) -> None:
    output = _File(batch, f"{batch.id}_output.jsonl", now)
    errors = _File(batch, f"{batch.id}_error.jsonl", now)
    box = content.Box(bytes(batch.sealed_key), services.context(batch.id))
    source = File.objects.filter(id=batch.input_file_id, complete=True).first()
    rows = Line.objects.filter(batch=batch).order_by("number").iterator(chunk_size=200)
    undone = 0
    for line in rows:
        if line.result is not None:
            into = output if line.state == LineState.DONE else errors
            into.add(box.unseal(line.result, line.id))
        elif (said := _undone(batch, line, source)) is not None:
            errors.add(said)
        else:
            undone += 1  # nobody can say any more which request it was
    batch.completed, batch.failed = output.lines, errors.lines + undone
    batch.output_file_id, batch.error_file_id = output.close(), errors.close()


def _undone(batch: Batch, line: Line, source: File | None) -> bytes | None:
    """The error line of a request that was not run."""
    if source is None:
        return None
    try:
        custom_id, _ = validating.parse(content.piece(source, line.offset, line.size))
    except (FileChunk.DoesNotExist, InvalidTag, sealing.SealBroken):
        return None
    code, message = _UNDONE[Status(batch.ends_as)]
    said = {
        "id": line.id,
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return msgspec.json.encode(said)
