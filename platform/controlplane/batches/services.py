"""The verbs of batches, and how far they have got."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count

from compliance import audit, ids
from controlplane.batches import access, content, files
from controlplane.batches.errors import BatchOver, BatchRefused, TooManyBatches
from controlplane.batches.models import ENDED, Batch, Line, LineState, Status
from controlplane.tenancy import events
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import ApiKey, Project

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
WINDOW = "24h"
OPEN_MAX = 100  # batches under way of one project
_PAIRS, _NAME_CHARS, _VALUE_CHARS = 16, 64, 512  # of metadata, as OpenAI bounds it


@dataclass(frozen=True)
class Counts:
    """Of a batch's lines; those of the error file are `failed`."""

    total: int
    completed: int
    failed: int


def context(batch_id: str) -> str:
    """What a batch's key is sealed for."""
    return f"batch:{batch_id}"


def create(
    *,
    actor: audit.Actor,
    key: ApiKey,
    input_file_id: str,
    endpoint: str,
    completion_window: str,
    now: datetime,
    metadata: Mapping[str, str] | None = None,
) -> Batch:
    """Its lines are looked at later, by a runner. Raises BatchRefused, NotFound, TooManyBatches."""
    project = key.project
    if endpoint not in URLS:
        message = f"endpoint must be one of {', '.join(URLS)}"
        raise BatchRefused(message, code="invalid_endpoint", field="endpoint")
    if completion_window != WINDOW:
        message = f"completion_window must be {WINDOW}"
        raise BatchRefused(message, code="invalid_completion_window", field="completion_window")
    _check(metadata)
    try:
        file = access.file_of(project, input_file_id, now)
    except NotFound as error:
        raise NotFound("file", code=error.code, field="input_file_id") from None
    if file.purpose != files.INPUT:
        message = f"the input file's purpose is not {files.INPUT!r}"
        raise BatchRefused(message, code="invalid_purpose", field="input_file_id")
    batch_id = ids.new("bat")
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(id=project.id)
        if Batch.objects.filter(project=project).exclude(status__in=ENDED).count() >= OPEN_MAX:
            raise TooManyBatches(f"a project has at most {OPEN_MAX} batches under way")
        batch = Batch.objects.create(
            id=batch_id,
            project=project,
            key=key,
            endpoint=endpoint,
            completion_window=completion_window,
            metadata=dict(metadata) if metadata is not None else None,
            input_file_id=file.id,
            sealed_key=content.new_key(context(batch_id), project.id),
            created_at=now,
            expires_at=now + timedelta(seconds=settings.BATCH_WINDOW_S),
        )
        _record(batch, actor, "batch.create", now, audit.Change("endpoint", None, endpoint))
    return batch


def cancel(*, actor: audit.Actor, batch: Batch, now: datetime) -> Batch:
    """No further line is begun; what is done is kept. Again changes nothing. Raises BatchOver."""
    with transaction.atomic():
        batch = locked(batch.id)
        if batch.status in ENDED or batch.status == Status.FINALIZING:
            raise BatchOver(f"a batch that is {batch.status} cannot be cancelled")
        if batch.status == Status.CANCELLING:
            return batch
        batch.status, batch.cancelling_at = Status.CANCELLING, now
        batch.ends_as = batch.ends_as or Status.CANCELLED
        batch.save(update_fields=["status", "cancelling_at", "ends_as"])
        _record(batch, actor, "batch.cancel", now)
    return batch


def counts(batches: Iterable[Batch]) -> dict[str, Counts]:
    """By batch: counted for those under way, in one look."""
    batches = list(batches)
    live = [batch.id for batch in batches if batch.status not in ENDED]
    rows = Line.objects.filter(batch_id__in=live, state__in=(LineState.DONE, LineState.FAILED))
    found = {
        (row["batch_id"], row["state"]): row["many"]
        for row in rows.values("batch_id", "state").order_by().annotate(many=Count("id"))
    }
    return {
        batch.id: Counts(
            batch.total,
            batch.completed + found.get((batch.id, LineState.DONE), 0),
            batch.failed + found.get((batch.id, LineState.FAILED), 0),
        )
        for batch in batches
    }


def locked(batch_id: str) -> Batch:
    """In a transaction. Raises NotFound."""
    rows = Batch.objects.select_for_update(no_key=True, of=("self",)).filter(id=batch_id)
    found = rows.select_related("project__organization", "key").first()
    if found is None:
        raise NotFound("batch", code="batch_not_found")
    return found


def tell_end(batch: Batch, counted: Counts, now: datetime) -> None:
    """The event of a batch that has ended, however it did."""
    changes = [
        audit.Change("status", None, batch.status),
        audit.Change("completed", None, counted.completed),
        audit.Change("failed", None, counted.failed),
    ]
    _record(batch, audit.SYSTEM, "batch.end", now, *changes)


def _check(metadata: Mapping[str, str] | None) -> None:
    if metadata is None:
        return
    fits = len(metadata) <= _PAIRS and all(
        isinstance(value, str)
        and len(name) <= _NAME_CHARS
        and len(value) <= _VALUE_CHARS
        and "\0" not in name + value
        for name, value in metadata.items()
    )
    if not fits:
        message = (
            f"metadata has at most {_PAIRS} texts, each of at most {_VALUE_CHARS} characters under"
            f" a name of at most {_NAME_CHARS}"
        )
        raise BatchRefused(message, code="invalid_metadata", field="metadata")


def _record(
    batch: Batch, actor: audit.Actor, action: str, now: datetime, *change: audit.Change
) -> None:
    target = audit.Target("batch", batch.id)
    events.record(batch.project, target, action, actor=actor, now=now, change=change)
