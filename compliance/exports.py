"""Exports: what somebody asks for of a log and a period, and gets as a signed bundle.

A worker builds what was asked for (`build_waiting`); a bundle is deterministic, so two builders
write the same bytes and a dead one's work is done again. A file may be fetched for seven days.
Who may ask for an export, and who may have it, is the callers' question.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection, transaction

from compliance import audit, locks
from compliance.bundles import assembly, stored_log, writer
from compliance.bundles.kinds import (
    ORGANIZATION,
    PLATFORM,
    Dataset,
    Kind,
    Rows,
    kinds,
    owner,
    register,
    register_about,
    register_kind,
)
from compliance.bundles.tables import Value
from compliance.log import signing
from compliance.log.models import LogCheckpoint
from compliance.models import AuditEvent, Export

__all__ = [
    "KINDS",
    "ORGANIZATION",
    "PLATFORM",
    "PROFILES",
    "Dataset",
    "ExportError",
    "Kind",
    "Rows",
    "Value",
    "register",
    "register_about",
    "register_kind",
]

logger = logging.getLogger(__name__)

KIND = "records"
KINDS = kinds
PROFILES = writer.PROFILES
PROFILE = writer.PSEUDONYMISED  # unless somebody asks for more of people
KEPT = timedelta(days=7)
MAX_REASON = 200
_AT_ONCE = 10
_DRAFTS_KEPT = timedelta(days=1)
Told = Callable[[int], None]
TELL_S = 2.0  # between two words about progress


class ExportError(Exception):
    """`code` is for programs, the message for people."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


def request(
    *,
    actor: audit.Actor,
    log: str,
    reason: str,
    start: datetime,
    end: datetime,
    now: datetime,
    region: str = "",
    kind: str = KIND,
    profile: str = PROFILE,
    about: str = "",
) -> Export:
    """Ask for a bundle (`KINDS`, `PROFILES`) of a log with start <= time < end.

    `about`: the id of what it is about, for kinds that need one. Whether the actor may know of
    that thing is the caller's question; that it is of this log, the kind's.

    Raises ExportError.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        message = f"say why, in 1 to {MAX_REASON} printable characters"
        raise ExportError("invalid_reason", message, "reason")
    if not start < end:
        raise ExportError("invalid_period", "the period ends before it begins", "end")
    for field, value, known in (("kind", kind, kinds), ("profile", profile, PROFILES)):
        if value not in known:
            message = f"no such {field}: it is one of {', '.join(known)}"
            raise ExportError(f"invalid_{field}", message, field)
    _refuse_other(kinds[kind], log, about)
    with transaction.atomic():
        export = Export.objects.create(
            log_id=log,
            kind=kind,
            profile=profile,
            reason=reason,
            about=about,
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
                audit.Change("kind", None, kind),
                audit.Change("profile", None, profile),
                *([audit.Change("about", None, about)] if about else []),
                audit.Change("period_start", None, audit.stamp(start)),
                audit.Change("period_end", None, audit.stamp(end)),
            ],
            personal={"reason": reason},
        )
    return export


def _refuse_other(kind: Kind, log: str, about: str) -> None:
    if owner(log) not in kind.of:
        raise ExportError("invalid_kind", f"{kind.name} is made of the other kind of log", "kind")
    if not kind.about and about:
        raise ExportError("invalid_about", f"{kind.name} is about no single thing", "about")
    prefix, _, rest = about.partition("_")
    if kind.about and (prefix not in kind.about or not rest):
        wanted = " or ".join(f"{one}_…" for one in kind.about)
        raise ExportError("invalid_about", f"name what it is about: {wanted}", "about")
    if kind.about and kind.known and not kind.known(log, about):
        raise ExportError("invalid_about", f"nothing of this log is called {about}", "about")


def build(export_id: str, now: datetime, told: Told | None = None) -> Export:
    """Write the ZIP of an export and note its sums; a second call finds it done.

    What happened after the export was asked for is left out, so that a rebuild, on a host that
    lacks the file, agrees. Two builders at once write the same bytes; one of them is recorded.
    `told` hears now and then how many rows and files are written.
    Raises ExportError where records of the period have come in late and a rebuild differs, and
    stored_log.NotReady and signing.SignerAway, which pass.
    """
    export = Export.objects.get(id=export_id)
    if export.completed_at is not None and archive(export).exists():
        return export
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{export.id}.") as draft:
        export.choice = choice = export.choice or _choice(export)
        head = LogCheckpoint.objects.get(id=choice["head"])
        with _Progress(export.id, told) as progress:
            whole, manifest_sha256 = assembly.build(
                export, kinds[export.kind], head, choice["meta"], Path(draft), progress
            )
        if export.completed_at is not None and manifest_sha256 != export.manifest_sha256:
            message = "records of this period came in later: ask for a new export"
            raise ExportError("export_differs", message)
        size = whole.stat().st_size
        whole.replace(archive(export))
    with transaction.atomic():
        done = Export.objects.filter(id=export.id, completed_at=None).update(
            completed_at=now,
            manifest_sha256=manifest_sha256,
            path=archive(export).name,
            size_bytes=size,
            failure="",
            choice=choice,
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
    cannot be built says so in `failure` and is not tried again; one whose events still wait for
    the log's signed head is tried in the next round.
    """
    waiting = Export.objects.filter(completed_at=None, failure="").order_by("id")
    built = 0
    with locks.try_hold("compliance.exports") as alone:
        for export_id in list(waiting.values_list("id", flat=True)[:_AT_ONCE]) if alone else ():
            try:
                build(export_id, now)
                built += 1
            except (stored_log.NotReady, signing.SignerAway) as error:
                logger.info("export %s waits: %s", export_id, error)
            except Exception as error:
                logger.exception("export %s could not be built", export_id)
                words = f"could not be built: {type(error).__name__}"
                Export.objects.filter(id=export_id, completed_at=None).update(failure=words)
        if alone:
            _drop_drafts(now)
    return built


def expired(export: Export, now: datetime) -> bool:
    return export.completed_at is not None and now >= export.completed_at + KEPT


def status(export: Export, now: datetime) -> str:
    """building | complete | expired | failed"""
    if expired(export, now):
        return "expired"
    if export.completed_at:
        return "complete"
    return "failed" if export.failure else "building"


def forget(before: datetime, held: Collection[str]) -> tuple[int, int]:
    """Remove bundles that were complete before then; how many went, and how many logs in `held`
    keep. Their rows stay: who took what away, and why."""
    done = kept = 0
    for path in _folder().glob("*.zip"):
        old = Export.objects.filter(id=path.stem, completed_at__lte=before)
        if (log := old.values_list("log_id", flat=True).first()) is None:
            continue
        if log in held:
            kept += 1
        else:
            path.unlink(missing_ok=True)
            done += 1
    return done, kept


def _drop_drafts(now: datetime) -> None:
    """What builders that died left."""
    for draft in _folder().glob("exp_*.*/"):
        if draft.stat().st_mtime < (now - _DRAFTS_KEPT).timestamp():
            shutil.rmtree(draft, ignore_errors=True)


def _choice(export: Export) -> dict[str, Any]:
    """What a rebuild has to take again: the log as it was signed, and its place in the meta log."""
    head = stored_log.covering(export.log_id, assembly.cut(export))
    return {"head": head.id, "meta": stored_log.in_meta(head)}


class _Progress:
    """Tells, by a connection of its own, how many rows were written; the build's own transaction
    only reads. Whoever builds an export within seconds opens none."""

    def __init__(self, export_id: str, told: Told | None) -> None:
        self._export_id, self._told = export_id, told
        self._rows, self._told_at = 0, time.monotonic()
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection:
            self._connection.close()

    def __call__(self, rows: int) -> None:
        self._rows += rows
        if self._told and self._rows % 64 == 0:
            self._told(self._rows)
        if self._rows % 64 == 0 and time.monotonic() - self._told_at > TELL_S:
            self._told_at = time.monotonic()
            if self._connection is None:
                given = connection.get_connection_params()
                self._connection = psycopg.connect(**given, autocommit=True)
            self._connection.execute(
                "UPDATE compliance_export SET rows_done = %s WHERE id = %s",
                [self._rows, self._export_id],
            )


def archive(export: Export) -> Path:
    """Where the ZIP of an export lies once it is complete."""
    return _folder() / f"{export.id}.zip"


def downloaded(*, actor: audit.Actor, export: Export, now: datetime) -> Path:
    """The file of a complete export, noting that it is handed out. Else raises ExportError:
    export_not_ready, export_expired, export_differs.

    A worker may have built it on another host: then it is built here again.
    """
    if export.completed_at is None:
        raise ExportError("export_not_ready", "this export has not been built yet")
    if expired(export, now):
        raise ExportError("export_expired", "after seven days a new export has to be asked for")
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
