"""The door through which usage enters: in bulk, once for each id."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from billing import errors
from billing.models import Meter, UsageEvent
from compliance import partitions

TABLE = "billing_usageevent"
# The same id at another time would be another row: looked for this far around the batch.
_RETIMED = timedelta(days=35)


@dataclass(frozen=True)
class Event:
    """A quantity of one meter (`models.UsageEvent` says what the fields mean)."""

    id: str
    at: datetime
    account_id: str
    project_id: str
    endpoint_id: str
    region: str
    meter: str
    basis: str
    quantity: int
    key_id: str = ""
    replica_id: str = ""
    request_id: str = ""
    device_kind: str = ""
    flags: tuple[str, ...] = ()
    share: int = 1000
    agent: str = ""
    run: str = ""


_COLUMNS = {
    "id": "text",
    "at": "timestamptz",
    "account_id": "text",
    "project_id": "text",
    "endpoint_id": "text",
    "region": "text",
    "meter": "text",
    "basis": "text",
    "quantity": "bigint",
    "key_id": "text",
    "replica_id": "text",
    "request_id": "text",
    "device_kind": "text",
    "flags": "jsonb",
    "share": "smallint",
    "agent": "text",
    "run": "text",
}
_NAMES = ", ".join(_COLUMNS)
# What an export shows of an event, in this order.
EXPORTED = tuple(_COLUMNS)
_INSERT = (
    f"INSERT INTO {TABLE} ({_NAMES}) SELECT * FROM unnest("
    + ", ".join(f"%s::{kind}[]" for kind in _COLUMNS.values())
    + ") ON CONFLICT (id, at) DO NOTHING"
)
_SAME_IDS = f"SELECT {_NAMES} FROM {TABLE} WHERE id = ANY(%s) AND at >= %s AND at < %s"


def record(events: Iterable[Event]) -> int:
    """Writes the events that are not there yet and returns how many; all or none, idempotent.

    Raises `errors.UsageConflict`, naming the ids, when an id is known with other content; then
    nothing of the batch is kept; ValueError for a time without a zone. Joins the caller's
    transaction where there is one.
    """
    batch: dict[str, Event] = {}
    clashing = set()
    for event in events:
        if event.at.tzinfo is None:
            raise ValueError(f"{event.id}: a time without a zone")
        if batch.setdefault(event.id, event) != event:
            clashing.add(event.id)
    if clashing:
        raise errors.UsageConflict(clashing)
    if not batch:
        return 0
    times = [event.at.astimezone(UTC) for event in batch.values()]
    first, last = min(times), max(times)
    with transaction.atomic(), connection.cursor() as cursor:
        for month in {(at.year, at.month): at for at in times}.values():
            partitions.provide(TABLE, month)
        # In the order of their ids, so that two writers of the same events cannot lock crosswise.
        cursor.execute(_INSERT, _arrays(sorted(batch.values(), key=lambda event: event.id)))
        inserted: int = cursor.rowcount
        cursor.execute(_SAME_IDS, [list(batch), first - _RETIMED, last + _RETIMED])
        clashing = {row[0] for row in cursor if _event(row) != batch[row[0]]}
        if clashing:
            raise errors.UsageConflict(clashing)
    return inserted


def request_event_id(request_id: str, meter: str) -> str:
    """The id of what a request used of one meter: the same each time that it is booked."""
    return f"{request_id}:{meter}"


def page(
    accounts: Collection[str],
    projects: Collection[str],
    start: datetime,
    end: datetime,
    *,
    endpoint_id: str = "",
    request_id: str = "",
    after: str = "",
    limit: int,
) -> list[UsageEvent]:
    """The usage of `projects`, which are of `accounts`, with start <= at < end, oldest first.

    `after` is the id of the last event of the page before, and an unknown one ends the list. It
    reads the page, and not what comes before or after it.
    """
    found = UsageEvent.objects.filter(
        account_id__in=accounts, project_id__in=projects, at__gte=start, at__lt=end
    )
    if endpoint_id:
        found = found.filter(endpoint_id=endpoint_id)
    if request_id:
        ids = [request_event_id(request_id, meter) for meter in Meter.values]
        found = found.filter(id__in=ids)
    if after:
        last = UsageEvent.objects.filter(id=after, account_id__in=accounts).first()
        if last is None:
            return []
        found = found.filter(Q(at=last.at, id__gt=last.id) | Q(at__gt=last.at), at__gte=last.at)
    return list(found.order_by("at", "id")[:limit])


def rows(account_id: str, start: datetime, end: datetime) -> Iterator[tuple[Any, ...]]:
    """The usage of an account with start <= at < end, oldest first, in the order of EXPORTED."""
    found = UsageEvent.objects.filter(account_id=account_id, at__gte=start, at__lt=end)
    for event in found.order_by("at", "id").iterator(chunk_size=2_000):
        row = {name: getattr(event, name) for name in EXPORTED}
        yield tuple({**row, "flags": " ".join(event.flags)}.values())


def _arrays(events: Iterable[Event]) -> list[list[Any]]:
    rows = [
        [getattr(event, name) if name != "flags" else json.dumps(event.flags) for name in _COLUMNS]
        for event in events
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _event(row: tuple[Any, ...]) -> Event:
    fields = dict(zip(_COLUMNS, row, strict=True))
    flags = fields.pop("flags")
    return Event(**fields, flags=tuple(json.loads(flags) if isinstance(flags, str) else flags))
