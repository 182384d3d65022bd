"""Each hour's usage, digested into the log of the organization that owes it."""

from datetime import datetime

from billing.meters import digests
from controlplane.tenancy.models import Organization


def digest(now: datetime) -> int:
    """Make the digests that are due; returns how many."""
    pairs = digests.due(now)
    rows = Organization.objects.filter(account_id__in={id for id, _ in pairs}).values_list(
        "account_id", "id", "region_code"
    )
    logs = {account_id: digests.Log(id, region) for account_id, id, region in rows}
    return sum(
        digests.make(account_id, hour, log=logs[account_id], now=now) is not None
        for account_id, hour in pairs
        if account_id in logs
    )
