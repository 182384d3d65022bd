"""A node's inventory becomes its Device rows."""

from collections import Counter
from typing import Any

import msgspec

from controlplane.fleet import errors
from controlplane.fleet.models import Device, Node
from controlplane.fleet.wire import LOST_GPU, DeviceInfo, Inventory

MAX_DEVICES = 256
MAX_BYTES = 262_144
_MAX_MEMORY_BYTES = 1 << 62


def document(inventory: Inventory) -> dict[str, Any]:
    """The inventory as JSON for the database. Raises errors.InvalidReport if it cannot be kept.

    A node's word is a stranger's: what the columns cannot hold is refused here, by name.
    """
    encoded = msgspec.json.encode(inventory)
    # The encoder escapes backslashes, so an odd run of them is an escape: this finds real NULs.
    if len(encoded) > MAX_BYTES or b"\\u0000" in encoded.replace(b"\\\\", b""):
        raise errors.InvalidReport("The inventory is too long or holds a NUL character.")
    if len(inventory.devices) > MAX_DEVICES:
        raise errors.InvalidReport(f"A node has at most {MAX_DEVICES} devices.")
    for index, count in Counter(device.index for device in inventory.devices).items():
        if count > 1:
            raise errors.InvalidReport(f"Device {index} is there {count} times.")
    for device in inventory.devices:
        _check(device)
    kept: dict[str, Any] = msgspec.json.decode(encoded)
    return kept


def record(node: Node, inventory: Inventory) -> None:
    """Bring the node's Device rows up to `inventory`, within the caller's transaction.

    A device that is gone becomes unhealthy and keeps its row: a replica may still hold it, and
    a card that comes back is the same device.
    """
    kept = {device.index: device for device in node.devices.select_for_update()}
    for info in inventory.devices:
        device = kept.pop(info.index, None) or Device(node=node, index=info.index)
        facts = _facts(info)
        if info.kind == LOST_GPU and not device._state.adding:
            facts = {"healthy": False}  # it does not even say any more what it is
        if device._state.adding or any(getattr(device, name) != facts[name] for name in facts):
            for name, value in facts.items():
                setattr(device, name, value)
            device.save()
    gone = [device.pk for device in kept.values() if device.healthy]
    if gone:
        Device.objects.filter(pk__in=gone).update(healthy=False)


def _facts(info: DeviceInfo) -> dict[str, Any]:
    return {
        "kind": info.kind,
        "name": info.name,
        "uuid": info.uuid,
        "serial": info.serial,
        "memory_bytes": info.memory_bytes,
        "healthy": info.healthy,
    }


def _check(device: DeviceInfo) -> None:
    wrong = None
    if not 0 <= device.index < MAX_DEVICES:
        wrong = "its index"
    elif not 0 < len(device.kind) <= 64:
        wrong = "its kind"
    elif not 0 < len(device.name) <= 100:
        wrong = "its name"
    elif len(device.uuid) > 100:
        wrong = "its UUID"
    elif len(device.serial) > 100:
        wrong = "its serial number"
    elif not 0 <= device.memory_bytes <= _MAX_MEMORY_BYTES:
        wrong = "its memory"
    if wrong:
        raise errors.InvalidReport(f"Device {device.index}: {wrong} is out of bounds.")
