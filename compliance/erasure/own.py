"""This room's own stores: openings of events, bundles, subscriptions, the register."""

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet

from compliance import audit, keys, sealing
from compliance.erasure.models import Erasure, State
from compliance.keys import horizon
from compliance.keys.kms import KeyDestroyed
from compliance.log.models import LogSubscription
from compliance.models import AuditEvent, EventSecret, Export
from compliance.privacy import holds, stores
from compliance.privacy.models import ProcessingContact, ProcessingVersion
from compliance.privacy.stores import Found, Outcome
from compliance.subject_requests import clock
from compliance.subject_requests.models import SubjectRequest
from compliance.subjects import ORGANIZATION, PERSON, Subject

# Of the request that an event came with: about whoever acted, not about whom it concerns.
_OF_ACTOR = "request."
REGISTER_KEPT_MONTHS = 60


class Openings(stores.Base):
    """Personal values of events: gone with their rows, and with the key that they are sealed by."""

    place = "database"
    order = 80
    moves = True
    tables: tuple[str, ...] = ("compliance_eventsecret",)

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"compliance.openings/{kind}", kind

    def _rows(self, subject: Subject) -> QuerySet[EventSecret]:
        if subject.kind == ORGANIZATION:
            own = AuditEvent.objects.filter(Q(log_id=subject.id) | Q(target_id=subject.id))
            return EventSecret.objects.filter(event_id__in=own.values("id"))
        requests = SubjectRequest.objects.filter(subject_id=subject.id).values("id")
        about = AuditEvent.objects.filter(Q(target_id=subject.id) | Q(target_id__in=requests))
        acted = AuditEvent.objects.filter(actor_id=subject.id)
        of_others = acted.filter(target_type="user").exclude(target_id=subject.id)
        mine = acted.exclude(id__in=of_others.values("id"))
        return EventSecret.objects.filter(
            Q(event_id__in=mine.values("id"))
            | Q(event_id__in=of_others.values("id"), path__startswith=_OF_ACTOR)
            | (Q(event_id__in=about.values("id")) & ~Q(path__startswith=_OF_ACTOR))
        )

    def find(self, subject: Subject) -> Found:
        count = self._rows(subject).count()
        return Found(count, ("compliance_eventsecret.ciphertext",) if count else ())

    def export(self, subject: Subject) -> Iterator[dict[str, Any]]:
        if subject.kind != PERSON:
            return
        for row in self._rows(subject).order_by("event_id", "path").iterator(chunk_size=500):
            event = AuditEvent.objects.get(id=row.event_id)
            try:
                _, value = audit.unsealed(row, event)
            except (sealing.SealBroken, KeyDestroyed):
                continue
            yield {
                "event": event.id,
                "at": stores.plain(event.recorded_at),
                "action": event.action,
                "what": row.path,
                "value": value,
            }

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        count, _ = self._rows(subject).delete()
        return Outcome(stores.DELETE, count)


class Bundles(stores.Base):
    """Exports that may hold personal values of theirs, and the reasons that they typed."""

    place = "files"
    order = 70
    moves = True
    tables: tuple[str, ...] = ("compliance_export",)

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"compliance.exports/{kind}", kind

    def _reasons(self, subject: Subject) -> QuerySet[Export]:
        own = Q(requested_by=subject.id) | Q(about=subject.id) | Q(log_id=subject.id)
        return Export.objects.filter(own).exclude(reason=stores.ERASED)

    def _files(self, subject: Subject) -> list[Path]:
        """Full ones of each log that events of theirs are in, and whatever is about them."""
        events = AuditEvent.objects.filter(Q(actor_id=subject.id) | Q(target_id=subject.id))
        logs = {*events.order_by().values_list("log_id", flat=True).distinct(), subject.id}
        full = Export.objects.filter(Q(profile="full", log_id__in=logs) | Q(about=subject.id))
        names = (f"{id}.zip" for id in full.order_by("id").values_list("id", flat=True))
        folder = Path(settings.VAR) / "exports"
        return [path for name in names if (path := folder / name).exists()]

    def find(self, subject: Subject) -> Found:
        reasons, files = self._reasons(subject).count(), len(self._files(subject))
        columns = (
            *(("compliance_export.reason",) if reasons else ()),
            *(["exports"] * bool(files)),
        )
        return Found(reasons + files, columns)

    def export(self, subject: Subject) -> Iterator[dict[str, Any]]:
        for one in self._reasons(subject).filter(requested_by=subject.id).order_by("id"):
            at = stores.plain(one.created_at)
            yield {"export": one.id, "kind": one.kind, "reason": one.reason, "created_at": at}

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        files = self._files(subject)
        for path in files:
            path.unlink(missing_ok=True)
        reasons = self._reasons(subject).update(reason=stores.ERASED)
        return Outcome(stores.DELETE, reasons + len(files))


class Keys(stores.Base):
    """The subject's data key: without it nothing opens that was sealed under it."""

    order = 90
    action = stores.SHRED
    tables: tuple[str, ...] = ("compliance_datakey",)

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"compliance.data_keys/{kind}", kind

    def find(self, subject: Subject) -> Found:
        active = keys.state(subject) == "active"
        return Found(1, ("compliance_datakey.wrapped",)) if active else Found()

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        was = self.find(subject).rows
        destroyed = keys.destroy(
            subjects=[subject], actor=audit.SYSTEM, reason_code="erasure", now=now
        )
        return Outcome(stores.SHRED, was, key_ids=tuple(destroyed))


class Backups(stores.Base):
    """Backups that were made before: nobody edits one, and each has its last day."""

    place, order, moves, action = "backups", 95, True, stores.KEEP
    ground = (
        "backups are never edited: one that is restored is erased again before it opens, and what"
        " is older than STOA_BACKUP_KEEP says is deleted as newer ones are made"
    )

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"backups/{kind}", kind

    def find(self, subject: Subject) -> Found:
        made = AuditEvent.objects.filter(action="backup.create", outcome="success").count()
        gone = AuditEvent.objects.filter(action="backup.delete", outcome="success").count()
        return Found(max(0, made - gone))

    def plan(self, subject: Subject, now: datetime) -> Outcome:
        return Outcome(self.action, self.find(subject).rows, self.ground, horizon.until(now))

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        return self.plan(subject, now)


def erasures(event_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Of events whose openings an erasure took: its certificate, and the event that tells of it."""
    found: dict[str, tuple[str, str]] = {}
    events = AuditEvent.objects.filter(id__in=list(event_ids))
    rows = list(events.values("id", "log_id", "actor_id", "target_id", "recorded_at"))
    asked = {row["target_id"]: "" for row in rows}
    requests = SubjectRequest.objects.filter(id__in=asked).exclude(subject_id="")
    asked |= dict(requests.values_list("id", "subject_id"))
    ids = {value for row in rows for value in (row["log_id"], row["actor_id"], row["target_id"])}
    done = Erasure.objects.filter(
        state=State.ISSUED, subject_id__in={*ids, *filter(None, asked.values())}
    )
    by_subject = {one.subject_id: one for one in done.order_by("id")}
    for row in rows:
        related = (
            *(row["target_id"], asked.get(row["target_id"], "")),
            *(row["actor_id"], row["log_id"]),
        )
        for id in related:
            one = by_subject.get(id)
            if one and one.told_by.get(row["log_id"]):
                found[row["id"]] = (one.certificate_id, one.told_by[row["log_id"]])
                break
    return found


def _register_kept(subject: Subject, now: datetime) -> date:
    return clock.later(now.date(), REGISTER_KEPT_MONTHS)


def register() -> None:
    for kind in (PERSON, ORGANIZATION):
        stores.register(Openings(kind))
        stores.register(Bundles(kind))
        stores.register(Keys(kind))
        stores.register(Backups(kind))
    stores.register(
        stores.Rows(
            name="compliance.subject_requests",
            model=SubjectRequest,
            of="subject_id",
            action=stores.KEEP,
            ground="Art. 17(3)(b) and (e): that requests were answered has to be shown; ids alone",
            last=_register_kept,
            moves=True,
        )
    )
    stores.register(
        stores.Rows(
            name="compliance.log_subscriptions",
            model=LogSubscription,
            of="owner",
            kind=ORGANIZATION,
        )
    )
    stores.register(
        stores.Rows(
            name="compliance.processing_contacts",
            model=ProcessingContact,
            of="scope",
            kind=ORGANIZATION,
        )
    )
    stores.register(
        stores.Rows(
            name="compliance.processing_versions",
            model=ProcessingVersion,
            of="scope",
            kind=ORGANIZATION,
            action=stores.KEEP,
            ground="Art. 17(3)(b) with 30(2): records of what was processed for whom",
            last=_register_kept,
            moves=True,
        )
    )
    stores.exempt("compliance_hold", "why something may not be erased; it stops an erasure itself")
    stores.register_obstacle(_held)


def _held(subject: Subject) -> tuple[str, str] | None:
    if not holds.held(subject):
        return None
    return "held", "a legal hold stands on it: until it is lifted nothing of it is erased"
