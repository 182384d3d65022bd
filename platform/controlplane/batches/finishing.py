"""From validating to the files of the end: what a runner does with batches as a whole.

Each `step` is one short transaction, under the batch's lock, that leaves what it has got to in
the batch's row: any number of runners may take them in turns, and be killed anywhere.
"""

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from controlplane.batches import forecasting, reading, writing
from controlplane.batches.models import ENDED, Batch, Forecast, Line, LineState, Status

log = logging.getLogger(__name__)

_RUNNING = Line.objects.filter(batch=OuterRef("id"), state=LineState.RUNNING)
_UNSETTLED = Line.objects.filter(
    batch=OuterRef("id"), state__in=(LineState.PENDING, LineState.RUNNING)
)
_DUE = (
    Q(status=Status.VALIDATING, ends_as="")
    | (Q(status=Status.FINALIZING) | ~Q(ends_as="")) & ~Exists(_RUNNING)
    | ~Exists(_UNSETTLED)
)


def under_way() -> bool:
    return Batch.objects.exclude(status__in=ENDED).exists()


def due() -> dict[str, list[str]]:
    """The batches that a step would get further, oldest first, by project."""
    found: dict[str, list[str]] = {}
    live = Batch.objects.exclude(status__in=ENDED).filter(_DUE).order_by("id")
    for project_id, batch_id in live.values_list("project_id", "id"):
        found.setdefault(project_id, []).append(batch_id)
    return found


def advance(now: datetime) -> int:
    """Every step there is to take, by one runner alone; how many."""
    end_what_is_over(now)
    done = 0
    while took := sum(attempt(id, now) for ids in due().values() for id in ids):
        done += took
    return done


def attempt(batch_id: str, now: datetime) -> bool:
    """A step, that must not stop the others'. Whether it was taken."""
    try:
        return step(batch_id, now)
    except Exception:
        log.exception("batch %s could not be advanced", batch_id)
        return False


def step(batch_id: str, now: datetime) -> bool:
    """Some way further; False where another runner has the batch, or nothing is to be done."""
    with transaction.atomic():
        batch = _take(batch_id)
        if batch is None or batch.status in ENDED:
            return False
        if batch.status == Status.VALIDATING and not batch.ends_as:
            reading.step(batch, now)
        elif batch.status == Status.FINALIZING:
            return writing.step(batch, now)
        else:
            return _finalize(batch, now)
    return True


def end_what_is_over(now: datetime) -> None:
    """Windows that are over, and keys that are good no more: what runs may end, no more begins."""
    open_ones = Batch.objects.filter(status__in=(Status.VALIDATING, Status.IN_PROGRESS), ends_as="")
    open_ones.filter(expires_at__lte=now).update(ends_as=Status.EXPIRED)
    message = "The API key that made the batch was revoked or has expired."
    error = {"code": "invalid_api_key", "line": None, "message": message, "param": None}
    dead = Q(key__revoked_at__isnull=False) | Q(key__expires_at__lte=now)
    ids = list(open_ones.filter(dead).values_list("id", flat=True))
    open_ones.filter(id__in=ids).update(ends_as=Status.FAILED, errors=[error])


def _finalize(batch: Batch, now: datetime) -> bool:
    """No more of its lines run, from now on. False while some still do."""
    rows = Line.objects.filter(batch=batch)
    still = {LineState.RUNNING} if batch.ends_as else {LineState.RUNNING, LineState.PENDING}
    if rows.filter(state__in=still).exists():
        return False
    if batch.in_progress_at is None:  # its file was not read to the end: none of it was asked for
        rows.delete()
        Forecast.objects.filter(batch=batch).delete()
        batch.total = 0
    batch.status, batch.finalizing_at, batch.place = Status.FINALIZING, now, None
    batch.save(update_fields=["status", "finalizing_at", "place", "total"])
    forecasting.close(batch, now)
    return True


def _take(batch_id: str) -> Batch | None:
    """None while another runner has it, or once it is gone."""
    rows = Batch.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
    return (
        rows.select_related("project__organization", "key__project__organization")
        .filter(id=batch_id)
        .first()
    )
