"""The record of what left the fleet: what it was by serial number, what became of it, signed."""

from datetime import datetime
from typing import Any

from django.db.models import Count, Sum

from compliance import audit
from controlplane.endpoints.models import ServingInterval
from controlplane.fleet import issuance, records, replacing
from controlplane.fleet.models import Decommission, Node

METHOD = "Files were removed and their absence checked; storage was not overwritten."


def facts(node: Node) -> dict[str, Any]:
    """What a record calls a node by."""
    said = node.inventory
    return {
        "id": node.id,
        "name": node.name,
        "serial": said.get("serial", ""),
        "hostname": said.get("hostname", ""),
        "os": said.get("os", ""),
        "driver": said.get("driver", ""),
        "devices": [replacing.facts(device) for device in node.devices.order_by("index")],
    }


def sign(row: Decommission, now: datetime) -> None:
    """Make the record and sign it with the region's key; the caller saves. In a transaction."""
    key, _ = issuance.record_key(row.node.pool.region_id)
    row.signed_at = now
    row.record = made(row)
    row.signature = records.sign(key, row.record)


def made(row: Decommission) -> dict[str, Any]:
    node, pool = row.node, row.node.pool
    record: dict[str, Any] = {
        "v": 1,
        "id": row.id,
        "kind": "device" if row.device_id else "node",
        "region": pool.region_id,
        "pool": {"id": pool.id, "name": pool.name},
        "node": row.was if row.device_id is None else {"id": node.id, "name": node.name},
        "reason": row.reason,
        "requested_by": row.requested_by,
        "requested_at": audit.stamp(row.requested_at),
        "drained_at": _at(row.drained_at),
        "moved_replicas": row.moved,
        "metering": _metering(row),
        "signed_at": _at(row.signed_at),
    }
    if row.device_id:
        return record | {"device": row.was, "successor": row.successor}
    confirmed = row.erased_at is not None
    return record | {
        "confirmed": confirmed,
        "erased": row.erased["items"] if confirmed and row.erased else None,
        "erased_sha256": records.digest(row.erased) if confirmed else None,
        "erasure": METHOD if confirmed else "The node did not confirm that anything was erased.",
        "erased_at": _at(row.erased_at),
        "credential_erased_at": _at(row.credential_erased_at),
        "certificate_sha256": node.certificate_sha256,
        "revoked_at": _at(row.revoked_at),
    }


def document(row: Decommission) -> dict[str, Any]:
    """For the download of one that is done."""
    assert row.record is not None
    public = row.node.pool.region.record_public_key
    return records.document(row.record, row.signature, public)


def digest(row: Decommission) -> str:
    return records.digest(row.record)


def _metering(row: Decommission) -> dict[str, Any]:
    """What the replicas that were moved had served, when all of it was closed."""
    served = ServingInterval.objects.filter(replica__in=row.moved, ended_at__isnull=False)
    total = served.aggregate(intervals=Count("id"), seconds=Sum("served_s"))
    return {
        "closed_at": _at(row.closed_at),
        "intervals": total["intervals"],
        "served_s": round(total["seconds"] or 0.0),
    }


def _at(moment: datetime | None) -> str | None:
    return audit.stamp(moment) if moment else None
