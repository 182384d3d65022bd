"""What ends of the foundation's own: openings of personal values, and files of exports.

The openings of an event go when its log's period is over, addresses and programs of clients
earlier; the event stays. Each log is told by an event of its own, which certifies to bundles why
their values are gone (`stored_log`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Q

from compliance import exports
from compliance.audit import PLATFORM
from compliance.bundles import stored_log
from compliance.models import AuditEvent, Erasure, SubjectRequest
from compliance.privacy import holds, retention
from compliance.privacy.models import RetentionRun
from compliance.privacy.retention import Held, Outcome

TENANTS, OPERATOR, NETWORK = "audit_opening", "operator_opening", "network_trace"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MARGIN = timedelta(days=2)  # events may be recorded late
# Of events in [since, before); what holds keep is counted, the rest goes.
_WHICH = {
    TENANTS: "e.log_id <> %(platform)s",
    OPERATOR: "e.log_id = %(platform)s",
    NETWORK: "s.path IN ('request.ip', 'request.user_agent')",
}
_HELD = "(e.log_id = ANY(%(organizations)s) OR e.actor_id = ANY(%(people)s)"
_HELD += " OR e.target_id = ANY(%(people)s))"
_FROM = """
FROM compliance_eventsecret s JOIN compliance_auditevent e ON e.id = s.event_id
WHERE e.recorded_at >= %(since)s AND e.recorded_at < %(before)s AND {which} AND {held}
"""
_GONE = """
WITH due AS (SELECT s.id, e.log_id {part} LIMIT %(limit)s FOR UPDATE OF s SKIP LOCKED),
gone AS (DELETE FROM compliance_eventsecret s USING due WHERE s.id = due.id RETURNING due.log_id)
SELECT log_id, count(*) FROM gone GROUP BY 1
"""


def register() -> None:
    for code in (TENANTS, OPERATOR, NETWORK):
        retention.register(code, _Openings(code))
    retention.register("export_file", _files, often=True)
    retention.register("request_register", _closed)
    stored_log.register_erasures(erasures)


class _Openings:
    def __init__(self, code: str) -> None:
        self._code = code

    def __call__(self, *, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
        clean = retention.clean_until(self._code)
        values: dict[str, Any] = {
            "since": clean - _MARGIN if clean else _EPOCH,
            "before": before,
            "platform": PLATFORM,
            "organizations": holds.organizations(held),
            "people": holds.people(held),
            "limit": limit,
        }
        which = _WHICH[self._code]
        with connection.cursor() as cursor:
            part = _FROM.format(which=which, held=f"NOT {_HELD}")
            cursor.execute(_GONE.format(part=part), values)
            gone = {str(log): int(count) for log, count in cursor.fetchall()}
            done = sum(gone.values())
            if done >= limit:
                return Outcome(done, by_log=gone, more=True)
            cursor.execute("SELECT count(*) " + _FROM.format(which=which, held=_HELD), values)
            (kept,) = cursor.fetchone() or (0,)
        return Outcome(done, int(kept), gone)


def _files(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    done, kept = exports.forget(before, frozenset(holds.organizations(held)))
    return Outcome(done, kept)


def _closed(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    """Requests of data subjects that were closed, and erasures whose certificate was issued."""
    kept = Q(log_id__in=holds.organizations(held)) | Q(
        subject_id__in=[*holds.people(held), *holds.organizations(held)]
    )
    done = still = 0
    for rows in (
        SubjectRequest.objects.filter(closed_at__lt=before),
        Erasure.objects.filter(issued_at__lt=before),
    ):
        ids = list(rows.exclude(kept).order_by().values_list("pk", flat=True)[:limit])
        rows.model._default_manager.filter(pk__in=ids).delete()
        done += len(ids)
        still += rows.filter(kept).count()
    return Outcome(done, still, more=done >= limit)


def erasures(event_ids: Sequence[str]) -> dict[str, stored_log.Erasure]:
    """Which run's event tells why an event's openings are gone: the first that covered it."""
    found: dict[str, stored_log.Erasure] = {}
    events = AuditEvent.objects.filter(id__in=event_ids).values_list("id", "log_id", "recorded_at")
    by_log: dict[str, list[tuple[str, datetime]]] = {}
    for id, log, at in events:
        by_log.setdefault(log, []).append((id, at))
    for log, those in by_log.items():
        codes = (OPERATOR, NETWORK) if log == PLATFORM else (TENANTS, NETWORK)
        runs = RetentionRun.objects.filter(Q(code__in=codes), log=log, done__gt=0)
        runs = runs.filter(before__gt=min(at for _, at in those)).order_by("before", "at")
        known = list(runs.values_list("id", "before", "event_id"))
        for id, at in those:
            for run, before, event in known:
                if before is not None and at < before:
                    found[id] = stored_log.Erasure("retention", run, event)
                    break
    return found
