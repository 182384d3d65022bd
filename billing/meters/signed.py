"""What nodes signed, as it is handed out: to its customer only batches that are of nobody else."""

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from billing import tenants
from billing.meters.models import FindingKind, NodeBatch, NodeCertificate
from billing.meters.proving import Certificate, Signed
from compliance import exports

# Of these batches what fits was taken.
CLASHES = (FindingKind.CONFLICT.value, FindingKind.OVERLAP.value)
Row = tuple[exports.Value, ...]
BATCHES = (
    *("id", "node_id", "machine_boot", "received_at", "problem", "certificate_sha256"),
    *("signature", "body"),
)
CERTIFICATES = ("sha256", "node_id", "seen_at", "der")
AUTHORITIES = ("region", "certificate_pem")


def batches(account_id: str, start: datetime, end: datetime) -> Iterator[Signed]:
    """Those of an account that arrived at start <= t < end and were signed by their nodes, in the
    order of arrival."""
    found = _of(account_id, start, end).filter(problem__in=("", *CLASHES))
    for one in found.iterator(chunk_size=500):
        yield Signed(
            node_id=one.node_id,
            received_at=one.received_at,
            certificate_sha256=one.certificate_sha256,
            body=bytes(one.body),
            signature=bytes(one.signature),
        )


def certificates(account_id: str, start: datetime, end: datetime) -> Iterator[Certificate]:
    """By which these batches were signed."""
    for one in _certificates(account_id, start, end):
        yield Certificate(sha256=one.sha256, node_id=one.node_id, der=bytes(one.der))


# --- for exports: of one account, or (None) of all -------------------------------------------


def batch_rows(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    """`body` and `signature` in base64: the very bytes. What was set aside says its `problem`."""
    for one in _of(account_id, start, end).iterator(chunk_size=500):
        yield (
            *(one.id, one.node_id, one.machine_boot, one.received_at, one.problem),
            *(one.certificate_sha256, _text(one.signature), _text(one.body)),
        )


def certificate_rows(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    for one in _certificates(account_id, start, end):
        yield one.sha256, one.node_id, one.seen_at, _text(one.der)


def authority_rows(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    yield from sorted(tenants.authorities().items())


def _of(account_id: str | None, start: datetime, end: datetime) -> QuerySet[NodeBatch]:
    found = NodeBatch.objects.filter(received_at__gte=start, received_at__lt=end)
    if account_id is not None:
        found = found.filter(account_id=account_id)
    return found.order_by("received_at", "id")


def _certificates(
    account_id: str | None, start: datetime, end: datetime
) -> QuerySet[NodeCertificate]:
    shown = _of(account_id, start, end).order_by().values("certificate_sha256")
    return NodeCertificate.objects.filter(sha256__in=shown).order_by("sha256")


def _text(content: Any) -> str:
    return base64.b64encode(bytes(content)).decode()
