"""Engines, versions of endpoints and where replicas stood, for the Annex A pack."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Q

from compliance import audit, controls
from compliance.control_tables import held
from compliance.exports import Value
from controlplane.endpoints.models import EndpointVersion, EngineVersion, Replica, Start

Row = tuple[Value, ...]
ENGINES = (
    *("id", "engine", "version", "status", "status_since", "image", "replacement", "deadline"),
)
VERSIONS = (
    "id",
    "organization",
    "endpoint",
    "number",
    "created_at",
    "created_by",
    "engine",
    "model",
)
TOPOLOGY = (
    *("replica", "organization", "endpoint", "region", "node", "nodes", "created_at"),
    "released_at",
)
STARTS = (
    *("start", "organization", "endpoint", "region", "asked_at", "ended_at", "tier", "ready"),
    *("total_s", "promised_s", "missed"),
)


def register() -> None:
    controls.register(
        *("A.8.8", "A.8.9", "A.8.19"),
        producer="engine_versions",
        population="every version of an engine known before the end of the period, as its status"
        " stood when this was collected; engine_blocks has how it came about",
        columns=ENGINES,
        rows=engines,
        logs=(controls.PLATFORM,),
    )
    controls.register(
        *("A.8.9", "A.8.32"),
        producer="endpoint_versions",
        population="every version of an endpoint that was made in the period",
        columns=VERSIONS,
        rows=versions,
    )
    controls.register(
        *("A.5.30", "A.8.14"),
        producer="topology",
        population="every replica that existed at any moment of the period, and where",
        columns=TOPOLOGY,
        rows=topology,
    )
    controls.register(
        "A.8.6",
        producer="capacity_starts",
        population="every start of a replica that ended in the period, with what was promised",
        columns=STARTS,
        rows=starts,
    )


def engines(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    for one in EngineVersion.objects.filter(created_at__lt=end).order_by("id"):
        yield (
            *(one.id, one.engine, one.version, one.status, one.changed_at, one.image),
            *(one.replacement, one.deadline),
        )


def versions(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = EndpointVersion.objects.filter(created_at__gte=start, created_at__lt=end)
    if log != audit.PLATFORM:
        rows = rows.filter(endpoint__project__organization_id=log)
    for one in rows.select_related("endpoint__project").order_by("id").iterator(chunk_size=1_000):
        spec = one.spec
        yield (
            *(one.id, one.endpoint.project.organization_id, one.endpoint_id, one.number),
            *(one.created_at, one.created_by, spec.get("engine", ""), spec.get("model", "")),
        )


def topology(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = Replica.objects.filter(created_at__lt=end)
    rows = rows.filter(Q(released_at=None) | Q(released_at__gt=start))
    if log != audit.PLATFORM:
        rows = rows.filter(endpoint__project__organization_id=log)
    rows = rows.select_related("endpoint__project").order_by("id")
    for one in rows.iterator(chunk_size=1_000):
        yield (
            *(one.id, one.endpoint.project.organization_id, one.endpoint_id),
            *(one.endpoint.region_code, one.node_id, one.node_count, one.created_at),
            held(one.released_at, end),
        )


def starts(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = Start.objects.filter(ended_at__gte=start, ended_at__lt=end)
    if log != audit.PLATFORM:
        rows = rows.filter(endpoint__project__organization_id=log)
    for one in rows.select_related("endpoint__project").order_by("id").iterator(chunk_size=1_000):
        target = None if one.target_s is None else str(one.target_s)
        yield (
            *(one.id, one.endpoint.project.organization_id, one.endpoint_id),
            *(one.endpoint.region_code, one.asked_at, one.ended_at, one.tier, one.ready),
            *(str(one.total_s), target, one.missed),
        )
