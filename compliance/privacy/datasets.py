"""What bundles hold of retention, holds, classification and records of processing."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import rfc8785
from django.db.models import Q

from compliance import controls, exports
from compliance.audit import PLATFORM
from compliance.bundles import assembly
from compliance.models import Export
from compliance.privacy import holds, periods, records, registry, retention
from compliance.privacy.models import ProcessingVersion
from compliance.stamps import stamp

_SCHEDULE = (
    *("code", "category", "basis", "period", "starts", "action", "jurisdiction", "source"),
    *("ground", "effective_from", "effective_to", "set_by"),
)
_RUNS = ("at", "rule", "log", "since", "before", "due", "done", "held", "failed", "event")
_HOLDS = (
    *("id", "subject_kind", "subject", "reason", "placed_at", "placed_by"),
    *("lifted_at", "lifted_by"),
)
_COLUMNS = (
    *("table", "column", "level", "category", "role", "purpose", "basis", "retention", "location"),
)
_ACTIVITIES = (
    *("version", "from", "to", "category", "purposes", "legal_basis", "subjects", "data"),
    *("special_possible", "because", "erased_after", "systems"),
)
_Row = tuple[exports.Value, ...]


def register() -> None:
    exports.register("retention_schedule", _SCHEDULE, schedule, general=False)
    exports.register("retention_runs", _RUNS, runs, general=False)
    exports.register("legal_holds", _HOLDS, held, personal=("reason",), general=False)
    exports.register("data_classification", _COLUMNS, classification, general=False)
    exports.register("processing_activities", _ACTIVITIES, activities, general=False)
    exports.register_kind(
        "retention",
        "Retention schedule, its run log, and legal holds",
        ("retention_schedule", "retention_runs", "legal_holds"),
    )
    exports.register_kind(
        "processing_records",
        "Record of processing (Art. 30) with its versions, and the classification of data",
        ("processing_activities", "data_classification"),
        documents=documents,
    )
    _register_controls()


def _register_controls() -> None:
    controls.register(
        *("A.5.33", "A.5.34"),
        producer="retention_schedule",
        population="every version of every rule that held at some moment of the period",
    )
    controls.register(
        *("A.5.33", "A.8.10"),
        producer="retention_runs",
        population="every run of a rule in the period that the log's part tells of",
    )
    controls.register(
        "A.5.33",
        producer="legal_holds",
        population="every hold of the log that stood at some moment of the period",
    )
    controls.register(
        "A.5.34",
        producer="processing_activities",
        population="every category of each version of the record that held in the period",
    )
    controls.register(
        *("A.5.12", "A.5.13", "A.5.34"),
        producer="data_classification",
        population="every column of every table of this version of the software",
    )


def schedule(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    mine = Q(effective_to=None) | Q(effective_to__gt=start)
    for row in periods.versions().filter(mine, effective_from__lt=end):
        period = periods.of_row(row).period
        yield (
            *(row.code, row.category, row.basis, str(period) if period else "none", row.starts),
            *(row.action, row.jurisdiction, row.source, row.ground, row.effective_from),
            *(row.effective_to if row.effective_to and row.effective_to < end else None,),
            row.created_by or "published",
        )


def runs(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    """An organization's own part; the operator's: all that is told of the installation."""
    mine = Q(log="") | Q(log=PLATFORM) if log == PLATFORM else Q(log=log)
    found = retention.runs().filter(mine, at__gte=start, at__lt=end).order_by("at", "id")
    for run in found.iterator(chunk_size=1_000):
        due = run.done + run.held + run.failed
        yield (
            *(run.at, run.code, run.log, run.since, run.before, due),
            *(run.done, run.held, run.failed, run.event_id),
        )


def held(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    stood = Q(lifted_at=None) | Q(lifted_at__gte=start)
    for one in holds.of(log).filter(stood, placed_at__lt=end).order_by("id"):
        over = one.lifted_at is not None and one.lifted_at < end
        yield (
            *(one.id, one.subject_kind, one.subject_id, one.reason, one.placed_at, one.placed_by),
            *(one.lifted_at if over else None, one.lifted_by if over else ""),
        )


def classification(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    for one in registry.everything():
        for column, level in sorted(one.columns.items()):
            yield (
                *(one.name, column, level.value, one.category, one.role, one.purpose, one.basis),
                *(one.retention, one.location),
            )


def activities(log: str, start: datetime, end: datetime) -> Iterator[_Row]:
    for version, until in _held_in(log, start, end):
        for one in records.read(version)["activities"]:
            yield (
                *(version.number, version.at, until, one["code"]),
                *("; ".join(one[key]) for key in ("purposes", "legal_basis", "subjects")),
                *(one["data"], one["special_categories_possible"], "; ".join(one["because"])),
                "; ".join(f"{each['rule']}: {each['period']}" for each in one["erased_after"]),
                " ".join(one["systems"]),
            )


def documents(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each version of the record that held in the period, and what differs from the one before."""
    if export.profile == "counts-only":
        return
    end = assembly.cut(export)
    for version, _ in _held_in(export.log_id, export.period_start, end):
        document = records.read(version)
        before = records.versions(export.log_id).filter(number=version.number - 1).first()
        if export.profile != "full":
            document = records.without_people(document)
        said = {
            "record": document,
            "number": version.number,
            "at": stamp(version.at),
            "sha256": version.sha256,
            "changes": records.difference(
                records.without_people(records.read(before)) if before else None,
                records.without_people(records.read(version)),
            ),
        }
        path = folder / f"processing-record-{version.number:04}.json"
        path.write_bytes(rfc8785.dumps(json.loads(json.dumps(said))))
        yield f"documents/{path.name}", path


def _held_in(
    log: str, start: datetime, end: datetime
) -> Iterator[tuple[ProcessingVersion, datetime | None]]:
    """Versions that held in the period, the oldest first, and until when."""
    found = list(records.versions(log).filter(at__lte=end).order_by("number"))
    following = [*(one.at for one in found[1:]), None][: len(found)]
    for version, until in zip(found, following, strict=True):
        if until is None or until > start:
            yield version, until
