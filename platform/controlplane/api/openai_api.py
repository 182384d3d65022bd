"""OpenAI's files and batches, from a request of an authenticated key to its answer.

Shapes, names and errors are OpenAI's, so that its clients take them for granted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec
from django.db.models import Q, QuerySet
from django.utils import timezone

from compliance import audit
from controlplane.api import uploading
from controlplane.batches import access, content, files, forecasting, services
from controlplane.batches.errors import FileTooLarge, StorageFull, TooManyBatches
from controlplane.batches.models import Batch, File
from controlplane.batches.services import Counts
from controlplane.tenancy import access as tenancy_access
from controlplane.tenancy import errors
from controlplane.tenancy.models import ApiKey

_JSON = {"content-type": "application/json"}
_BODY_MAX = 256 << 10  # of a request that is no upload
_LIST_MAX = {"files": 10_000, "batches": 100}
_LIST_DEFAULT = {"files": 1_000, "batches": 20}
_STATUS: tuple[tuple[type[errors.TenancyError], int], ...] = (
    (FileTooLarge, 413),
    (StorageFull, 403),
    (TooManyBatches, 429),
    (errors.NotFound, 404),
    (errors.Forbidden, 403),
    (errors.Conflict, 409),
    (errors.Invalid, 400),
)


class Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


@dataclass(frozen=True)
class Asked:
    """`path` begins with /v1/; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Readable
    key: ApiKey

    @property
    def actor(self) -> audit.Actor:
        return tenancy_access.principal_for_key(self.key).actor

    @property
    def now(self) -> datetime:
        return timezone.now()

    def param(self, name: str) -> str:
        return parse_qs(self.query).get(name, [""])[-1]

    def json(self) -> dict[str, Any]:
        raw = b""
        while piece := self.body.read(1 << 16):
            raw += piece
            if len(raw) > _BODY_MAX:
                raise Refused(413, "request_too_large", f"A body has at most {_BODY_MAX} bytes.")
        try:
            found = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Refused(400, "invalid_json", "The body is not a JSON object.") from None
        return found


@dataclass
class Answer:
    """`content` is JSON, or pieces of a body."""

    content: dict[str, Any] | Iterable[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(_JSON))


class Refused(Exception):
    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})

    def answer(self) -> Answer:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return Answer({"error": error}, self.status, {**_JSON, **self.headers})


def uploads(asked: Asked) -> bool:
    return (asked.method, asked.path) == ("POST", "/v1/files")


def answer(asked: Asked) -> Answer:
    """Raises Refused."""
    parts = asked.path.removeprefix("/v1/").split("/")
    verb, ids = _route(asked.method, parts)
    if verb is None:
        raise Refused(404, "unknown_url", f"Unknown request URL: {asked.method} {asked.path}.")
    try:
        return verb(asked, *ids)
    except errors.TenancyError as error:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        raise Refused(status, error.code, _sentence(error), param=error.field or None) from None


def _route(method: str, parts: list[str]) -> tuple[Callable[..., Answer] | None, list[str]]:
    match [method, *parts]:
        case ["POST", "files"]:
            return _upload, []
        case ["GET", "files"]:
            return _files, []
        case ["GET", "files", id]:
            return _file, [id]
        case ["GET", "files", id, "content"]:
            return _content, [id]
        case ["DELETE", "files", id]:
            return _delete, [id]
        case ["POST", "batches"]:
            return _create, []
        case ["GET", "batches"]:
            return _batches, []
        case ["GET", "batches", id]:
            return _batch, [id]
        case ["POST", "batches", id, "cancel"]:
            return _cancel, [id]
    return None, []


def _sentence(error: errors.TenancyError) -> str:
    return f"{error.message[:1].upper()}{error.message[1:]}."


# --- files ----------------------------------------------------------------------------
def _upload(asked: Asked) -> Answer:
    upload = files.begin(actor=asked.actor, project=asked.key.project, now=asked.now)
    try:
        form = uploading.read(asked.headers.get("content-type", ""), asked.body, upload)
        file = files.create(
            actor=asked.actor,
            upload=upload,
            filename=form.filename,
            purpose=form.purpose,
            kept_s=form.kept_s,
            now=asked.now,
        )
    except BaseException:
        upload.drop()
        raise
    return Answer(_shown(file))


def _files(asked: Asked) -> Answer:
    rows = access.files_of(asked.key.project, asked.now)
    if purpose := asked.param("purpose"):
        rows = rows.filter(purpose=purpose)
    found, more = _page(asked, rows, "files")
    return _listing([_shown(file) for file in found], more)


def _file(asked: Asked, id: str) -> Answer:
    return Answer(_shown(access.file_of(asked.key.project, id, asked.now)))


def _content(asked: Asked, id: str) -> Answer:
    file = access.file_of(asked.key.project, id, asked.now)
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(file.bytes),
        "content-disposition": f'attachment; filename="{file.id}.jsonl"',
    }
    return Answer(content.read(file), 200, headers)


def _delete(asked: Asked, id: str) -> Answer:
    file = access.file_of(asked.key.project, id, asked.now)
    files.delete(actor=asked.actor, file=file, now=asked.now)
    return Answer({"id": id, "object": "file", "deleted": True})


def _shown(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": _unix(file.created_at),
        "expires_at": _unix(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


# --- batches ----------------------------------------------------------------------------
def _create(asked: Asked) -> Answer:
    body = asked.json()
    known = {"input_file_id", "endpoint", "completion_window", "metadata"}
    for name in known - {"metadata"}:
        if not isinstance(body.get(name), str):
            message = f"You must provide `{name}`, a string."
            raise Refused(400, "missing_required_parameter", message, param=name)
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise Refused(400, "invalid_type", "`metadata` must be an object.", param="metadata")
    batch = services.create(
        actor=asked.actor,
        key=asked.key,
        now=asked.now,
        **{name: body[name] for name in known if name in body},
    )
    return Answer(_told([batch])[0])


def _batches(asked: Asked) -> Answer:
    found, more = _page(asked, access.batches_of(asked.key.project), "batches")
    return _listing(_told(found), more)


def _batch(asked: Asked, id: str) -> Answer:
    batch = access.batch_of(asked.key.project, id)
    return Answer(_told([batch])[0])


def _cancel(asked: Asked, id: str) -> Answer:
    batch = access.batch_of(asked.key.project, id)
    batch = services.cancel(actor=asked.actor, batch=batch, now=asked.now)
    return Answer(_told([batch])[0])


def _told(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """As OpenAI has them; beyond that `forecast` is what they take."""
    counted, forecasts = services.counts(batches), forecasting.shown(batches)
    return [
        _batch_facts(batch, counted[batch.id]) | {"forecast": forecasts[batch.id]}
        for batch in batches
    ]


def _batch_facts(batch: Batch, counts: Counts) -> dict[str, Any]:
    times = (
        "in_progress",
        "finalizing",
        "completed",
        "failed",
        "expired",
        "cancelling",
        "cancelled",
    )
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "created_at": _unix(batch.created_at),
        "expires_at": _unix(batch.expires_at),
        **{f"{name}_at": _unix(getattr(batch, f"{name}_at")) for name in times},
        "request_counts": {
            "total": counts.total,
            "completed": counts.completed,
            "failed": counts.failed,
        },
        "metadata": batch.metadata,
    }


# --- lists ----------------------------------------------------------------------------
def _page(asked: Asked, rows: QuerySet[Any], what: str) -> tuple[list[Any], bool]:
    """Newest first unless `order=asc`; from behind `after` on."""
    limit_text = asked.param("limit") or str(_LIST_DEFAULT[what])
    most = _LIST_MAX[what]
    if not (limit_text.isascii() and limit_text.isdigit() and 1 <= int(limit_text[:6]) <= most):
        raise Refused(400, "invalid_value", f"`limit` is from 1 to {most}.", param="limit")
    limit, rising = int(limit_text), asked.param("order") == "asc"
    if after := asked.param("after"):
        if "\0" in after:
            raise Refused(400, "invalid_value", "`after` is no id.", param="after")
        rows = rows.filter(Q(id__gt=after) if rising else Q(id__lt=after))
    found = list(rows.order_by("id" if rising else "-id")[: limit + 1])
    return found[:limit], len(found) > limit


def _listing(data: list[dict[str, Any]], more: bool) -> Answer:
    return Answer(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": more,
        }
    )


def _unix(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
