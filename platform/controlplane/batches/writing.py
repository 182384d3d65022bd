"""The results of a batch's lines become its files, some lines at a time.

Nothing of the batch runs any more. First each line that was not run gets an error for its result:
from then on what the files will say is fixed, and so is each chunk of them, which is encrypted
once more under the same nonce where a runner was killed before it could commit. Then each
transaction of `step` moves some results, in order, into files that nobody sees yet; what does not
fill a chunk stays, sealed, at the place it has got to (`Batch.place`).
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from cryptography.exceptions import InvalidTag
from django.conf import settings
from django.db import connection

from compliance import audit, sealing
from compliance.keys import KeyDestroyed
from controlplane.batches import content, files, services, validating
from controlplane.batches.models import Batch, File, FileChunk, Line, LineState, Status

_LINES, _BYTES = 4000, 16 << 20  # in one transaction
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
_ANSWER_UNDONE = """
UPDATE batches_line l SET state = 'failed', result = v.result
FROM unnest(%s::text[], %s::bytea[]) AS v(id, result)
WHERE l.id = v.id AND l.state = 'pending'
"""
# One more than fits, so that a result may have any size.
_NEXT = """
SELECT id, number, state, result FROM (
    SELECT id, number, state, result, COALESCE(octet_length(result), 0) AS size,
           sum(COALESCE(octet_length(result), 0)) OVER (ORDER BY number) AS up_to
    FROM batches_line WHERE batch_id = %s AND number > %s ORDER BY number LIMIT %s
) AS next WHERE up_to - size < %s ORDER BY number
"""


@dataclass
class _File:
    """An output or error file, as it is kept between two steps. Made when its first line comes."""

    id: str = ""
    chunks: int = 0
    rest: bytes = b""


@dataclass
class _Place:
    number: int = 0  # of the last line that is in a file
    output: _File = field(default_factory=_File)
    errors: _File = field(default_factory=_File)


def step(batch: Batch, now: datetime) -> bool:
    """A step further, in the transaction that has locked the batch; after the last one it has
    ended. False while lines run yet that were just being claimed when it began."""
    box = content.Box(bytes(batch.sealed_key), services.context(batch.id), batch.project_id)
    rows = Line.objects.filter(batch=batch)
    undone = list(rows.filter(state=LineState.PENDING).order_by("number")[:_LINES])
    if undone:
        _answer_undone(batch, box, undone)
    elif rows.filter(state=LineState.RUNNING).exists():
        return False
    else:
        _move(batch, box, now)
    return True


def _answer_undone(batch: Batch, box: content.Box, undone: list[Line]) -> None:
    file = File.objects.filter(id=batch.input_file_id, complete=True).first()
    source = content.Reader(file) if file is not None else None
    said = [_undone(batch, line, source) for line in undone]
    sealed = [
        None if one is None else box.seal(one, line.id)
        for line, one in zip(undone, said, strict=True)
    ]
    with connection.cursor() as cursor:
        cursor.execute(_ANSWER_UNDONE, [[line.id for line in undone], sealed])


def _undone(batch: Batch, line: Line, source: content.Reader | None) -> bytes | None:
    """The error line of a request that was not run; None where nobody can say any more which
    request it was."""
    if source is None:
        return None
    try:
        custom_id, _ = validating.parse(source.piece(line.offset, line.size))
    except (FileChunk.DoesNotExist, InvalidTag, sealing.SealBroken, KeyDestroyed):
        return None
    code, message = _UNDONE[Status(batch.ends_as)]
    said = {
        "id": line.id,
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return msgspec.json.encode(said)


def _move(batch: Batch, box: content.Box, now: datetime) -> None:
    place = _Place()
    if batch.place is not None:
        place = msgspec.msgpack.decode(box.unseal(batch.place, batch.id), type=_Place)
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, [batch.id, place.number, _LINES, _BYTES])
        results = cursor.fetchall()
    output = _Open(batch, place.output, now)
    errors = _Open(batch, place.errors, now)
    for id, number, state, result in results:
        place.number = number
        done = state == LineState.DONE
        batch.completed += done
        batch.failed += not done
        if result is not None:
            (output if done else errors).add(box.unseal(result, id))
    if not results:
        _end(batch, output, errors, now)
        return
    output.keep()
    errors.keep()
    Line.objects.filter(batch=batch, number__lte=place.number).delete()
    batch.place = box.seal(msgspec.msgpack.encode(place), batch.id)
    batch.save(update_fields=["place", "completed", "failed"])


def _end(batch: Batch, output: "_Open", errors: "_Open", now: datetime) -> None:
    ended = Status(batch.ends_as or Status.COMPLETED)
    batch.output_file_id = output.complete(f"{batch.id}_output.jsonl")
    batch.error_file_id = errors.complete(f"{batch.id}_error.jsonl")
    batch.status, batch.waits_for, batch.place = ended, "", None
    setattr(batch, _AT[ended], now)
    batch.save()
    services.tell_end(batch, services.Counts(batch.total, batch.completed, batch.failed), now)


class _Open:
    """A file of the batch while a step writes it."""

    def __init__(self, batch: Batch, kept: _File, now: datetime) -> None:
        self._batch = batch
        self._kept = kept
        self._now = now
        self._expires_at = now + timedelta(seconds=settings.FILES_KEPT_S)
        self._file: File | None = None
        self._writer: content.Writer | None = None

    def add(self, line: bytes) -> None:
        writer = self._again() or self._begin()
        writer.write(line + b"\n")

    def _again(self) -> content.Writer | None:
        """Where it had got to; None where nothing was written yet, or all of it was erased."""
        kept = self._kept
        if self._writer is None and kept.id:
            self._file = File.objects.filter(id=kept.id).first()
            if self._file is not None:
                self._writer = content.Writer(self._file, chunks=kept.chunks, rest=kept.rest)
        return self._writer

    def _begin(self) -> content.Writer:
        upload = files.begin(
            actor=audit.SYSTEM,
            project=self._batch.project,
            now=self._now,
            expires_at=self._expires_at,
        )
        self._file, self._writer = upload.file, upload.writer
        return self._writer

    def keep(self) -> None:
        """What is whole is rows; the rest is for the place."""
        if self._file is not None and self._writer is not None:
            self._writer.flush()
            kept = self._kept
            kept.id, kept.chunks = self._file.id, self._writer.chunks
            kept.rest = bytes(self._writer.rest)

    def complete(self, name: str) -> str:
        """Its id; empty where there is nothing of it."""
        writer = self._again()
        if self._file is None or writer is None:
            return ""
        return files.complete(
            actor=audit.SYSTEM,
            file=self._file,
            writer=writer,
            filename=name,
            purpose=files.OUTPUT,
            now=self._now,
            expires_at=self._expires_at,
        ).id
