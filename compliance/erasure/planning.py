"""What an erasure would do, frozen by its hash, and the second person who says yes."""

import hashlib
from datetime import datetime
from typing import Any

import rfc8785
from django.db import transaction

from compliance import audit
from compliance.erasure.models import Erasure, ErasureStep, State
from compliance.privacy import stores
from compliance.privacy.refusals import Refusal
from compliance.subject_requests.models import SubjectRequest
from compliance.subjects import Subject

_MOVING = ("rows", "until")


def plan(
    *,
    actor: audit.Actor,
    subject: Subject,
    log: str,
    now: datetime,
    request_id: str = "",
    region: str = "",
) -> Erasure:
    """A dry run of every store. Nothing is erased; an earlier plan that waits is superseded.

    Raises Refusal where something forbids it, or one is under way.
    """
    refuse(subject)
    steps = dry_run(subject, now)
    digest = sha256(subject, steps)
    with transaction.atomic():
        waiting = Erasure.objects.select_for_update().filter(subject_id=subject.id)
        if waiting.filter(state__in=(State.APPROVED, State.EXECUTING)).exists():
            raise Refusal("under_way", "an erasure of this subject is under way")
        waiting.filter(state=State.PLANNED).update(state=State.SUPERSEDED)
        erasure = Erasure.objects.create(
            subject_kind=subject.kind,
            subject_id=subject.id,
            log_id=log,
            region=region,
            request_id=request_id,
            plan={"steps": steps},
            plan_sha256=digest,
            planned_by=actor.id,
            planned_at=now,
        )
        ErasureStep.objects.bulk_create(
            ErasureStep(erasure=erasure, number=number, store=step["store"])
            for number, step in enumerate(steps)
        )
        record(
            erasure,
            "plan",
            actor,
            now,
            [
                audit.Change("plan_sha256", None, digest),
                audit.Change("steps", None, len(steps)),
                audit.Change("rows", None, sum(step["rows"] for step in steps)),
            ],
        )
    return erasure


def approve(*, actor: audit.Actor, erasure: Erasure, plan_sha256: str, now: datetime) -> Erasure:
    """A second person, who has seen the plan of that hash. Raises Refusal."""
    with transaction.atomic():
        erasure = Erasure.objects.select_for_update().get(id=erasure.id)
        if erasure.state != State.PLANNED:
            if erasure.state == State.APPROVED and erasure.approved_by == actor.id:
                return erasure
            raise Refusal("not_planned", f"this erasure is {erasure.state}")
        asked = SubjectRequest.objects.filter(id=erasure.request_id).first()
        if actor.id in {erasure.planned_by, erasure.subject_id, asked and asked.opened_by}:
            raise Refusal("same_person", "another person has to approve it than who asked")
        if plan_sha256 != erasure.plan_sha256:
            raise Refusal("other_plan", "this is not the plan that waits", "plan_sha256")
        refuse(subject_of(erasure))
        if not unchanged(erasure, now):
            raise Refusal("plan_changed", "the data has changed since: plan it anew")
        erasure.state, erasure.approved_by, erasure.approved_at = State.APPROVED, actor.id, now
        erasure.save(update_fields=["state", "approved_by", "approved_at"])
        change = audit.Change("plan_sha256", None, plan_sha256)
        record(erasure, "approve", actor, now, [change])
    return erasure


def refuse(subject: Subject) -> None:
    """Raises Refusal where something forbids an erasure: a hold, or what would be left behind."""
    if why := stores.obstacle(subject):
        raise Refusal(*why)


def dry_run(subject: Subject, now: datetime) -> list[dict[str, Any]]:
    """Each store's part, in the order in which they go."""
    return [
        {"store": one.name, "place": one.place} | one.plan(subject, now).as_json()
        for one in stores.of(subject)
    ]


def sha256(subject: Subject, steps: list[dict[str, Any]]) -> str:
    """Of what is approved. What comes and goes by itself (sessions, backups) counts without its
    number and last day."""
    frozen = [
        {name: value for name, value in step.items() if name not in _MOVING or not _moves(step)}
        for step in steps
    ]
    said: dict[str, Any] = {"subject": str(subject), "steps": frozen}
    return hashlib.sha256(rfc8785.dumps(said)).hexdigest()


def unchanged(erasure: Erasure, now: datetime) -> bool:
    """Whether a plan made now would be the one that was made then."""
    subject = subject_of(erasure)
    return sha256(subject, dry_run(subject, now)) == erasure.plan_sha256


def subject_of(erasure: Erasure) -> Subject:
    return Subject(erasure.subject_kind, erasure.subject_id)


def record(
    erasure: Erasure,
    verb: str,
    actor: audit.Actor,
    now: datetime,
    changes: list[audit.Change],
    outcome: str = "success",
) -> str:
    """The event of a verb on an erasure: about the erasure, which alone knows the subject."""
    return audit.record(
        actor=actor,
        action=f"erasure.{verb}",
        target=audit.Target("erasure", erasure.id),
        log=erasure.log_id,
        region=erasure.region,
        outcome=outcome,
        now=now,
        change=changes,
    )


def _moves(step: dict[str, Any]) -> bool:
    return stores.named(step["store"]).moves
