"""Backups as verbs of the house: with its settings, its database and its audit log."""

import logging
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from compliance import audit
from workers.backup import envelope, journal, making, manifest, reopening, restoring, shelf
from workers.backup.config import Config
from workers.backup.making import BackupError, Told, silent
from workers.backup.manifest import Manifest
from workers.backup.restoring import Report

log = logging.getLogger(__name__)


def create(config: Config, *, now: datetime, told: Told = silent) -> Manifest:
    """A backup, and those gone whose time is over. Raises BackupError, shelf.Busy and more."""
    if config.folder is None:
        raise BackupError("set STOA_BACKUP_DIR: there is nowhere to put a backup")
    signer = manifest.signer(settings.MASTER_KEY)
    with shelf.alone(config.folder):
        ship(config, now=now)
        uploads = Path(settings.UPLOADS_DIR) if config.uploads else None
        made = making.make(config, master_key=settings.MASTER_KEY, uploads=uploads, told=told)
        # Nothing older goes before the new one was read back.
        written = shelf.find(config.folder, made.id, signer)
        manifest.check(written.folder, made)
        gone = shelf.prune(config.folder, config.keys_folder, config.keep, signer)
    _record(
        "backup.create",
        made.id,
        now,
        recovery_point=made.snapshot_at,
        bytes=sum(file.size for file in made.files),
        keys=made.keys is not None,
    )
    for id in gone:
        _record("backup.delete", id, now)
    return made


def ship(config: Config, *, now: datetime) -> int:
    """What no backup may bring back goes into the journal. Raises BackupError, OSError."""
    if config.journal is None:
        raise BackupError("set STOA_BACKUP_DIR or STOA_BACKUP_JOURNAL_DIR")
    return journal.ship(config.journal, now)


def reopen(
    *, backup_id: str, recovery_point: datetime, journal: Path | None, now: datetime
) -> dict[str, Any]:
    """Raises JournalBroken, tombstones.UnknownEnd: then the database stays shut."""
    done = reopening.reopen(
        backup_id=backup_id,
        snapshot_at=recovery_point,
        stones=reopening.stones(journal),
        now=now,
    )
    return asdict(done)


def note_drill(report: Report, *, now: datetime) -> None:
    _record(
        "backup.drill",
        report.backup,
        now,
        recovery_point=report.recovery_point,
        lost_s=report.lost_s,
        took_s=report.took_s,
        phases_s=report.phases_s,
        reopened=report.reopened,
    )


def verify(config: Config, id: str, identity: Path, *, now: datetime, told: Told = silent) -> None:
    """A trial restore where backups are made: for who keeps an identity there all the same."""
    assert config.folder is not None
    entry = shelf.find(config.folder, id, manifest.signer(settings.MASTER_KEY))
    source = restoring.Source(entry, envelope.identities(identity), {}, None)
    note_verified(id, restoring.verified(source, now=now, told=told).document(), now=now)


def note_verified(id: str, document: dict[str, Any], *, now: datetime) -> None:
    known = ("opened", "phases_s", "took_s", "rows")
    _record("backup.verify", id, now, **{key: document[key] for key in known if key in document})


def _record(action: str, id: str, now: datetime, **facts: Any) -> None:
    audit.record(
        actor=audit.SYSTEM,
        action=action,
        target=audit.Target("backup", id),
        log=audit.PLATFORM,
        now=now,
        change=[audit.Change(name, None, value) for name, value in facts.items()],
    )
