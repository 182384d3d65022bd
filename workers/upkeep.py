"""What grows is kept small: rows that no one will read again go."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from billing.models import RunStop
from billing.spending import counters
from controlplane.endpoints.models import Activity, LogLine
from controlplane.tenancy.models import Organization

ACTIVITY_KEPT = timedelta(minutes=5)
STOPS_KEPT = timedelta(days=7)
LOGS_KEPT = timedelta(days=7)

_BUSY = Q(in_flight__gt=0) | Q(waiting__gt=0)


def prune_activity(now: datetime) -> int:
    """Of each endpoint the newest row with traffic stays, however old: the idle timer reads it."""
    newer = Activity.objects.filter(
        _BUSY, endpoint_id=OuterRef("endpoint_id"), at__gt=OuterRef("at")
    )
    old = Activity.objects.filter(at__lt=now - ACTIVITY_KEPT)
    removed, _ = old.filter(~_BUSY | Exists(newer)).delete()
    return removed


def prune_counters(now: datetime) -> int:
    """What runs and agents spent, once they have been over for long."""
    return counters.prune(now - timedelta(seconds=settings.RUNS_KEPT_S))


def prune_stops(now: datetime) -> int:
    """Gateways look back for a day."""
    removed, _ = RunStop.objects.filter(at__lt=now - STOPS_KEPT).delete()
    return removed


def note_budgets(now: datetime) -> int:
    """Writes to their organizations' logs which budgets are nearly, or wholly, spent."""
    found = counters.crossed(now)
    ids = {row.budget.organization_id for row, _ in found}
    regions = dict(Organization.objects.filter(id__in=ids).values_list("id", "region_code"))
    return sum(
        counters.note(row, percent, region=regions.get(row.budget.organization_id, ""), now=now)
        for row, percent in found
    )


def prune_logs(now: datetime) -> int:
    """Logs of engines whose end is a while ago; the last lines of a failure stay with it."""
    removed, _ = LogLine.objects.filter(replica__released_at__lt=now - LOGS_KEPT).delete()
    return removed
