"""Keeps the logs: gives events their index, has heads signed, and says that it is alive.

`tend` may run anywhere, twice at once, and be killed at any line. What is wrong with the logs is
said by `findings` (`stoa doctor`) and in this log.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import connection
from django.utils import timezone

from compliance import audit
from compliance.log import checkpoints, sequencer, signing
from compliance.models import AuditEvent, Log
from workers.agent.checks.finding import Finding

log = logging.getLogger(__name__)

MERGE_DELAY = timedelta(seconds=60)  # by then an event has its index and stands under a head
HEARTBEAT = timedelta(minutes=5)
CLOCK_OFF = timedelta(seconds=5)
CLOCK_TOLD = timedelta(hours=1)


def sequence(now: datetime, enough: Callable[[], bool]) -> int:
    """Batches until nothing waits, or it is `enough`; how many leaves."""
    done = 0
    while looked := sequencer.sequence(now):
        done += looked
        if enough():
            break
    return done


def sign(now: datetime) -> int:
    """Heads that are due; a signer that is away is told of, and asked again by the next look."""
    _warn_of_delay()
    try:
        return checkpoints.sign_due(now)
    except signing.SignerAway as error:
        log.error("%s", error)
        return 0


def beat(now: datetime) -> None:
    """An event every five minutes, so that silence shows; one where the clocks differ."""
    _once(now, "log.heartbeat", HEARTBEAT, audit.Target("log", audit.PLATFORM))
    if abs(off := clock_off()) > CLOCK_OFF:
        change = [audit.Change("offset_ms", 0, round(off.total_seconds() * 1000))]
        _once(now, "clock.fault", CLOCK_TOLD, audit.Target("host", "worker"), change)


def clock_off() -> timedelta:
    """How far this host's clock is before the database's, between our asking and its answer."""
    before = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (theirs,) = cursor.fetchone()
    off: timedelta = min(max(before, theirs), timezone.now()) - theirs
    return off


def findings(now: datetime) -> list[Finding]:
    """`now` is the database's time or near it."""
    return [_delay(now), _refusals(), _signer()]


def _delay(now: datetime) -> Finding:
    oldest = sequencer.oldest_wait()
    age_s = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
    unsigned = checkpoints.due(now - MERGE_DELAY).count()
    text = f"the oldest event without an index waits for {age_s:.0f} s, {unsigned} heads are late"
    ok = age_s <= MERGE_DELAY.total_seconds() and not unsigned
    figures = {"pending_age_s": round(age_s, 1), "late_heads": unsigned}
    return Finding("audit log", ok, text, "see that a worker runs, and its log", figures=figures)


def _refusals() -> Finding:
    refused = list(Log.objects.filter(closed_at=None).exclude(refused="").values_list("origin"))
    names = ", ".join(origin for (origin,) in refused[:3])
    text = f"the signer refuses {len(refused)}: {names}" if refused else "the signer refuses none"
    cure = "find out who changed or restored the database; then `stoa evidence succeed`"
    return Finding("heads of logs", not refused, text, cure, figures={"refused": len(refused)})


def _signer() -> Finding:
    try:
        return Finding("signer", True, signing.vkey())
    except (signing.SignerAway, signing.Refused) as error:
        return Finding("signer", False, str(error), "start stoa-signer (deploy/RUNBOOK.md)")


def _warn_of_delay() -> None:
    oldest = sequencer.oldest_wait()
    if oldest and timezone.now() - oldest > MERGE_DELAY:
        log.error("events wait for their index since %s", oldest)


def _once(
    now: datetime,
    action: str,
    every: timedelta,
    target: audit.Target,
    change: list[audit.Change] | None = None,
) -> None:
    last = AuditEvent.objects.filter(log_id=audit.PLATFORM, action=action, recorded_at__lte=now)
    if not last.filter(recorded_at__gt=now - every).exists():
        audit.record(
            actor=audit.SYSTEM,
            action=action,
            target=target,
            log=audit.PLATFORM,
            now=now,
            change=change or (),
        )
