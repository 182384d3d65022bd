"""The foundation's own tables of evidence beyond single events: how the logs were kept day by day,
who is sent them, and what was ended for good."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

from django.db.models import Count, Max, Q
from django.db.models.functions import TruncDay

from compliance import controls
from compliance.bundles.tables import Row
from compliance.log.models import LogCheckpoint, LogSubscription
from compliance.models import AuditEvent, Tombstone

DAYS = ("day", "events", "heads", "size", "root", "heartbeats", "longest_silence_s")
SUBSCRIPTIONS = ("subscription", "log", "kind", "via", "host", "format", "created_at", "ended_at")
TOMBSTONES = ("tombstone", "event", "at", "action", "target_type", "target")


def register() -> None:
    controls.register(
        "A.5.33",
        "A.8.15",
        producer="log_days",
        population="every day (UTC) of the period on which something was recorded in the log, or a"
        " head of it was signed; heartbeats stand in the operator's log alone, every five minutes",
        columns=DAYS,
        rows=days,
    )
    controls.register(
        "A.5.14",
        "A.8.15",
        producer="log_subscriptions",
        population="every subscription to the log that was under way at any moment of the period",
        columns=SUBSCRIPTIONS,
        rows=subscriptions,
    )
    controls.register(
        "A.8.10",
        producer="tombstones",
        population="every end for good of the period that no restored backup may undo: one for each"
        " event of a registered action in the log",
        columns=TOMBSTONES,
        rows=tombstones,
    )


def held(value: datetime | None, end: datetime) -> datetime | None:
    """A moment as it was known at the end of a period: what came later was not."""
    return value if value is not None and value < end else None


def days(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    within = {"recorded_at__gte": start, "recorded_at__lt": end}
    by_day = (
        AuditEvent.objects.filter(log_id=log, **within)
        .order_by()
        .annotate(day=TruncDay("recorded_at", tzinfo=UTC))
        .values("day")
        .annotate(count=Count("id"))
    )
    events = {row["day"].date(): row["count"] for row in by_day}
    heads = LogCheckpoint.objects.filter(owner=log, signed_at__gte=start, signed_at__lt=end)
    signed = {
        row["day"].date(): (row["heads"], row["newest"])
        for row in heads.order_by()
        .annotate(day=TruncDay("signed_at", tzinfo=UTC))
        .values("day")
        .annotate(heads=Count("id"), newest=Max("id"))
    }
    newest = LogCheckpoint.objects.in_bulk([one for _, one in signed.values()])
    beats = _heartbeats(log, start, end)
    for day in sorted({*events, *signed}):
        count, id = signed.get(day, (0, ""))
        head = newest.get(id)
        beaten, silence = beats.get(day, (0, 0))
        yield (
            *(day.isoformat(), events.get(day, 0), count, head.size if head else None),
            *(bytes(head.root).hex() if head else "", beaten, silence),
        )


def subscriptions(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = LogSubscription.objects.filter(owner=log, created_at__lt=end)
    for one in rows.filter(Q(ended_at=None) | Q(ended_at__gt=start)).order_by("id").iterator():
        ended = held(one.ended_at, end)
        yield one.id, one.owner, one.kind, one.via, one.host, one.form, one.created_at, ended


def tombstones(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    events = AuditEvent.objects.filter(log_id=log, recorded_at__gte=start, recorded_at__lt=end)
    rows = Tombstone.objects.filter(at__gte=start, at__lt=end, event_id__in=events.values("id"))
    for one in rows.order_by("id").iterator():
        yield one.id, one.event_id, one.at, one.action, one.target_type, one.target_id


def _heartbeats(log: str, start: datetime, end: datetime) -> dict[date, tuple[int, int]]:
    """Of each day how many, and the longest time without one that ended on it, in seconds."""
    times = AuditEvent.objects.filter(
        log_id=log, action="log.heartbeat", recorded_at__gte=start, recorded_at__lt=end
    )
    found: dict[date, tuple[int, int]] = {}
    last: datetime | None = None
    for at in times.order_by("recorded_at").values_list("recorded_at", flat=True).iterator():
        count, longest = found.get(at.date(), (0, 0))
        gap = int((at - last).total_seconds()) if last else 0
        found[at.date()] = count + 1, max(longest, gap)
        last = at
    return found
