"""What every verb on an endpoint begins and ends with: the row's lock; the event and the hint."""

from datetime import datetime
from typing import Any

from compliance import audit
from controlplane.endpoints import notify, signals
from controlplane.endpoints.models import Endpoint, Scaling
from controlplane.tenancy.errors import NotFound


def locked(endpoint: Endpoint) -> Endpoint:
    """As it is now, and nobody else's until the transaction ends. Raises NotFound."""
    found = (
        Endpoint.objects.select_for_update(no_key=True, of=("self",))
        .select_related("project__organization", "pool")
        .filter(id=endpoint.id, deleted_at=None)
        .first()
    )
    if found is None:
        raise NotFound("endpoint")
    return found


def wished(
    endpoint: Endpoint, actor: audit.Actor, action: str, now: datetime, **facts: Any
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("endpoint", endpoint.id),
        log=endpoint.project.organization_id,
        region=endpoint.region_code,
        now=now,
        **facts,
    )
    Scaling.objects.filter(endpoint=endpoint).update(look_at=None)  # should the hint be lost
    notify.changed(endpoint.id)
    signals.hint(endpoint.id)
