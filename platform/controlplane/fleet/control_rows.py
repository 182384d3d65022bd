"""The operator's machines, for the Annex A pack; an organization sees nodes of its own pools."""

from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from django.db.models import Model, Q, QuerySet

from compliance import audit, controls
from compliance.control_tables import held
from compliance.exports import Value
from controlplane.fleet.models import (
    AgentUpdate,
    Decommission,
    Maintenance,
    Node,
    NodeFinding,
    Region,
)

Row = tuple[Value, ...]
_M = TypeVar("_M", bound=Model)
ASSETS = (
    *("node", "name", "region", "country", "pool", "enrolled_at", "removed_at"),
    *("device", "kind", "device_name", "uuid", "serial", "memory_bytes"),
)
REGIONS = (
    *("region", "country", "name", "opened_at", "authority_sha256", "authority_ends_at"),
    "record_key",
)
FINDINGS = (
    *("finding", "node", "region", "device", "check", "severity", "since", "ended_at"),
    "acknowledged_at",
)
RELEASES = (*("node", "region", "rollout", "release", "version", "wave", "told_at", "done_at"),)
LEAVING = (
    *("record", "node", "device", "state", "requested_at", "requested_by", "drained_at"),
    *("erased_at", "credential_erased_at", "revoked_at", "closed_at", "signed_at", "signature"),
)
MAINTENANCE = (
    *("maintenance", "node", "state", "starts_at", "ends_at", "created_at", "created_by"),
    *("started_at", "ended_at"),
)
_PLATFORM = (controls.PLATFORM,)


def register() -> None:
    controls.register(
        *("A.5.9", "A.8.14"),
        producer="assets",
        population="every device of every node that was in the fleet at any moment of the period,"
        " and each node without one; in an organization's pack those of pools that are its alone",
        columns=ASSETS,
        rows=assets,
    )
    controls.register(
        *("A.5.9", "A.8.14", "A.8.24"),
        producer="regions",
        population="every region opened before the end of the period, with its authority",
        columns=REGIONS,
        rows=regions,
        logs=_PLATFORM,
    )
    for name, refs, words in (
        ("node_findings", ("A.8.6", "A.8.16"), "every finding of a node"),
        ("clock_findings", ("A.8.17",), "every finding about a node's clock"),
    ):
        controls.register(
            *refs,
            producer=name,
            population=f"{words} that was open at any moment of the period",
            columns=FINDINGS,
            rows=clocks if name == "clock_findings" else findings,
        )
    controls.register(
        *("A.8.8", "A.8.9", "A.8.19", "A.8.32"),
        producer="agent_releases",
        population="every node that was told in the period to run a release of the agent",
        columns=RELEASES,
        rows=releases,
        logs=_PLATFORM,
    )
    controls.register(
        *("A.7.14", "A.8.10"),
        producer="decommissions",
        population="every node or device that was leaving the fleet, or left it, in the period",
        columns=LEAVING,
        rows=leaving,
        logs=_PLATFORM,
    )
    controls.register(
        "A.7.13",
        producer="maintenance",
        population="every maintenance of a node whose planned time touches the period",
        columns=MAINTENANCE,
        rows=maintenance,
        logs=_PLATFORM,
    )


def assets(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    nodes = Node.objects.filter(created_at__lt=end).select_related("pool__region")
    nodes = nodes.filter(Q(removed_at=None) | Q(removed_at__gt=start))
    for node in _of(log, nodes, "").order_by("id").prefetch_related("devices"):
        region = node.pool.region
        said = (
            *(node.id, node.name, region.code, region.country, node.pool.name),
            *(node.created_at, held(node.removed_at, end)),
        )
        devices = sorted(node.devices.all(), key=lambda one: one.index)
        for one in devices:
            yield (*said, one.index, one.kind, one.name, one.uuid, one.serial, one.memory_bytes)
        if not devices:
            yield (*said, None, "", "", "", "", None)


def regions(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    for one in Region.objects.filter(created_at__lt=end).order_by("code"):
        certificate = x509.load_pem_x509_certificate(one.ca_certificate.encode())
        yield (
            *(one.code, one.country, one.name, one.created_at),
            *(certificate.fingerprint(SHA256()).hex(), certificate.not_valid_after_utc),
            one.record_public_key,
        )


def findings(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    yield from _findings(log, start, end, NodeFinding.objects.all())


def clocks(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    yield from _findings(
        log, start, end, NodeFinding.objects.filter(check_name__startswith="clock")
    )


def _findings(
    log: str, start: datetime, end: datetime, rows: QuerySet[NodeFinding]
) -> Iterator[Row]:
    rows = rows.filter(Q(ended_at=None) | Q(ended_at__gt=start), since__lt=end)
    rows = _of(log, rows.select_related("node__pool"), "node__").order_by("id")
    for one in rows.iterator(chunk_size=1_000):
        yield (
            *(one.id, one.node_id, one.node.pool.region_id, one.device, one.check_name),
            *(one.severity, one.since, held(one.ended_at, end), held(one.acknowledged_at, end)),
        )


def releases(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = AgentUpdate.objects.filter(told_at__gte=start, told_at__lt=end).order_by("id")
    for one in rows.select_related("rollout__pool", "rollout__release").defer(
        "rollout__release__content"
    ):
        release = one.rollout.release
        yield (
            *(one.node_id, one.rollout.pool.region_id, one.rollout_id, release.sha256),
            *(release.version, one.wave, one.told_at, held(one.done_at, end)),
        )


def leaving(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = Decommission.objects.filter(requested_at__lt=end)
    for one in rows.filter(Q(signed_at=None) | Q(signed_at__gt=start)).order_by("id").iterator():
        steps = (one.drained_at, one.erased_at, one.credential_erased_at, one.revoked_at)
        yield (
            *(one.id, one.node_id, one.device_id, one.state, one.requested_at, one.requested_by),
            *(held(at, end) for at in (*steps, one.closed_at, one.signed_at)),
            one.signature,
        )


def maintenance(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = Maintenance.objects.filter(starts_at__lt=end, ends_at__gt=start, created_at__lt=end)
    for one in rows.order_by("id").iterator():
        yield (
            *(one.id, one.node_id, one.state, one.starts_at, one.ends_at, one.created_at),
            *(one.created_by, held(one.started_at, end), held(one.ended_at, end)),
        )


def _of(log: str, rows: "QuerySet[_M]", path: str) -> "QuerySet[_M]":
    if log == audit.PLATFORM:
        return rows
    return rows.filter(**{f"{path}pool__organization_id": log})
