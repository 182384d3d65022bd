"""What a node can give now, for who holds its row's lock."""

from datetime import datetime

from controlplane.fleet.models import Device, Node
from controlplane.placement.choose import Need


def free(node: Node, need: Need, now: datetime) -> tuple[str, ...] | None:
    """Ids of the devices with the lowest indexes; None where it has too few, or takes nobody."""
    if not node.schedulable(now) or node.drain_requested_at is not None:
        return None
    devices = Device.objects.filter(
        node=node, healthy=True, retiring_at=None, kind=need.kind, deviceclaim__isnull=True
    ).order_by("index")
    ids = tuple(devices.values_list("id", flat=True)[: need.count])
    return ids if len(ids) == need.count else None
