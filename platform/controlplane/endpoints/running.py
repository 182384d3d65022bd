"""Device-seconds that are being served and are not usage yet: what a cost so far adds."""

from datetime import datetime

from billing.reports import costs
from controlplane.endpoints import serving
from controlplane.endpoints.models import ServingInterval


def running(account_id: str, *, now: datetime) -> list[costs.Running]:
    """For `billing.reports.costs`: one item for each open stretch of serving of the account."""
    open_now = ServingInterval.objects.filter(
        ended_at=None, replica__endpoint__project__organization__account_id=account_id
    ).select_related("replica__endpoint", "replica__version")
    return [
        costs.Running(
            project_id=interval.replica.endpoint.project_id,
            endpoint_id=interval.replica.endpoint_id,
            device_kind=interval.replica.version.device_kind,
            device_seconds=interval.replica.version.devices_each
            * serving.unmetered_s(
                started_at=interval.started_at,
                ended_at=interval.ended_at,
                served_s=interval.served_s,
                metered_s=interval.metered_s,
                now=min(now, interval.replica.funded_until or now),
            ),
            share=interval.replica.version.device_share,
        )
        for interval in open_now
    ]
