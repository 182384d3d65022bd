"""Device-seconds of a replica as usage: what serving, warm waiting and sleep have in common."""

from datetime import datetime

from billing.meters import usage
from billing.models import Basis, Meter
from controlplane.endpoints.models import Replica


def event(
    replica: Replica,
    id: str,
    at: datetime,
    meter: Meter,
    seconds: int,
    flags: tuple[str, ...] = (),
) -> usage.Event:
    """`seconds` of the replica, on all the devices that it holds, charged to whose it is."""
    endpoint, version = replica.endpoint, replica.version
    return usage.Event(
        id=id,
        at=at,
        account_id=endpoint.project.organization.account_id,
        project_id=endpoint.project_id,
        endpoint_id=endpoint.id,
        replica_id=replica.id,
        region=endpoint.region_code,
        device_kind=version.device_kind,
        meter=meter.value,
        basis=Basis.CHARGE.value,
        quantity=seconds * version.devices_each,
        share=version.device_share,
        flags=flags,
    )
