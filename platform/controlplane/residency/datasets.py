"""What this room adds to exports: placements, the no-transfer report, the register of locations."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import rfc8785

from compliance import controls, exports
from compliance.bundles import assembly
from compliance.models import Export
from controlplane.residency import locations, transfers
from controlplane.tenancy.models import Organization

KIND = "locations_transfers"
_Row = tuple[exports.Value, ...]


def register() -> None:
    exports.register("placements", transfers.COLUMNS, placements)
    exports.register("processing_locations", transfers.LOCATIONS, processed, general=False)
    exports.register("data_locations", locations.COLUMNS, kept, general=False)
    exports.register_kind(
        KIND,
        "Data locations, and the report that nothing left the region",
        ("placements", "processing_locations", "data_locations"),
        documents=documents,
        of=(exports.ORGANIZATION,),
    )
    of_tenants = (controls.ORGANIZATION,)
    controls.register(
        *("A.5.14", "A.8.12"),
        producer="processing_locations",
        population="every place in which a replica of the organization stood, or a request of it"
        " was served, in the period, with how many of each",
        logs=of_tenants,
    )
    controls.register(
        *("A.5.23", "A.5.14"),
        producer="data_locations",
        population="every store that holds something of the organization, and every party that it"
        " is sent to, as they are when the export is built",
        logs=of_tenants,
    )


def placements(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    yield from (row for span in _spans(log, start, end) for row in transfers.placements(span))


def processed(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    yield from (row for span in _spans(log, start, end) for row in transfers.location_rows(span))


def kept(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    yield from (
        row for span in _spans(log, start, end) for row in locations.rows(span.organization, end)
    )


def documents(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    """Register and report as JSON; the bundle's `log/checkpoint` is the head beside them."""
    for span in _spans(export.log_id, export.period_start, assembly.cut(export)):
        there = locations.register(span.organization, span.end)
        said = {
            "data_locations.json": {
                "object": "data_location_register",
                "organization": span.organization.id,
                "locations": [one.as_json() for one in there],
                "not_stated": locations.unstated(there),
            },
            "no_transfer_report.json": transfers.report(span) | {"checkpoint": "log/checkpoint"},
        }
        for name, content in said.items():
            yield f"documents/{name}", _written(folder / name, content)


def _written(path: Path, content: dict[str, Any]) -> Path:
    path.write_bytes(rfc8785.dumps(json.loads(json.dumps(content))))
    return path


def _spans(log: str, start: datetime, end: datetime) -> Iterator[transfers.Span]:
    """Of an organization; the platform's own log has none."""
    organization = Organization.objects.filter(id=log).first()
    if organization is not None:
        yield transfers.Span(organization, start, end)
