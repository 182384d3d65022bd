"""New versions of the key-encryption key, and data keys moved to them while everything goes on.

A rotation makes a version; from then on it wraps, and what older ones wrapped still opens. `rewrap`
takes data keys over, a batch a transaction, without touching what they sealed: killed anywhere, the
next round finds the rest. Versions are noted as the KMS tells them, so a rotation that somebody
made in the KMS itself leaves its event too.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import models, transaction

from compliance import audit
from compliance.keys import horizon, kms
from compliance.keys.kms import KeyDestroyed, KmsAway
from compliance.keys.passphrase import FileKms
from compliance.keys.transit import TransitKms
from compliance.models import DataKey, KekVersion
from compliance.sealing import SealBroken

KEK_MOST = timedelta(days=365)  # then `stoa doctor` asks for another version
BATCH = 200
RETIRE_AFTER = timedelta(hours=1)  # longer than any transaction that began before

log = logging.getLogger(__name__)


class Refused(Exception):
    """`code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Progress:
    """How many data keys were rewrapped, how many wait, and the newest version."""

    done: int
    left: int
    kek: str


def init(*, now: datetime) -> bool:
    """A KMS's first version, where it has none. Raises KmsAway, also where data keys are wrapped
    by one that is lost: nothing takes its place unasked."""
    driver = kms.current()
    assert isinstance(driver, FileKms | TransitKms)
    try:
        driver.versions()
    except KmsAway:
        if DataKey.objects.filter(destroyed_at=None, kek__startswith=f"{driver.name}/").exists():
            raise
    made = driver.create(now)
    note_versions(now=now)
    return made


def rotate(*, actor: audit.Actor, now: datetime) -> str:
    """The newest version from now on; `rewrap` moves what the older ones wrap. Raises KmsAway."""
    kek = kms.current().rotate(now)
    note_versions(now=now, actor=actor)
    return kek


def note_versions(*, now: datetime, actor: audit.Actor = audit.SYSTEM) -> list[str]:
    """Versions that were not known, each with its event. Raises KmsAway."""
    found = kms.current().versions()
    known = set(KekVersion.objects.values_list("kek", flat=True))
    fresh = []
    for version in found:
        if version.kek in known:
            continue
        with transaction.atomic():
            _, made = KekVersion.objects.get_or_create(
                kek=version.kek, defaults={"created_at": version.created_at, "noted_at": now}
            )
            if made:
                fresh.append(version.kek)
                _tell("kms.rotate", version.kek, actor, now, [audit.Change("made", None, True)])
    return fresh


def rewrap(*, now: datetime, limit: int = BATCH) -> Progress:
    """All that an older version wraps, in batches of their own transactions. Raises KmsAway."""
    note_versions(now=now)
    newest = kms.current().versions()[-1].kek
    done, after = 0, ""
    while True:
        with transaction.atomic():
            waiting = _waiting(newest).filter(id__gt=after).order_by("id")
            batch = list(waiting.select_for_update(skip_locked=True)[:limit])
            for key in batch:
                done += _moved(key, now)
        if not batch:
            break
        after = batch[-1].id
    left = _waiting(newest).count()
    _settle(newest, now)
    return Progress(done, left, newest)


def retire(*, kek: str, actor: audit.Actor, now: datetime) -> None:
    """Destroy a version, and what is older, in the KMS. A backup from before it was rewrapped opens
    no more, so that is refused while one may be kept. Raises Refused, KmsAway."""
    version = KekVersion.objects.filter(kek=kek, retired_at=None).first()
    if version is None:
        raise Refused("unknown_version", f"there is no version {kek}")
    older = [kek, *_older(kek)]
    if DataKey.objects.filter(kek__in=older, destroyed_at=None).exists():
        raise Refused("in_use", "data keys are wrapped by it: they are rewrapped first")
    wait = max(horizon.kept_for() or RETIRE_AFTER, RETIRE_AFTER)
    if version.rewrapped_at is None or version.rewrapped_at + wait > now:
        since = version.rewrapped_at or now
        message = f"backups that need it may be kept until {since + wait:%Y-%m-%d %H:%M}"
        raise Refused("backups_need_it", message)
    kms.of(kek).retire(kek, now)
    with transaction.atomic():
        KekVersion.objects.filter(kek__in=older, retired_at=None).update(retired_at=now)
        _tell("kms.retire", kek, actor, now, [audit.Change("retired", False, True)])


def waiting() -> int:
    """Data keys that an older version wraps. Raises KmsAway."""
    return _waiting(kms.current().versions()[-1].kek).count()


def _waiting(newest: str) -> models.QuerySet[DataKey]:
    return DataKey.objects.filter(destroyed_at=None).exclude(kek=newest)


def _moved(key: DataKey, now: datetime) -> int:
    """1 where it was rewrapped; one that does not open stays, and is told of."""
    assert key.wrapped is not None
    theirs, ours, wrapped = kms.of(key.kek), kms.current(), bytes(key.wrapped)
    try:
        if theirs is ours:
            key.kek, key.wrapped = ours.rewrap(key.kek, wrapped, key.context)
        else:
            secret = theirs.unwrap(key.kek, wrapped, key.context)
            key.kek, key.wrapped = ours.wrap(secret, key.context)
    except (SealBroken, KeyDestroyed) as error:
        log.error("the data key %s does not open: %s", key.id, type(error).__name__)
        return 0
    key.rewrapped_at = now
    key.save(update_fields=("kek", "wrapped", "rewrapped_at"))
    return 1


def _settle(newest: str, now: datetime) -> None:
    """Versions that wrap nothing any more are marked, once each with an event."""
    for version in KekVersion.objects.filter(rewrapped_at=None).exclude(kek=newest):
        if DataKey.objects.filter(kek=version.kek, destroyed_at=None).exists():
            continue
        with transaction.atomic():
            mine = KekVersion.objects.filter(kek=version.kek, rewrapped_at=None)
            if mine.update(rewrapped_at=now):
                moved = DataKey.objects.filter(kek=newest, destroyed_at=None).count()
                change = [audit.Change("wrapped_by", version.kek, newest)]
                change.append(audit.Change("data_keys", None, moved))
                _tell("data_key.rewrap", version.kek, audit.SYSTEM, now, change)


def _older(kek: str) -> list[str]:
    place, _, number = kek.rpartition("/")
    known = KekVersion.objects.filter(kek__startswith=f"{place}/", retired_at=None)
    names = known.values_list("kek", flat=True)
    return [name for name in names if int(name.rpartition("/")[2]) < int(number)]


def _tell(
    action: str, kek: str, actor: audit.Actor, now: datetime, change: list[audit.Change]
) -> None:
    target = audit.Target("kek", kek)
    audit.record(
        actor=actor, action=action, target=target, log=audit.PLATFORM, now=now, change=change
    )
