"""One device of a node is to be replaced: marked, emptied, and followed by another.

Its replicas are moved by the reconciler, as those of a node that is drained; what else there is
on the node runs on. The device that the node then reports at the same index is its successor.
"""

from datetime import datetime

from django.db import transaction
from django.db.models import Q

from compliance import audit
from controlplane.fleet import errors, services
from controlplane.fleet.keeping_models import DecommissionState
from controlplane.fleet.models import Decommission, Device, Node

_CLOSED = (DecommissionState.DONE, DecommissionState.CANCELLED)


def begin(*, device: Device, reason: str, actor: audit.Actor, now: datetime) -> Decommission:
    """Mark the device and have what runs on it moved; one that is under way already is answered.

    Raises RemovedNode, and NotReplaceable for what is no device of its own (a CPU's share).
    """
    with transaction.atomic():
        node = services.locked(Node(pk=device.node_id))
        device = Device.objects.select_for_update(of=("self",)).get(pk=device.pk)
        under_way = Decommission.objects.filter(node=node).exclude(state__in=_CLOSED)
        found = under_way.filter(Q(device=device) | Q(device=None)).first()
        if found is not None:
            return found
        if device.kind == "cpu":
            raise errors.NotReplaceable("A share of a CPU is no device that could be replaced.")
        device.retiring_at = now
        device.save(update_fields=("retiring_at",))
        made = Decommission.objects.create(
            node=node,
            device=device,
            reason=reason[:500],
            was=facts(device),
            requested_by=actor.id,
            requested_at=now,
        )
        services.touch(node)
        tell("device.replace", made, actor, now)
    return made


def cancel(*, replacement: Decommission, actor: audit.Actor, now: datetime) -> Decommission:
    """The device stays. Raises NotCancellable once another has taken its place."""
    with transaction.atomic():
        node = services.locked(Node(pk=replacement.node_id))
        row = Decommission.objects.select_for_update(of=("self",)).get(pk=replacement.pk)
        if row.state == DecommissionState.CANCELLED:
            return row
        if row.state not in (DecommissionState.DRAINING, DecommissionState.AWAITING):
            raise errors.NotCancellable("The device was replaced already.")
        row.state = DecommissionState.CANCELLED
        row.closed_at = now
        row.save(update_fields=("state", "closed_at"))
        Device.objects.filter(pk=row.device_id).update(retiring_at=None)
        services.touch(node)
        tell("device.keep", row, actor, now)
    return row


def facts(device: Device) -> dict[str, str | int]:
    """What a record calls a device by."""
    return {
        "index": device.index,
        "kind": device.kind,
        "name": device.name,
        "uuid": device.uuid,
        "serial": device.serial,
        "memory_bytes": device.memory_bytes,
    }


def tell(action: str, row: Decommission, actor: audit.Actor, now: datetime) -> None:
    node = row.node
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("node", node.id),
        log=audit.PLATFORM,
        region=node.pool.region_id,
        now=now,
        change=[
            audit.Change("decommission", None, row.id),
            audit.Change("device", None, row.was.get("uuid") or row.was.get("index")),
        ],
    )
