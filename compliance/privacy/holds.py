"""Legal holds: while one stands, nothing of its subject ends by retention and nothing is erased.

`held` is asked by whoever erases; passes of retention leave out what `standing` names. A hold does
not stop a tenant from deleting its own things by hand: those are its instructions.
"""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from compliance import audit, locks
from compliance.privacy.models import Hold
from compliance.privacy.refusals import Wrong
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject

MIN_REASON, MAX_REASON = 3, 500


def place(
    *,
    actor: audit.Actor,
    subject: Subject,
    log: str,
    reason: str,
    now: datetime,
    region: str = "",
) -> Hold:
    """Raises Wrong. The same reason for the same subject again is the same hold."""
    reason = _words(reason)
    if not subject.id.startswith(PREFIXES.get(subject.kind, "?")):
        raise Wrong("invalid", "a person (usr_…) or an organization (org_…)", "subject")
    with transaction.atomic():
        locks.hold(f"hold.{subject}")
        mine = Hold.objects.filter(
            subject_kind=subject.kind, subject_id=subject.id, log=log, reason=reason
        )
        if (standing := mine.filter(lifted_at=None).first()) is not None:
            return standing
        made = Hold.objects.create(
            log=log,
            subject_kind=subject.kind,
            subject_id=subject.id,
            reason=reason,
            placed_at=now,
            placed_by=actor.id,
        )
        _tell(made, "hold.place", actor, now, region, reason)
    return made


def lift(*, actor: audit.Actor, hold: Hold, reason: str, now: datetime, region: str = "") -> Hold:
    """What is due of the subject ends in the next pass. Again: nothing happens. Raises Wrong."""
    reason = _words(reason)
    with transaction.atomic():
        mine = Hold.objects.filter(id=hold.id, lifted_at=None)
        if mine.update(lifted_at=now, lifted_by=actor.id):
            _tell(hold, "hold.lift", actor, now, region, reason)
    hold.refresh_from_db()
    return hold


def held(subject: Subject) -> bool:
    """Whether a hold on exactly this subject stands."""
    mine = Hold.objects.filter(subject_kind=subject.kind, subject_id=subject.id)
    return mine.filter(lifted_at=None).exists()


def standing() -> frozenset[Subject]:
    """Every subject with a hold that stands."""
    found = Hold.objects.filter(lifted_at=None).order_by()
    return frozenset(Subject(*pair) for pair in found.values_list("subject_kind", "subject_id"))


def of(log: str = "") -> QuerySet[Hold]:
    """Those of a log, or all, the newest first."""
    return Hold.objects.filter(log=log) if log else Hold.objects.all()


def organizations(held: Collection[Subject]) -> list[str]:
    return sorted(one.id for one in held if one.kind == ORGANIZATION)


def people(held: Collection[Subject]) -> list[str]:
    return sorted(one.id for one in held if one.kind == PERSON)


def _words(reason: str) -> str:
    reason = " ".join(reason.split())
    if not MIN_REASON <= len(reason) <= MAX_REASON or not reason.isprintable():
        message = f"say why, in {MIN_REASON} to {MAX_REASON} printable characters"
        raise Wrong("invalid_reason", message, "reason")
    return reason


def _tell(
    hold: Hold, action: str, actor: audit.Actor, now: datetime, region: str, reason: str
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("hold", hold.id),
        log=hold.log,
        now=now,
        region=region,
        change=[audit.Change("subject", None, hold.subject_id)],
        personal={"reason": reason},
    )
