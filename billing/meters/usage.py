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
# More of a meter at once than there is in the world: a counter gone wrong. The table agrees.
MOST = 10**12
# Adds the events of a relation `given` that are not there yet, in the order of their ids, so that
# two writers of the same events cannot lock crosswise.
ADD = (
    f"INSERT INTO {TABLE} ({_NAMES}) SELECT {_NAMES} FROM given ORDER BY id"
    " ON CONFLICT (id, at) DO NOTHING"
)
# What is known of the ids in `given` from %(since)s to %(until)s, and whether it differs.
KNOWN = f"""
SELECT given.id, ({", ".join(f"known.{name}" for name in _COLUMNS)})
    IS DISTINCT FROM ({", ".join(f"given.{name}" for name in _COLUMNS)}) AS differs
FROM given JOIN billing_known_usage(ARRAY(SELECT id::text FROM given), %(since)s, %(until)s) known
    ON known.id = given.id
"""
_GIVEN = (
    f"WITH given ({_NAMES}) AS (SELECT * FROM unnest("
    + ", ".join(f"%({name})s::{kind}[]" for name, kind in _COLUMNS.items())
    + "))"
)
_TWICE = """
SELECT id FROM billing_known_usage(%(id)s::text[], %(since)s, %(until)s)
GROUP BY id HAVING count(*) > 1
"""


def record(events: Iterable[Event]) -> int:
    """Writes the events that are not there yet and returns how many; all or none, idempotent.

    Raises `errors.UsageConflict`, naming the ids, when an id is known with other content, and
    `errors.UsageRefused` for a quantity that cannot be; then nothing of the batch is kept;
    ValueError for a time without a zone. Joins the caller's transaction where there is one.
    """
    batch: dict[str, Event] = {}
    clashing, absurd = set(), set()
    for event in events:
        if event.at.tzinfo is None:
            raise ValueError(f"{event.id}: a time without a zone")
        if type(event.quantity) is not int or not 0 < event.quantity <= MOST:
            absurd.add(event.id)
        if batch.setdefault(event.id, event) != event:
            clashing.add(event.id)
    if absurd:
        raise errors.UsageRefused(absurd)
    if clashing:
        raise errors.UsageConflict(clashing)
    if not batch:
        return 0
    times = [event.at.astimezone(UTC) for event in batch.values()]
    with transaction.atomic():
        for month in {(at.year, at.month): at for at in times}.values():
            partitions.provide(TABLE, month)
        given = _arrays(batch.values()) | around(min(times), max(times))
        added, clashing = _enter(given, len(batch))
        if clashing:
            raise errors.UsageConflict(clashing)
    return added


def around(first: datetime, last: datetime) -> dict[str, datetime]:
    """Where the same ids are looked for: the parameters of KNOWN."""
    return {"since": first - _RETIMED, "until": last + _RETIMED}


def _enter(given: dict[str, Any], count: int) -> tuple[int, set[str]]:
    """How many events were added, and the ids that are known with other content."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_GIVEN} {ADD}", given)
        added: int = cursor.rowcount
        # What was added may only be there twice, at another time; what was not must be the same.
        if added == count:
            cursor.execute(_TWICE, given)
        else:
            cursor.execute(f"{_GIVEN} SELECT id FROM ({KNOWN}) AS known WHERE differs", given)
        return added, {id for (id,) in cursor}


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


def _arrays(events: Iterable[Event]) -> dict[str, Any]:
    """Column by column, as PostgreSQL writes arrays: to adapt each value by itself would take as
    long as all that the database does with it."""
    rows = list(events)
    columns: dict[str, Iterable[Any]] = {
        name: [getattr(row, name) for row in rows] for name in _COLUMNS
    }
    columns["flags"] = map(json.dumps, columns["flags"])
    return {name: _array(map(str, values)) for name, values in columns.items()}


def _array(values: Iterable[str]) -> str:
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return '{"' + '","'.join(escaped) + '"}'
