"""What auditors take away of metering beside usage and what nodes signed: the chain of digests,
and what differed. Of one account, or (None) of all."""

from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

from django.db.models import Model, QuerySet

from billing.models import MeterFinding, MeteringDigest
from compliance import exports

Row = tuple[exports.Value, ...]
DIGESTS = (
    *("account_id", "number", "hour", "events", "events_sha256", "previous_sha256", "sha256"),
    "made_at",
)
FINDINGS = (
    *("id", "kind", "at", "found_at", "node_id", "replica_id", "project_id", "endpoint_id"),
    *("seconds", "detail", "blocks", "explained_at", "explained_by", "explanation"),
)
_Model = TypeVar("_Model", bound=Model)


def digests(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    """Those made for hours of the period; each stands in the audit log, too (metering.digest)."""
    found = MeteringDigest.objects.filter(hour__gte=start, hour__lt=end, made_at__lt=end)
    return _of(found, account_id, ("account_id", "number"), DIGESTS)


def findings(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    found = MeterFinding.objects.filter(found_at__gte=start, found_at__lt=end)
    return _of(found, account_id, ("found_at", "id"), FINDINGS)


def _of(
    rows: "QuerySet[_Model]", account_id: str | None, by: tuple[str, ...], columns: tuple[str, ...]
) -> Iterator[Row]:
    if account_id is not None:
        rows = rows.filter(account_id=account_id)
    yield from rows.order_by(*by).values_list(*columns).iterator(chunk_size=2000)
