"""Destroying data keys for good: what they sealed cannot be read any more, here and in backups.

Two people decide: one asks, another approves (`request`, `approve`). The event `data_key.destroy`
is the certificate: the ids of the keys, who asked and who approved, and until when a backup may
still hold a copy. Its tombstone has a restored backup destroy them again before it opens.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import IntegrityError, models, transaction

from compliance import audit, locks
from compliance.keys import boxes, horizon
from compliance.models import DataKey, KeyDestruction, Tombstone
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject

REASONS = ("erasure", "contract_ended", "compromised", "court_order", "retention_over")
TARGETS = {PERSON: "user", ORGANIZATION: "organization"}
ONE_KEY = "data_key"  # the target where a single key was destroyed, and not a subject's


class Refused(Exception):
    """`code` is for programs, the message for people."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code, self.field = code, field


def request(
    *, actor: audit.Actor, subject: Subject, reason_code: str, now: datetime
) -> KeyDestruction:
    """Ask for it; whoever asked cannot approve it. Raises Refused."""
    if reason_code not in REASONS:
        message = f"the reason is one of {', '.join(REASONS)}"
        raise Refused("invalid_reason", message, "reason")
    if not subject.id.startswith(PREFIXES.get(subject.kind, "\0")):
        raise Refused("invalid_subject", "it is of a person or an organization", "subject")
    if boxes.state(subject) == "destroyed":
        raise Refused("key_destroyed", "its keys are destroyed already")
    with transaction.atomic():
        asked = KeyDestruction(
            subject_kind=subject.kind,
            subject_id=subject.id,
            reason_code=reason_code,
            requested_by=actor.id,
            requested_at=now,
        )
        try:
            with transaction.atomic():
                asked.save(force_insert=True)
        except IntegrityError:
            message = "somebody has asked for it already: it waits for another's approval"
            raise Refused("already_requested", message) from None
        _tell(asked, "key_destruction.request", actor, now)
    return asked


def approve(*, actor: audit.Actor, destruction: KeyDestruction, now: datetime) -> KeyDestruction:
    """Destroys them. Raises Refused, where the actor asked for it too."""
    with transaction.atomic():
        asked = _open(destruction)
        if actor.type != "user" or actor.id == asked.requested_by:
            raise Refused("same_person", "another person than the one who asked approves it")
        subject = Subject(asked.subject_kind, asked.subject_id)
        said = [audit.Change("requested_by", None, asked.requested_by)]
        said.append(audit.Change("destruction", None, asked.id))
        asked.event_id = _destroy(subject, actor, asked.reason_code, now, said)
        asked.key_ids = destroyed_of(subject)
        asked.backups_until = horizon.until(now)
        asked.state, asked.decided_by, asked.decided_at = KeyDestruction.DONE, actor.id, now
        asked.save()
    return asked


def refuse(*, actor: audit.Actor, destruction: KeyDestruction, now: datetime) -> KeyDestruction:
    """It stays as it is; whoever asked may take it back so, too. Raises Refused."""
    with transaction.atomic():
        asked = _open(destruction)
        asked.state, asked.decided_by, asked.decided_at = KeyDestruction.REFUSED, actor.id, now
        asked.save()
        _tell(asked, "key_destruction.refuse", actor, now)
    return asked


def destroy(
    *, subjects: Iterable[Subject], actor: audit.Actor, reason_code: str, now: datetime
) -> list[str]:
    """See `keys.destroy`."""
    ids: list[str] = []
    with transaction.atomic():
        for subject in sorted(set(subjects), key=str):
            _destroy(subject, actor, reason_code, now)
            ids += destroyed_of(subject)
    return ids


def destroy_one(*, key: DataKey, actor: audit.Actor, reason_code: str, now: datetime) -> bool:
    """A single key, as of the vault when its time is over; whether it was still there."""
    with transaction.atomic():
        if not _end(DataKey.objects.filter(id=key.id), now):
            return False
        audit.record(
            actor=actor,
            action="data_key.destroy",
            target=audit.Target(ONE_KEY, key.id),
            log=_log(Subject(key.subject_kind, key.subject_id)),
            now=now,
            reason=reason_code,
            change=[audit.Change(key.id, "active", "destroyed"), _horizon(now)],
        )
    return True


def destroyed_of(subject: Subject) -> list[str]:
    found = _of(subject).exclude(destroyed_at=None).exclude(kek="")
    return list(found.order_by("id").values_list("id", flat=True))


def replay(stone: Tombstone, now: datetime) -> bool:
    """Once more, in a restored database, before anything opens."""
    if stone.target_type == ONE_KEY:
        return _end(DataKey.objects.filter(id=stone.target_id), now) > 0
    kind = next(kind for kind, target in TARGETS.items() if target == stone.target_type)
    subject = Subject(kind, stone.target_id)
    done = _end(_of(subject), now)
    _close(subject, now)
    return done > 0


def _destroy(
    subject: Subject,
    actor: audit.Actor,
    reason_code: str,
    now: datetime,
    said: Sequence[audit.Change] = (),
) -> str:
    """The event's id; empty where all was destroyed before. In a transaction."""
    locks.hold(boxes.lock_name(subject))  # whoever makes a key for it comes before or after
    ids = list(_of(subject).filter(destroyed_at=None).order_by("id").values_list("id", flat=True))
    _end(_of(subject), now)
    if not ids and not _close(subject, now):
        return ""
    return audit.record(
        actor=actor,
        action="data_key.destroy",
        target=audit.Target(TARGETS[subject.kind], subject.id),
        log=_log(subject),
        now=now,
        reason=reason_code,
        change=[*(audit.Change(id, "active", "destroyed") for id in ids), _horizon(now), *said],
    )


def _end(keys: models.QuerySet[DataKey], now: datetime) -> int:
    return keys.filter(destroyed_at=None).update(wrapped=None, destroyed_at=now)


def _close(subject: Subject, now: datetime) -> bool:
    """One that never had a key gets none from now on; whether that was so."""
    if _of(subject).exists():
        return False
    DataKey.objects.create(
        subject_kind=subject.kind, subject_id=subject.id, created_at=now, destroyed_at=now
    )
    return True


def _of(subject: Subject) -> models.QuerySet[DataKey]:
    return DataKey.objects.filter(
        subject_kind=subject.kind, subject_id=subject.id, purpose=DataKey.DATA
    )


def _open(destruction: KeyDestruction) -> KeyDestruction:
    asked = KeyDestruction.objects.select_for_update().get(id=destruction.id)
    if asked.state != KeyDestruction.OPEN:
        raise Refused("already_decided", "it was decided already")
    return asked


def _horizon(now: datetime) -> audit.Change:
    until = horizon.until(now)
    return audit.Change("backups_until", None, until.isoformat() if until else None)


def _log(subject: Subject) -> str:
    return subject.id if subject.kind == ORGANIZATION else audit.PLATFORM


def _tell(asked: KeyDestruction, action: str, actor: audit.Actor, now: datetime) -> None:
    subject = Subject(asked.subject_kind, asked.subject_id)
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target(TARGETS[subject.kind], subject.id),
        log=_log(subject),
        now=now,
        reason=asked.reason_code,
        change=[audit.Change("destruction", None, asked.id)],
    )
