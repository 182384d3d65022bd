"""What was refused is told too, although its transaction is gone: called after it has rolled back.

Who lacks a permission at home leaves `access.deny` in that organization's log. A stranger, to whom
nothing exists, is no event: the address was wrong. One who asks again and again is told of once a
minute, so that nobody fills a log.
"""

from datetime import datetime, timedelta

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy.errors import Forbidden
from controlplane.tenancy.models import Organization

AGAIN_AFTER = timedelta(minutes=1)


def note(error: Forbidden, *, now: datetime) -> str:
    """The event's id; empty where none is due."""
    if error.actor is None or not error.organization_id:
        return ""
    told = AuditEvent.objects.filter(
        log_id=error.organization_id,
        action="access.deny",
        actor_id=error.actor.id,
        recorded_at__gt=now - AGAIN_AFTER,
        recorded_at__lte=now,
    )
    if any(error.code.encode() in bytes(one.body) for one in told[:20]):
        return ""
    home = Organization.objects.filter(id=error.organization_id)
    return audit.record(
        actor=error.actor,
        action="access.deny",
        target=audit.Target("organization", error.organization_id),
        log=error.organization_id,
        now=now,
        region=home.values_list("region_code", flat=True).first() or "",
        outcome="denied",
        reason=error.code,
    )
