"""The export kind `annex_a`: the tables of all producers, an evidence record of each, and the list
of all controls as JSON and as pages for people.

A record says what was asked (`source_query`), how many rows there are, where they lie with their
sum, and under which signed head of the log that was: so that whoever doubts can ask again.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import rfc8785

from compliance import annex_pages, controls
from compliance.bundles import assembly, kinds
from compliance.controls import CONTROLS, Control, Producer
from compliance.log.models import Log, LogCheckpoint, LogLeaf
from compliance.models import AuditEvent, Export
from compliance.stamps import stamp

MOST_MISSING = 20  # that are named
_AT_ONCE = 5_000


def register() -> None:
    """Before the first producer is registered: each adds its table."""
    kinds.register_kind(controls.KIND, controls.TITLE, (), documents=documents)


def documents(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
    end = assembly.cut(export)
    owner = kinds.owner(export.log_id)
    mine = [one for _, one in sorted(controls.producers.items()) if owner in one.logs]
    head = LogCheckpoint.objects.get(id=export.choice["head"])
    lacking = missing(export.log_id, export.period_start, end)
    records = [
        record(one, export, end, folder.parent / f"{one.name}.jsonl", head, lacking) for one in mine
    ]
    counts = {one["producer"]: one["population_count"] for one in records}
    listed = [entry(control, owner, counts) for control in CONTROLS.values()]
    yield _json("controls.json", {"catalogue": controls.CATALOGUE, "controls": listed}, folder)
    pages = folder / "controls.pdf"
    pages.write_bytes(annex_pages.render(export, end, listed))
    yield "documents/controls.pdf", pages
    yield _json("evidence.json", {"records": records}, folder)


def entry(control: Control, owner: str, counts: dict[str, int] | None = None) -> dict[str, Any]:
    """A control as it stands in lists: with producers, or organisational with the reason."""
    found = controls.of_control(control.id, owner)
    return {
        "control": control.id,
        "ref": control.ref,
        "title": control.title,
        "evidence": "software" if found else "organisational",
        "producers": [one.name for one in found],
        "beside": control.beside or ("" if found else _ELSEWHERE),
    } | ({"rows": {one.name: counts[one.name] for one in found}} if counts is not None else {})


_ELSEWHERE = "what the software shows of it is in the operator's own pack"


def record(
    producer: Producer,
    export: Export,
    end: datetime,
    table: Path,
    head: LogCheckpoint,
    lacking: list[int],
) -> dict[str, Any]:
    with table.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with table.open("rb") as file:
        count = sum(1 for _ in file)
    said = question(producer, export.log_id, export.period_start, end)
    return said | {
        "collected_at": stamp(export.created_at),
        "population_count": count,
        **result(producer, count, lacking),
        "artefact": {"path": f"data/{producer.name}.jsonl", "sha256": digest},
        "checkpoint": {
            "origin": Log.objects.only("origin").get(id=head.log_id).origin,
            "size": head.size,
            "root": bytes(head.root).hex(),
        },
    }


def question(producer: Producer, log: str, start: datetime, end: datetime) -> dict[str, Any]:
    """The part of a record that is known before anything is read."""
    query = controls.source_query(producer, log, start, end)
    return {
        "evidence_id": controls.evidence_id(producer, log, start, end),
        "producer": producer.name,
        "control_refs": producer.refs,
        "period": {"from": stamp(start), "to": stamp(end)},
        "collector": f"stoa/{producer.name}",
        "collector_version": producer.version,
        "source_query": json.loads(query),
        "source_query_hash": hashlib.sha256(query).hexdigest(),
    }


def result(producer: Producer, count: int, lacking: list[int]) -> dict[str, Any]:
    """`incomplete` where the log has leaves in the period whose events are gone."""
    if lacking:
        return {"result": "incomplete", "missing_indices": lacking}
    return {"result": "listed" if count else "none_in_period"}


def missing(log: str, start: datetime, end: datetime) -> list[int]:
    """The first indices of a log in the period whose event is not there any more."""
    logs = Log.objects.filter(owner=log).values_list("id", flat=True)
    leaves = LogLeaf.objects.filter(
        log_id__in=list(logs), recorded_at__gte=start, recorded_at__lt=end
    )
    found: list[int] = []
    for some in _chunks(leaves.order_by("recorded_at").values_list("event_id", "index")):
        kept = AuditEvent.objects.filter(
            id__in=list(some), recorded_at__gte=start, recorded_at__lt=end
        )
        there = set(kept.values_list("id", flat=True))
        found += [index for event, index in some.items() if event not in there]
        if len(found) > MOST_MISSING:
            break
    return sorted(found)[:MOST_MISSING]


def _chunks(rows: Any) -> Iterator[dict[str, int]]:
    some: dict[str, int] = {}
    for event, index in rows.iterator(chunk_size=_AT_ONCE):
        some[event] = index
        if len(some) == _AT_ONCE:
            yield some
            some = {}
    if some:
        yield some


def _json(name: str, said: dict[str, Any], folder: Path) -> tuple[str, Path]:
    path = folder / name
    path.write_bytes(rfc8785.dumps(said))
    return f"documents/{name}", path
