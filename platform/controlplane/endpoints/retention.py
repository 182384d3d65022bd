"""What ends of the room's rows and files."""

from datetime import datetime

from compliance.privacy import holds, retention
from compliance.privacy.retention import Held, Outcome
from controlplane.endpoints import uploads
from controlplane.endpoints.models import LogLine, Quote, ServedDay, SpeedCorrection


def register() -> None:
    # Of engines whose end is a while ago; the last lines of a failure stay with it.
    retention.rows(
        "engine_log",
        lambda before: LogLine.objects.filter(replica__released_at__lt=before),
        organization="replica__endpoint__project__organization_id",
    )
    # Those that no endpoint was made with.
    retention.rows(
        "quote",
        lambda before: Quote.objects.filter(created_at__lt=before, endpoints=None),
        organization="project__organization_id",
    )
    retention.rows(
        "served_day",
        lambda before: ServedDay.objects.filter(day__lt=before.date()),
        organization="endpoint__project__organization_id",
    )
    retention.rows(
        "speed_correction",
        lambda before: SpeedCorrection.objects.filter(at__lt=before),
        organization="organization_id",
    )
    retention.register("upload", _uploads, often=True)


def _uploads(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    """Each says itself when it is over; the setting gave it that time."""
    kept = holds.organizations(held)
    done = uploads.expire(now, held=kept, limit=limit)
    return Outcome(done, uploads.over(now, of=kept) if kept else 0, more=done == limit)
