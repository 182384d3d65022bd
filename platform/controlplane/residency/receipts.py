"""A residency receipt: where one request was processed, by what, and what is kept of it.

Made of what the books have, when somebody asks: no request waits for it. The body is canonical
JSON (RFC 8785); the signer's note over its SHA-256 is what bundles have too, with the kind
`residency_receipt`, so `stoa_verify.py` checks it without this installation.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rfc8785
from django.db import transaction

from billing.models import UsageEvent, UsageInbox
from compliance import audit
from compliance.log import signing
from compliance.privacy import periods
from compliance.stamps import stamp
from controlplane.batches.models import File, Line
from controlplane.endpoints import images, sources
from controlplane.endpoints.models import PlacementRecord, Replica, Upload
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization, Project

KIND = "residency_receipt"
NOT_STORED = "content not stored by Stoa's services"
STORED = "content stored, sealed, in files that the project asked to have kept"
_LINE = 30  # characters of a line's id, which a batch's requests begin with
_WHAT = {  # by the rule of retention that ends it
    "request_inbox": "the request as its gateway closed it",
    "inference_metadata": "usage, which invoices are drawn from",
    "meter_evidence": "records that the node signed of its seconds",
    "accountability": "the record of the placement",
}
_KEPT = ("inference_metadata", "meter_evidence", "accountability")
_METERS = ("input_tokens", "cached_tokens", "output_tokens")


class NotYet(Exception):
    """The request is known and not booked; the message says why."""


@dataclass(frozen=True)
class Asked:
    """A request as the books have it; None: no longer known."""

    request_id: str
    project_id: str
    key_id: str
    endpoint_id: str
    replica_id: str
    tokens: dict[str, int]
    gateway_id: str | None = None
    operation: str | None = None
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    status: int | None = None
    finish: str | None = None
    counted_by: str | None = None
    row_until: datetime | None = None  # when its row in the inbox goes


@dataclass(frozen=True)
class Receipt:
    """`body` is the exact text that `note` signs."""

    body: str
    sha256: str
    note: str


def find(request_id: str) -> Asked | None:
    """The request of that id, of whomever; None where there is none. Raises NotYet."""
    row = UsageInbox.objects.filter(request_id=request_id).first()
    if row is None:
        return _of_usage(request_id)
    if row.booked_at is None:
        raise NotYet(row.problem or "the request has not been booked yet")
    return Asked(
        request_id=row.request_id,
        project_id=row.project_id,
        key_id=row.key_id,
        endpoint_id=row.endpoint_id,
        replica_id=row.replica_id,
        tokens={name: getattr(row, name) for name in _METERS},
        gateway_id=row.gateway_id,
        operation=row.operation,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        status=row.status,
        finish=row.finish,
        counted_by=row.counted_by,
        row_until=periods.until("request_inbox", row.booked_at),
    )


def project_of(request_id: str) -> str:
    """Whose a request is, booked or not; empty where there is none."""
    rows = UsageInbox.objects.filter(request_id=request_id)
    found = rows.values_list("project_id", flat=True).first()
    if found is None:
        asked = _of_usage(request_id)
        found = asked.project_id if asked else ""
    return found


def issue(*, actor: audit.Actor, project: Project, request_id: str, now: datetime) -> Receipt:
    """Sign what is known of a request of that project; the event has the receipt's SHA-256.

    Raises NotFound, NotYet, signing.SignerAway and signing.Refused: then there is no event either.
    """
    asked = find(request_id)
    if asked is None or asked.project_id != project.id:
        raise NotFound("request")
    organization = project.organization
    body = rfc8785.dumps(_body(organization, asked, now))
    digest = hashlib.sha256(body).hexdigest()
    note = signing.manifest(KIND, digest, organization.id)
    with transaction.atomic():
        audit.record(
            actor=actor,
            action="receipt.issue",
            target=audit.Target("request", asked.request_id),
            log=organization.id,
            now=now,
            region=organization.region_code,
            change=[audit.Change("sha256", None, digest)],
        )
    return Receipt(body.decode(), digest, note)


def answer(request_id: str, made: Receipt) -> dict[str, Any]:
    """What is handed out, and what `stoa_verify.py` reads. Raises signing.SignerAway."""
    return {
        "object": KIND,
        "request": request_id,
        "body": made.body,
        "sha256": made.sha256,
        "note": made.note,
        "vkey": signing.vkey(),
    }


def _of_usage(request_id: str) -> Asked | None:
    """After its row in the inbox is gone: what was booked, which has fewer facts."""
    ids = [f"{request_id}:{meter}" for meter in _METERS]
    events = {one.meter: one for one in UsageEvent.objects.filter(id__in=ids)}
    if not events:
        return None
    one = next(iter(events.values()))
    count = {meter: events[meter].quantity if meter in events else 0 for meter in _METERS}
    # In the books the cached tokens are no part of the others.
    count["input_tokens"] += count["cached_tokens"]
    return Asked(
        request_id=request_id,
        project_id=one.project_id,
        key_id=one.key_id,
        endpoint_id=one.endpoint_id,
        replica_id=one.replica_id,
        tokens=count,
        closed_at=one.at,
    )


def _body(organization: Organization, asked: Asked, now: datetime) -> dict[str, Any]:
    records = PlacementRecord.objects.filter(replica_id=asked.replica_id).order_by("rank", "id")
    placed = list(records) if asked.replica_id else []
    rows = Replica.objects.select_related("endpoint", "version")
    replica = rows.filter(id=asked.replica_id).first()
    inside = {one.region for one in placed} == {organization.region_code}
    return {
        "v": 1,
        "kind": KIND,
        "request": asked.request_id,
        "organization": organization.id,
        "project": asked.project_id,
        "key": asked.key_id,
        "pin": organization.region_code,
        "inside_pin": inside if placed else None,
        "processed": [_place(one) for one in placed],
        "gateway": asked.gateway_id,
        "endpoint": asked.endpoint_id,
        "endpoint_version": replica.generation if replica else None,
        "shared_endpoint": bool(placed) and placed[0].organization_id != organization.id,
        "replica": asked.replica_id or None,
        "model": _model(replica) if replica else None,
        "engine": _engine(replica) if replica else None,
        "operation": asked.operation,
        "opened_at": _stamp(asked.opened_at),
        "closed_at": _stamp(asked.closed_at),
        "status": asked.status,
        "finish": asked.finish,
        "tokens": asked.tokens | {"counted_by": asked.counted_by},
        "content": _content(asked),
        "metadata": _metadata(asked),
        "issued_at": stamp(now),
    }


def _place(record: PlacementRecord) -> dict[str, Any]:
    return {
        "region": record.region,
        "country": record.country,
        "node": record.node_id,
        "rank": record.rank,
        "decided_at": stamp(record.decided_at),
    }


def _model(replica: Replica) -> dict[str, Any]:
    """`files_sha256`: over names and sums of an upload's files; of others nobody here has seen the
    bytes, and the revision (a commit, where the source has such) says which they are."""
    version = replica.version
    revision = sources.pinned(version, replica.endpoint.pinned)
    return {
        "source": version.source,
        "name": version.model,
        "revision_asked": version.revision or None,
        "revision": revision or None,
        "files_sha256": _files(version.model) if version.source == SourceKind.UPLOAD else None,
        "image": _image(replica),
    }


def _image(replica: Replica) -> dict[str, Any] | None:
    wished = replica.version.image
    if wished is None:
        return None
    same = replica.endpoint.image == wished
    pinned = images.pinned(replica.endpoint) if same else ""
    return {"reference": wished["reference"], "pinned": pinned or None}


def _files(upload_id: str) -> str | None:
    upload = Upload.objects.filter(id=upload_id, finished_at__isnull=False).first()
    if upload is None:
        return None
    files = sorted(upload.files.values_list("path", "size_bytes", "sha256"))
    return hashlib.sha256(rfc8785.dumps([list(one) for one in files])).hexdigest()


def _engine(replica: Replica) -> dict[str, Any]:
    said = replica.engine_report.get("version")
    return {
        "name": replica.version.engine,
        "version": str(said or replica.version.engine_version) or None,
        "reported": bool(said),
    }


def _content(asked: Asked) -> dict[str, Any]:
    """A line of a batch came out of a file and went into one; nothing else is ever written down."""
    line = Line.objects.select_related("batch").filter(id=asked.request_id[:_LINE]).first()
    if line is None:
        if asked.request_id.startswith("brq_"):
            return {"stored": False, "statement": f"{NOT_STORED}: its batch's files are deleted"}
        return {"stored": False, "statement": NOT_STORED}
    names = (line.batch.input_file_id, line.batch.output_file_id, line.batch.error_file_id)
    kept = File.objects.filter(id__in=[name for name in names if name]).order_by("id")
    files = [{"file": one.id, "until": stamp(one.expires_at)} for one in kept]
    if not files and line.result is None:
        return {"stored": False, "statement": f"{NOT_STORED}: its batch's files are deleted"}
    return {"stored": True, "statement": STORED, "batch": line.batch_id, "files": files}


def _metadata(asked: Asked) -> list[dict[str, Any]]:
    """What is kept of it beside content: ids, figures and times; until when by the rule of
    retention that held then, null where the rule has no end."""
    known = {code: periods.until(code, asked.closed_at) for code in _KEPT if asked.closed_at}
    rows = [("request_inbox", asked.row_until)] if asked.row_until else []
    return [
        {"what": _WHAT[code], "rule": code, "until": _stamp(until)}
        for code, until in [*rows, *known.items()]
    ]


def _stamp(at: datetime | None) -> str | None:
    return stamp(at) if at else None


__all__ = ["KIND", "Asked", "NotYet", "Receipt", "find", "issue"]
