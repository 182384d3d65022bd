"""What ends of the room's rows: files when they say so, batches when their files are over."""

from datetime import datetime

from compliance.privacy import holds, retention
from compliance.privacy.retention import Held, Outcome
from controlplane.batches import files
from controlplane.batches.models import ENDED, Batch


def register() -> None:
    retention.register("file", _files, often=True)
    retention.rows(
        "batch",
        lambda before: Batch.objects.filter(status__in=ENDED, expires_at__lt=before),
        organization="project__organization_id",
    )


def _files(*, now: datetime, before: datetime, held: Held, limit: int) -> Outcome:
    """Each says itself when it is over; the setting is the latest."""
    kept = holds.organizations(held)
    done = files.expire(now, held=kept, limit=min(limit, AT_ONCE))
    return Outcome(done, files.over(now, of=kept) if kept else 0, more=done == AT_ONCE)


AT_ONCE = 500  # files of one transaction: each may have thousands of chunks
