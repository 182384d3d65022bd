"""A batch's input file becomes lines, a stretch at a time.

Each stretch is one transaction of `step`: its lines and the place it ends at (`Batch.place`). So
any runner goes on from there, and what a killed one had not committed never was.
"""

import functools
from datetime import datetime

import msgspec
from django.conf import settings

from compliance import ids
from controlplane.batches import content, copying, forecasting, services, validating
from controlplane.batches.catalog import Catalog
from controlplane.batches.models import Batch, File, Forecast, Line, LineState, Status
from controlplane.batches.validating import DIGEST_BYTES, Found, Place, Problem, Rules

_STRETCH = 8 << 20  # bytes of a file, judged in one transaction
_MODEL_CHARS = 300
_COLUMNS = {
    "id": "text",
    "batch_id": "text",
    "number": "int4",
    "offset": "int8",
    "size": "int4",
    "model": "text",
    "state": "text",
    "attempt": "int4",
    "paid": "bool",
    "unsure": "bool",
    "failures": "int2",
    "owner": "text",
}


class _Kept(msgspec.Struct, array_like=True):
    """A Place, as it is kept."""

    offset: int
    number: int
    lines: int
    problems: list[Problem]
    seen: bytes


def step(batch: Batch, now: datetime) -> None:
    """One stretch further, in the transaction that has locked the batch: after the last one its
    lines wait, or it has failed."""
    box = content.Box(bytes(batch.sealed_key), services.context(batch.id), batch.project_id)
    place = _place(batch, box)
    found = _stretch(batch, place)
    if not place.problems:
        copying.copy("batches_line", _COLUMNS, (_row(batch, one) for one in found))
        forecasting.count(batch, found, now)
        batch.total += len(found)
    if not place.over:
        batch.place = box.seal(_kept(place), batch.id)
        batch.save(update_fields=["place", "total"])
    elif place.problems:
        _fail(batch, place.problems, now)
    else:
        batch.status, batch.in_progress_at, batch.place = Status.IN_PROGRESS, now, None
        batch.save(update_fields=["status", "in_progress_at", "place", "total"])


def _fail(batch: Batch, problems: list[Problem], now: datetime) -> None:
    Line.objects.filter(batch=batch).delete()
    Forecast.objects.filter(batch=batch).delete()
    batch.errors = [msgspec.to_builtins(problem) for problem in problems]
    batch.status, batch.failed_at, batch.total, batch.place = Status.FAILED, now, 0, None
    batch.save()
    services.tell_end(batch, services.Counts(0, 0, 0), now)


def _stretch(batch: Batch, place: Place) -> list[Found]:
    """Those that are good of what comes next; `place` has moved behind it."""
    file = File.objects.filter(id=batch.input_file_id, complete=True).first()
    if file is None:
        message = "The input file was deleted."
        place.problems.append(Problem("input_file_deleted", None, message))
        place.over = True
        return []
    rules = Rules(
        batch.endpoint,
        functools.cache(Catalog(batch.key).knows),
        settings.BATCH_MAX_REQUESTS,
        settings.BATCH_LINE_MAX_BYTES,
    )
    verdicts = validating.look(content.read(file, place.offset), rules, place, _STRETCH)
    return [one for one in verdicts if isinstance(one, Found)]


def _row(batch: Batch, found: Found) -> tuple[object, ...]:
    return (
        *(ids.new("brq"), batch.id, found.number, found.offset, found.size),
        *(found.model[:_MODEL_CHARS], LineState.PENDING.value, 1, False, False, 0, ""),
    )


def _place(batch: Batch, box: content.Box) -> Place:
    return Place() if batch.place is None else _opened(box.unseal(batch.place, batch.id))


def _opened(raw: bytes) -> Place:
    kept = msgspec.msgpack.decode(raw, type=_Kept)
    digests = range(0, len(kept.seen), DIGEST_BYTES)
    seen = {kept.seen[at : at + DIGEST_BYTES] for at in digests}
    return Place(kept.offset, kept.number, kept.lines, kept.problems, seen)


def _kept(place: Place) -> bytes:
    seen = b"".join(place.seen)
    kept = _Kept(place.offset, place.number, place.lines, place.problems, seen)
    return msgspec.msgpack.encode(kept)
