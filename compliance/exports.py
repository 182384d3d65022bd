"""Exports: the datasets of a log and a period as CSV and JSONL, with a manifest of SHA-256 sums.

A ZIP is deterministic: the same rows give the same bytes. Entries are stored, not compressed, and
have a fixed time; the manifest is canonical JSON. Rows go through files, never through memory.
Who may ask for an export, and who may have it, is the callers' question.
"""

import csv
import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import rfc8785
from django.conf import settings
from django.db import connection, transaction

from compliance import audit, locks
from compliance.models import AuditEvent, Export

logger = logging.getLogger(__name__)

FORMAT = "stoa-export/1"
KIND = "records"
MAX_REASON = 200
_CHUNK = 1 << 16
_AT_ONCE = 10
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a ZIP can name

Value = str | int | bool | Decimal | datetime | None
Rows = Callable[[str, datetime, datetime], Iterable[Sequence[Value]]]

_README = """Records of {log}, from {start} to {end} (the end is not included).

data/*.csv    RFC 4180, UTF-8. A text that begins with = + - @ TAB or CR has a ' before it, so
              that a spreadsheet shows it and does not run it.
data/*.jsonl  the same rows, one canonical JSON object (RFC 8785) a line, texts as they are.
manifest.json what is in the bundle, with rows, sizes and SHA-256 sums. Check it with:
              python3 -c 'import json,hashlib;[print(f["path"], hashlib.sha256(
              open(f["path"],"rb").read()).hexdigest()==f["sha256"])
              for f in json.load(open("manifest.json"))["files"]]'

The sums support evidence that the files are those that were made; they do not say who made them.
"""


class ExportError(Exception):
    """`code` is for programs, the message for people."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


@dataclass(frozen=True)
class Dataset:
    name: str
    columns: tuple[str, ...]
    rows: Rows


@dataclass(frozen=True)
class _File:
    path: str
    source: Path
    sha256: str
    size: int
    rows: int | None = None

    def entry(self) -> dict[str, Any]:
        said = {"path": self.path, "size": self.size, "sha256": self.sha256}
        return said if self.rows is None else said | {"rows": self.rows}


_datasets: dict[str, Dataset] = {}


def register(name: str, columns: Sequence[str], rows: Rows) -> None:
    """A room offers a dataset: `rows(log, start, end)` yields tuples in the order of `columns`.

    Rows must come in a fixed order and be read as they are asked for.
    """
    _datasets[name] = Dataset(name, tuple(columns), rows)


def request(
    *,
    actor: audit.Actor,
    log: str,
    reason: str,
    start: datetime,
    end: datetime,
    now: datetime,
    region: str = "",
) -> Export:
    """Ask for the records of a log with start <= time < end. Raises ExportError."""
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        message = f"say why, in 1 to {MAX_REASON} printable characters"
        raise ExportError("invalid_reason", message, "reason")
    if not start < end:
        raise ExportError("invalid_period", "the period ends before it begins", "end")
    with transaction.atomic():
        export = Export.objects.create(
            log_id=log,
            kind=KIND,
            reason=reason,
            requested_by=actor.id,
            period_start=start,
            period_end=end,
            created_at=now,
        )
        audit.record(
            actor=actor,
            action="export.request",
            target=audit.Target("export", export.id),
            log=log,
            now=now,
            region=region,
            change=[
                audit.Change("period_start", None, audit.stamp(start)),
                audit.Change("period_end", None, audit.stamp(end)),
            ],
            personal={"reason": reason},
        )
    return export


def build(export_id: str, now: datetime) -> Export:
    """Write the ZIP of an export and note its sums; a second call finds it done.

    What happened after the export was asked for is left out, so that a rebuild, on a host that
    lacks the file, agrees. Two builders at once write the same bytes; one of them is recorded.
    Raises ExportError where records of the period have come in late and a rebuild differs.
    """
    export = Export.objects.get(id=export_id)
    if export.completed_at is not None and archive(export).exists():
        return export
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{export.id}.") as draft:
        manifest_sha256 = _write(export, Path(draft))
        if export.completed_at is not None and manifest_sha256 != export.manifest_sha256:
            message = "records of this period came in later: ask for a new export"
            raise ExportError("export_differs", message)
        whole = Path(draft) / "bundle.zip"
        size = whole.stat().st_size
        whole.replace(archive(export))
    with transaction.atomic():
        done = Export.objects.filter(id=export.id, completed_at=None).update(
            completed_at=now,
            manifest_sha256=manifest_sha256,
            path=archive(export).name,
            size_bytes=size,
            failure="",
        )
        if done:
            audit.record(
                actor=audit.SYSTEM,
                action="export.complete",
                target=audit.Target("export", export.id),
                log=export.log_id,
                now=now,
                region=_region(export),
                change=[
                    audit.Change("manifest_sha256", None, manifest_sha256),
                    audit.Change("size_bytes", None, size),
                ],
            )
    export.refresh_from_db()
    return export


def build_waiting(now: datetime) -> int:
    """Build what was asked for and is not there; returns how many. For a worker, repeatedly.

    One builder at a time, so that a long export does not draw in every worker. An export that
    cannot be built says so in `failure` and is not tried again.
    """
    waiting = Export.objects.filter(completed_at=None, failure="").order_by("id")
    built = 0
    with locks.try_hold("compliance.exports") as alone:
        for export_id in list(waiting.values_list("id", flat=True)[:_AT_ONCE]) if alone else ():
            try:
                build(export_id, now)
                built += 1
            except Exception as error:
                logger.exception("export %s could not be built", export_id)
                words = f"could not be built: {type(error).__name__}"
                Export.objects.filter(id=export_id, completed_at=None).update(failure=words)
    return built


def archive(export: Export) -> Path:
    """Where the ZIP of an export lies once it is complete."""
    return _folder() / f"{export.id}.zip"


def downloaded(*, actor: audit.Actor, export: Export, now: datetime) -> Path:
    """The file of a complete export, noting that it is handed out. Else raises ExportError.

    A worker may have built it on another host: then it is built here again.
    """
    if export.completed_at is None:
        raise ExportError("export_not_ready", "this export has not been built yet")
    build(export.id, now)
    audit.record(
        actor=actor,
        action="export.download",
        target=audit.Target("export", export.id),
        log=export.log_id,
        now=now,
        region=_region(export),
    )
    return archive(export)


def _region(export: Export) -> str:
    """Where it was asked for: this room knows logs, not organizations."""
    asked = AuditEvent.objects.filter(log_id=export.log_id, action="export.request")
    return asked.filter(target_id=export.id).values_list("region", flat=True).first() or ""


def _folder() -> Path:
    return Path(settings.VAR) / "exports"


def _write(export: Export, draft: Path) -> str:
    """The bundle in `draft`/bundle.zip; returns the manifest's SHA-256."""
    end = min(export.period_end, export.created_at)
    files: list[_File] = []
    with _snapshot():
        for name in sorted(_datasets):
            files += _tables(_datasets[name], export.log_id, export.period_start, end, draft)
    words = {"log": export.log_id, "start": audit.stamp(export.period_start)}
    readme = _README.format(end=audit.stamp(end), **words)
    files.append(_text("README.md", readme.encode(), draft))
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "id": export.id,
        "kind": export.kind,
        "log": export.log_id,
        "requested_by": export.requested_by,
        "requested_at": audit.stamp(export.created_at),
        "period": {
            "start": audit.stamp(export.period_start),
            "end": audit.stamp(export.period_end),
            "cut_at": audit.stamp(end),
        },
        "files": [file.entry() for file in sorted(files, key=lambda file: file.path)],
    }
    head = _text("manifest.json", rfc8785.dumps(manifest), draft)
    _pack([head, *sorted(files, key=lambda file: file.path)], draft / "bundle.zip")
    return head.sha256


@contextmanager
def _snapshot() -> Iterator[None]:
    """All datasets tell of the same moment. (Inside another transaction: of that one's view.)"""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def _tables(dataset: Dataset, log: str, start: datetime, end: datetime, draft: Path) -> list[_File]:
    table, lines = draft / f"{dataset.name}.csv", draft / f"{dataset.name}.jsonl"
    count = 0
    with ExitStack() as stack:
        sheet_file = stack.enter_context(table.open("w", encoding="utf-8", newline=""))
        lines_file = stack.enter_context(lines.open("wb"))
        sheet = csv.writer(sheet_file)
        sheet.writerow(dataset.columns)
        for row in dataset.rows(log, start, end):
            sheet.writerow([_cell(value) for value in row])
            plain: dict[str, Any] = dict(zip(dataset.columns, map(_plain, row), strict=True))
            lines_file.write(rfc8785.dumps(plain) + b"\n")
            count += 1
    return [_file(f"data/{source.name}", source, count) for source in (table, lines)]


def _plain(value: Value) -> str | int | bool | None:
    """As JSON has it: exact numbers with a fraction are strings, times are UTC."""
    if isinstance(value, datetime):
        return audit.stamp(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def _cell(value: Value) -> str | int | bool | None:
    """As a spreadsheet may have it: what a person typed never begins a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return _plain(value)


def _text(path: str, content: bytes, draft: Path) -> _File:
    source = draft / path
    source.write_bytes(content)
    return _file(path, source)


def _file(path: str, source: Path, rows: int | None = None) -> _File:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _File(path, source, digest, source.stat().st_size, rows)


def _pack(files: Iterable[_File], target: Path) -> None:
    with open(target, "xb", opener=_private) as whole, zipfile.ZipFile(whole, "w") as bundle:
        for file in files:
            entry = zipfile.ZipInfo(file.path, _EPOCH)
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o100644 << 16
            entry.file_size = file.size
            with file.source.open("rb") as source, bundle.open(entry, "w") as stored:
                shutil.copyfileobj(source, stored, _CHUNK)
        bundle.close()
        whole.flush()
        os.fsync(whole.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
