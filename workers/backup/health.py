"""What `stoa doctor` says of backups: whether a good one is there, new enough, and was tried."""

from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from compliance import audit
from compliance.models import AuditEvent, Tombstone
from workers.agent.checks.finding import Finding
from workers.backup import manifest, shelf
from workers.backup.config import Config

LATE = 2.0  # so many times as old as it should be
PROVED_EVERY = timedelta(days=35)
JOURNAL_LATE = timedelta(minutes=5)


def findings(now: datetime, *, local: bool) -> list[Finding]:
    """`local`: an installation for one machine, which may do without."""
    try:
        config = Config.from_env()
    except ImproperlyConfigured as error:
        return [*_restoring(), Finding("backup", False, str(error), "docs/backup.md")]
    if config.folder is None:
        cure = "set STOA_BACKUP_DIR (docs/backup.md)"
        return [*_restoring(), Finding("backup", local, "none is made", cure)]
    return [*_restoring(), _newest(config, now), _keys(config), _journal(now), _proof(now)]


def _restoring() -> list[Finding]:
    if "stoa_restoring" not in connection.introspection.table_names():
        return []
    cure = "begin `stoa backup restore` again, into a clean database"
    return [Finding("restore", False, "a restore into this database was cut off", cure)]


def _newest(config: Config, now: datetime) -> Finding:
    assert config.folder is not None
    cure = f"see {config.folder / 'last.log'}, and `stoa backup create`"
    try:
        newest = shelf.newest(config.folder, manifest.signer(settings.MASTER_KEY))
    except (OSError, ValueError) as error:
        return Finding("backup", False, f"{config.folder}: {error}", "mount it, or make it")
    if newest is None or newest.snapshot_at is None:
        return Finding("backup", False, f"there is no good one in {config.folder}", cure)
    age_h = (now - newest.snapshot_at).total_seconds() / 3600
    text = f"the last good one, {newest.id}, is {age_h:.1f} h old"
    figures = {"age_h": round(age_h, 3)}
    return Finding("backup", age_h <= LATE * config.every_h, text, cure, figures=figures)


def _keys(config: Config) -> Finding:
    text = "no copy of the master key is made" if config.keys_folder is None else "kept elsewhere"
    cure = "set STOA_BACKUP_KEYS_DIR and STOA_BACKUP_KEYS_RECIPIENTS, or keep a copy by hand"
    return Finding("backup keys", config.keys_folder is not None, text, cure)


def _journal(now: datetime) -> Finding:
    late = Tombstone.objects.filter(journaled_at=None, at__lt=now - JOURNAL_LATE).count()
    text = f"{late} tombstones wait for the journal" if late else "up to date"
    return Finding("backup journal", not late, text, "see the worker's log: keep_journal")


def _proof(now: datetime) -> Finding:
    """A trial tells more than any sum. Where it was made elsewhere, the log may not know of it."""
    tried = AuditEvent.objects.filter(log_id=audit.PLATFORM, outcome="success")
    last = tried.filter(action="backup.drill").order_by("-id").first()
    cure = "run `stoa backup drill` where an identity is"
    if last is None:
        return Finding("backup drill", False, "no backup was ever restored for trial", cure)
    age = now - last.recorded_at
    text = f"the last one was {age.days} days ago"
    return Finding("backup drill", age <= PROVED_EVERY, text, cure)
