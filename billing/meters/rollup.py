"""Sums of usage by the hour, as the database keeps them beside it (migration `usagehour`).

A row is of one account, hour, project, endpoint, key, agent, meter, basis, device kind, share and
region, and lies within one price: an hour in which a price begins or ends has several, and
`bucket` says where each starts. So a month of an account is read without its events.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction

from billing import rating
from billing.models import Basis
from billing.pricing import charges, prices

HOUR = timedelta(hours=1)
_OWED = (Basis.CHARGE.value, Basis.CREDIT.value)
_KEY = (
    "account_id, bucket, project_id, endpoint_id, key_id, agent, meter, basis, device_kind, share,"
    " region"
)
_WHAT = "project_id, endpoint_id, key_id, agent, meter, basis, device_kind, share"
_BUCKET = "billing_bucket(at, billing_price_cuts(%(floor)s, %(ceiling)s))"
# Whole hours, less what was used in them outside of the period. `events` are few: an index finds
# them by account and time.
_PERIOD = f"""
SELECT bucket, {_WHAT}, '' AS run, quantity FROM billing_usagehour
WHERE account_id = %(account)s AND bucket >= %(floor)s AND bucket < %(ceiling)s
"""
_OUTSIDE = f"""
SELECT {_BUCKET}, {_WHAT}, '', -quantity FROM billing_usageevent
WHERE account_id = %(account)s AND at >= %({{}})s AND at < %({{}})s
"""
# A run is on the events alone: those that have one are taken from the sum of those that have none.
_RUNS = f"""
SELECT {_BUCKET}, {_WHAT}, share_of.run, share_of.sign * quantity FROM billing_usageevent,
LATERAL (VALUES (split_part(run, '/', 1), 1), ('', -1)) AS share_of(run, sign)
WHERE account_id = %(account)s AND at >= %(start)s AND at < %(end)s
    AND billing_usageevent.run <> ''
"""


@dataclass(frozen=True)
class Sum:
    """Units of a meter on one basis; `at` lies within the price that they were used at."""

    key: str  # what was asked for: a project's id, an hour, …
    meter: str
    basis: str
    device_kind: str
    share: int
    at: datetime
    quantity: int


def sums(
    key: str,
    account_id: str,
    start: datetime,
    end: datetime,
    *,
    turns: Sequence[datetime] = (),
    only: Mapping[str, str] | None = None,
    runs: bool = False,
) -> list[Sum]:
    """The usage with start <= at < end, by `key`, an expression over a row's columns.

    `turns`: where prices change; sums are cut there. `only`: values that columns must have.
    `runs`: the column `run` is asked for, the reference of a topmost run; it reads their events.
    """
    if start >= end:
        return []
    floor, ceiling = hour_start(start), hour_end(end)
    parts = [_PERIOD]
    if floor < start:
        parts.append(_OUTSIDE.format("floor", "start"))
    if end < ceiling:
        parts.append(_OUTSIDE.format("end", "ceiling"))
    if runs:
        parts.append(_RUNS)
    given: dict[str, Any] = {f"only_{column}": value for column, value in (only or {}).items()}
    given |= {"account": account_id, "floor": floor, "start": start, "end": end}
    given |= {"ceiling": ceiling, "turns": list(turns)}
    narrowed = " AND ".join(["TRUE", *(f"{column} = %(only_{column})s" for column in only or ())])
    query = (
        f"SELECT {key}, meter, basis, device_kind, share, min(bucket), sum(quantity)::bigint"
        f" FROM ({' UNION ALL '.join(parts)}) AS used WHERE {narrowed}"
        " GROUP BY 1, 2, 3, 4, 5, width_bucket(bucket, ARRAY['-infinity'::timestamptz]"
        " || %(turns)s::timestamptz[]) HAVING sum(quantity) <> 0"
    )
    with connection.cursor() as cursor:
        cursor.execute(query, given)
        return [Sum(*row) for row in cursor]


def used(
    account_id: str, start: datetime, end: datetime, turns: Sequence[datetime] | None = None
) -> Iterator[charges.Used]:
    """What an account owes for, or was given back, with start <= at < end; whole hours alone.

    `turns`: where prices change (`rating.changes`); the published ones, if it is left out. One for
    each project, endpoint, meter, kind, share and price. Raises ValueError for a period that begins
    or ends within an hour.
    """
    _whole(start, end)
    if turns is None:
        turns = rating.changes(prices.versions(account_id=account_id))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT project_id, endpoint_id, meter, device_kind, share, basis, min(bucket),"
            " sum(quantity)::bigint FROM billing_usagehour"
            " WHERE account_id = %s AND bucket >= %s AND bucket < %s AND basis = ANY (%s)"
            " GROUP BY 1, 2, 3, 4, 5, 6, width_bucket(bucket,"
            " ARRAY['-infinity'::timestamptz] || %s::timestamptz[])"
            " ORDER BY 1, 2, 3, 4, 5, 6, 7",
            [account_id, start, end, list(_OWED), list(turns)],
        )
        yield from (charges.Used(*row) for row in cursor)


@dataclass(frozen=True)
class HourSum:
    """What is owed (or given back) of an account's hour."""

    account_id: str
    hour: datetime
    meter: str
    basis: str
    device_kind: str
    share: int
    at: datetime
    quantity: int


def of_hours(pairs: Iterable[tuple[str, datetime]]) -> list[HourSum]:
    """Of some (account, hour) pairs."""
    asked = list(pairs)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.account, p.hour, h.meter, h.basis, h.device_kind, h.share, h.bucket,"
            " sum(h.quantity)::bigint FROM unnest(%s::text[], %s::timestamptz[]) p(account, hour)"
            " CROSS JOIN LATERAL (SELECT * FROM billing_usagehour u WHERE u.account_id = p.account"
            "  AND u.bucket >= p.hour AND u.bucket < p.hour + interval '1 hour' OFFSET 0) h"
            " WHERE h.basis = ANY (%s) GROUP BY 1, 2, 3, 4, 5, 6, 7",
            [[account for account, _ in asked], [hour for _, hour in asked], list(_OWED)],
        )
        return [HourSum(*row) for row in cursor]


def rebuild(start: datetime, end: datetime) -> None:
    """The sums of whole hours anew, from all usage in them. Holds up who adds usage meanwhile.

    Only damage makes it necessary; `verify` finds that. Raises ValueError as `used`.
    """
    _whole(start, end)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT billing_rebuild_usagehour(%s, %s)", [start, end])


@dataclass(frozen=True)
class Difference:
    """A sum that is not that of its events: quantity and number of events, kept and counted."""

    account_id: str
    bucket: datetime
    key: tuple[Any, ...]  # the other columns, in the order of the table's key
    kept: tuple[int, int]
    counted: tuple[int, int]


_VERIFY = f"""
SELECT {_KEY}, coalesce(kept.quantity, 0), coalesce(kept.events, 0),
    coalesce(counted.quantity, 0)::bigint, coalesce(counted.events, 0)
FROM (SELECT * FROM billing_usagehour WHERE bucket >= %(floor)s AND bucket < %(ceiling)s) kept
FULL JOIN (
    SELECT account_id, {_BUCKET} AS bucket, {_WHAT}, region, sum(quantity) AS quantity,
        count(*) AS events
    FROM billing_usageevent WHERE at >= %(floor)s AND at < %(ceiling)s
    GROUP BY account_id, 2, {_WHAT}, region
) counted USING ({_KEY})
WHERE kept.quantity IS DISTINCT FROM counted.quantity OR kept.events IS DISTINCT FROM counted.events
LIMIT %(limit)s
"""


def verify(start: datetime, end: datetime, *, limit: int = 100) -> list[Difference]:
    """Where sums of whole hours are not those of all usage in them: nowhere. Reads it all."""
    _whole(start, end)
    with connection.cursor() as cursor:
        cursor.execute(_VERIFY, {"floor": start, "ceiling": end, "limit": limit})
        return [
            Difference(row[0], row[1], row[2:11], (row[11], row[12]), (row[13], row[14]))
            for row in cursor
        ]


def hour_start(moment: datetime) -> datetime:
    """The hour that it is in, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_end(moment: datetime) -> datetime:
    """The first whole hour that is not before it."""
    start = hour_start(moment)
    return start if start == moment else start + HOUR


def _whole(*moments: datetime) -> None:
    for moment in moments:
        if hour_start(moment) != moment:
            raise ValueError(f"{moment.isoformat()} is within an hour")
