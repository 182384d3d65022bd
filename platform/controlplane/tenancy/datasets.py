"""The tenants' part of an export that no lower room can make: it knows whose account it is."""

from collections.abc import Iterator
from datetime import datetime

from billing import usage
from compliance import exports
from controlplane.tenancy.models import Organization


def register() -> None:
    exports.register("usage", usage.EXPORTED, usage_events)


def usage_events(log: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
    """An organization's usage; the platform's own log has none."""
    organization = Organization.objects.filter(id=log).only("account_id").first()
    if organization is not None:
        yield from usage.rows(organization.account_id, start, end)
