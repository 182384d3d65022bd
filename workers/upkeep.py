"""What grows is kept small: rows that no one will read again go."""

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q

from billing.spending import counters
from controlplane.endpoints.models import Activity
from controlplane.tenancy.models import Organization

ACTIVITY_KEPT = timedelta(minutes=5)

_BUSY = Q(in_flight__gt=0) | Q(waiting__gt=0)


def prune_activity(now: datetime) -> int:
    """Of each endpoint the newest row with traffic stays, however old: the idle timer reads it."""
    newer = Activity.objects.filter(
        _BUSY, endpoint_id=OuterRef("endpoint_id"), at__gt=OuterRef("at")
    )
    old = Activity.objects.filter(at__lt=now - ACTIVITY_KEPT)
    removed, _ = old.filter(~_BUSY | Exists(newer)).delete()
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
