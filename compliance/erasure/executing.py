"""An approved erasure, step by step, to its certificate. Every part may be killed and repeated."""

import json
import logging
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from compliance import audit, locks, sealing
from compliance.erasure import certifying, searching
from compliance.erasure.models import UNDER_WAY, Erasure, ErasureStep, State
from compliance.erasure.planning import record, refuse, subject_of, unchanged
from compliance.log import signing
from compliance.models import AuditEvent, Tombstone
from compliance.privacy import stores
from compliance.privacy.refusals import Refusal
from compliance.subjects import PERSON, Subject

logger = logging.getLogger(__name__)

# What a restore brings back: tables, and files that rows name. Nothing passes through yet.
_RESTORED = frozenset({"database", "files"})


def execute(*, erasure: Erasure, now: datetime, actor: audit.Actor = audit.SYSTEM) -> Erasure:
    """Begins what was approved, or goes on with what was begun; ends when every step is done.

    Raises Refusal (it is not begun then), and stores.NotYet where something has to end first.
    """
    erasure = _begun(erasure, actor, now)
    subject = subject_of(erasure)
    for step in erasure.steps.filter(done_at=None).order_by("number"):
        _do(step, subject, now)
    with transaction.atomic():
        erasure = _locked(erasure)
        if erasure.state == State.EXECUTING:
            erasure.state, erasure.executed_at, erasure.failure = State.EXECUTED, now, ""
            erasure.save(update_fields=["state", "executed_at", "failure"])
    return erasure


def verify(
    *,
    erasure: Erasure,
    now: datetime,
    actor: audit.Actor = audit.SYSTEM,
    others: Collection[str] = (),
) -> Erasure:
    """Asks every store again, and looks through every table. What is found is an event of outcome
    failure, and stands in `findings`; it may be tried again. `others`: columns where a person has
    seen that the value is somebody else's (an organization is called as a machine is); event and
    certificate say so. Raises Refusal.
    """
    with transaction.atomic():
        erasure = _locked(erasure)
        if erasure.state in (State.VERIFIED, State.ISSUED):
            return erasure
        if erasure.state != State.EXECUTED:
            raise Refusal("not_executed", f"this erasure is {erasure.state}")
        found = erasure.findings = _looked(erasure, others)
        left = len(found["left"]) + len(found["hits"])
        erasure.failure = "not all is gone: see the findings" if left else ""
        if not left:
            erasure.state, erasure.verified_at = State.VERIFIED, now
        erasure.save(update_fields=["findings", "failure", "state", "verified_at"])
        changes = [
            audit.Change("tables", None, found["tables"]),
            audit.Change("left", None, left),
            audit.Change("of_others", None, found["of_others"]),
        ]
        record(erasure, "verify", actor, now, changes, "failure" if left else "success")
    return erasure


def certify(*, erasure: Erasure, now: datetime, actor: audit.Actor = audit.SYSTEM) -> Erasure:
    """Draws the certificate up and has it signed. Raises Refusal and signing.SignerAway."""
    with transaction.atomic():
        erasure = _locked(erasure)
        if erasure.state == State.ISSUED:
            return erasure
        if erasure.state != State.VERIFIED:
            raise Refusal("not_verified", f"this erasure is {erasure.state}")
        certifying.draw_up(erasure, now)
        for log in sorted({erasure.log_id, *erasure.logs}):
            erasure.told_by[log] = certifying.tell(erasure, log, actor, now)
        erasure.state, erasure.issued_at, erasure.known = State.ISSUED, now, None
        erasure.save()
    return erasure


def carry_on(now: datetime) -> int:
    """What was approved goes on, for a worker, repeatedly; how many got their certificate."""
    done = 0
    with locks.try_hold("compliance.erasures") as alone:
        rows = Erasure.objects.filter(state__in=UNDER_WAY, failure="").order_by("id")
        for erasure in list(rows) if alone else ():
            try:
                erasure = execute(erasure=erasure, now=now)
                if erasure.state == State.EXECUTED:
                    erasure = verify(erasure=erasure, now=now)
                if erasure.state == State.VERIFIED:
                    done += certify(erasure=erasure, now=now).state == State.ISSUED
            except (stores.NotYet, signing.SignerAway) as error:
                logger.info("erasure %s waits: %s", erasure.id, error)
            except Refusal as error:
                logger.warning("erasure %s is stopped: %s", erasure.id, error)
            except Exception as error:
                logger.exception("erasure %s broke off", erasure.id)
                words = f"broke off: {type(error).__name__}"
                Erasure.objects.filter(id=erasure.id).update(failure=words)
    return done


def replay(stone: Tombstone, now: datetime) -> bool:
    """After a restore: all stores once more, before anything opens."""
    subject = Subject(str(stone.facts["subject_kind"]), str(stone.facts["subject_id"]))
    again = False
    for store in stores.of(subject):
        if store.place in _RESTORED:
            outcome = store.erase(subject, now)
            again |= outcome.action != stores.KEEP and outcome.rows > 0
    return again


def _begun(erasure: Erasure, actor: audit.Actor, now: datetime) -> Erasure:
    """From here on there is no way back: the tombstone and what to look for later are kept."""
    subject = subject_of(erasure)
    with transaction.atomic():
        erasure = _locked(erasure)
        if erasure.state in (State.EXECUTING, State.EXECUTED, State.VERIFIED, State.ISSUED):
            return erasure
        if erasure.state != State.APPROVED:
            raise Refusal("not_approved", f"this erasure is {erasure.state}")
        refuse(subject)
        stale = not unchanged(erasure, now)
        if stale:
            erasure.state = State.SUPERSEDED
            erasure.save(update_fields=["state"])
        else:
            _mark(erasure, subject, actor, now)
    if stale:
        raise Refusal("plan_changed", "the data has changed since it was approved: plan it anew")
    return erasure


def _mark(erasure: Erasure, subject: Subject, actor: audit.Actor, now: datetime) -> None:
    known = json.dumps(stores.known_values(subject)).encode()
    erasure.known = sealing.seal(known, context=_context(erasure))
    erasure.logs = _logs(subject)
    erasure.state, erasure.began_at = State.EXECUTING, now
    erasure.save(update_fields=["known", "logs", "state", "began_at"])
    changes = [
        audit.Change("plan_sha256", None, erasure.plan_sha256),
        audit.Change("subject_kind", None, subject.kind),
        audit.Change("subject_id", None, subject.id),
    ]
    record(erasure, "execute", actor, now, changes)


def _do(step: ErasureStep, subject: Subject, now: datetime) -> None:
    """One store's part, once. What it did and that it did so commit together; files, which no
    transaction holds, are erased again by a repetition."""
    with transaction.atomic():
        step = ErasureStep.objects.select_for_update().get(id=step.id)
        if step.done_at is None:
            outcome = stores.named(step.store).erase(subject, now)
            step.outcome, step.done_at = outcome.as_json(), now
            step.save(update_fields=["outcome", "done_at"])


def _looked(erasure: Erasure, others: Collection[str]) -> dict[str, Any]:
    """What is left in stores and tables, outside of what is kept."""
    steps = list(erasure.steps.order_by("number"))
    kept: set[str] = set()
    left = []
    for step in steps:
        found = stores.named(step.store).find(subject_of(erasure))
        if (step.outcome or {}).get("action") == stores.KEEP:
            kept |= set(found.columns)
        elif found.rows:
            left.append({"store": step.store, "rows": found.rows})
    hits, tables = searching.search(_known(erasure))
    columns = {hit.column for hit in hits}
    stray = columns - kept - set(others)
    return {
        "stores": len(steps),
        "left": left,
        "tables": tables,
        "hits": [{"column": hit.column, "rows": hit.rows} for hit in hits if hit.column in stray],
        "kept": sorted(columns & kept),
        "of_others": sorted(columns & set(others) - kept),
    }


def _logs(subject: Subject) -> list[str]:
    """Where events are whose openings go."""
    if subject.kind != PERSON:
        return [subject.id]
    theirs = AuditEvent.objects.filter(Q(actor_id=subject.id) | Q(target_id=subject.id))
    return sorted(set(theirs.order_by().values_list("log_id", flat=True).distinct()))


def _known(erasure: Erasure) -> list[str]:
    if erasure.known is None:
        return []
    opened = sealing.unseal(bytes(erasure.known), context=_context(erasure))
    found: list[str] = json.loads(opened)
    return found


def _context(erasure: Erasure) -> str:
    return f"erasure:{erasure.id}:known"


def _locked(erasure: Erasure) -> Erasure:
    return Erasure.objects.select_for_update().get(id=erasure.id)
