"""What was refused, or broke, is told too: called after its own transaction has rolled back.

Who lacks a permission at home leaves `access.deny` in that organization's log. A stranger, to whom
nothing exists, is no event: the address was wrong. One who asks again and again is told of once a
minute, so that nobody fills a log. What was asked for and broke here leaves `request.fail`.
"""

import logging
from datetime import datetime, timedelta

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy.access import Principal
from controlplane.tenancy.errors import Forbidden
from controlplane.tenancy.models import Organization

log = logging.getLogger(__name__)

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


def failed(principal: Principal, *, now: datetime) -> str:
    """A request that would have changed something ended in an error of ours; the event's id.

    In the log of the only organization that it can have been about, else in the platform's.
    """
    homes = [principal.organization_id] if principal.organization_id else [*principal.memberships]
    where = str(homes[0]) if len(homes) == 1 else audit.PLATFORM
    try:
        return audit.record(
            actor=principal.actor,
            action="request.fail",
            target=audit.Target("log", where),
            log=where,
            now=now,
            outcome="failure",
            reason="internal_error",
        )
    except Exception:  # the error itself must reach whoever asked
        log.exception("an error could not be told to the log")
        return ""
