"""From a request that a gateway delivered to usage: many at a time, each once.

PostgreSQL makes events of rows where both lie: at thousands of requests a second, carrying them
through here and back would be most of the work. Whose endpoints and projects are is the caller's
to say, once for each of a batch.
"""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction

from billing.meters import usage
from compliance import partitions

# A gateway's clock may be this far ahead of ours.
CLOCK_SKEW = timedelta(minutes=5)
# More tokens than any context times any number of choices: a counter gone wrong.
ABSURD_TOKENS = 1_000_000_000
BATCH = "brq_"  # how ids of lines of batches begin: only the control plane can draw them
CLASH = "usage of this id is recorded with other content"


class Place(NamedTuple):
    """An endpoint, whose it is, and from when on requests to it may count (`since`). Others than
    its project call it while it is shared: never, if `shared_from` is None."""

    endpoint_id: str
    project_id: str
    owner: str  # an organization
    region: str
    device_kind: str
    since: datetime
    shared_from: datetime | None = None
    shared_until: datetime | None = None


class Asker(NamedTuple):
    """A project that asked, and who owes for what is not its own organization's."""

    project_id: str
    owner: str
    account_id: str
    region: str


Places = Callable[[Collection[str]], Iterable[Place]]
Askers = Callable[[Collection[str]], Iterable[Asker]]


@dataclass(frozen=True)
class Booked:
    """How many requests became usage, and why others could not, by their ids."""

    requests: int
    problems: dict[str, str]


def book(now: datetime, limit: int, places: Places, askers: Askers) -> Booked:
    """Turns up to `limit` requests into usage, in one transaction; `places` and `askers` say what
    there is of some endpoints and projects.

    Safe to run side by side: each takes rows that no other holds. A request that cannot be booked
    keeps its row, with `problem` set.
    """
    with transaction.atomic():
        taken = _take(limit)
        if not taken:
            return Booked(0, {})
        known = list(places({endpoint for _, endpoint, _, _ in taken}))
        asked = {
            **_columns("place", Place, known),
            **_columns("asker", Asker, askers({project for *_, project, _ in taken})),
            "requests": [request for request, *_ in taken],
            "clashing": [],
            "skew": CLOCK_SKEW,
            "now": now,
        }
        problems = _enter(asked, _possible([at for *_, at in taken], known, now))
        _mark(asked["requests"], problems, now)
    return Booked(len(taken) - len(problems), problems)


_TAKE = """
SELECT request_id, endpoint_id, project_id, closed_at
FROM billing_usageinbox WHERE booked_at IS NULL AND problem = ''
ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
_TIMES = ("since", "shared_from", "shared_until")


def _given(name: str, row: type[NamedTuple]) -> str:
    """A WITH clause of `rows` that come as one array for each field."""
    arrays = (
        f"%({name}_{field})s::{'timestamptz' if field in _TIMES else 'text'}[]"
        for field in row._fields
    )
    columns = ", ".join(row._fields)
    return f"{name} ({columns}) AS MATERIALIZED (SELECT * FROM unnest({', '.join(arrays)}))"


# Each request with who owes for it, and why it cannot be booked, or null.
_ASKED = f"""
WITH {_given("place", Place)}, {_given("asker", Asker)},
asked AS MATERIALIZED (
    SELECT r.*, a.account_id, p.region, p.device_kind,
        CASE WHEN a.owner = p.owner THEN 'attribution' ELSE 'charge' END AS basis,
        CASE
            WHEN p.endpoint_id IS NULL THEN format('no endpoint %%L', r.endpoint_id)
            WHEN a.project_id IS NULL OR (r.project_id <> p.project_id AND (
                p.shared_from IS NULL OR p.region <> a.region
                OR r.closed_at < p.shared_from - %(skew)s
                OR r.opened_at > p.shared_until + %(skew)s
            )) THEN format('endpoint %%s is not of project %%L', r.endpoint_id, r.project_id)
            WHEN least(r.input_tokens, r.cached_tokens, r.output_tokens) < 0
                OR greatest(r.input_tokens, r.cached_tokens, r.output_tokens) > {ABSURD_TOKENS}
                THEN format('no such token counts: (%%s, %%s, %%s)',
                            r.input_tokens, r.cached_tokens, r.output_tokens)
            WHEN r.closed_at < p.since - %(skew)s OR r.closed_at > %(now)s + %(skew)s
                THEN format('closed at %%s, which cannot be', r.closed_at)
            WHEN r.request_id = ANY (%(clashing)s) THEN '{CLASH}'
        END AS why
    FROM billing_usageinbox r
    LEFT JOIN place p ON p.endpoint_id = r.endpoint_id
    LEFT JOIN asker a ON a.project_id = r.project_id
    WHERE r.request_id = ANY (%(requests)s)
)
"""
# What an auditor or a bill should know of a count: it was cut off, or not the engine's own, or a
# line of a batch.
_FLAGS = f"""
to_jsonb(array_remove(ARRAY[
    CASE WHEN finish NOT IN ('', 'complete') THEN finish END,
    CASE WHEN counted_by NOT IN ('', 'engine') THEN counted_by END,
    CASE WHEN cached_tokens > input_tokens THEN 'cached_above_input' END,
    CASE WHEN starts_with(request_id, '{BATCH}') THEN 'batch' END
]::text[], NULL))
"""
_ENTER = f"""
{_ASKED}, given AS MATERIALIZED (
SELECT request_id || ':' || m.meter AS id, closed_at AS at, account_id, project_id, endpoint_id,
    region, m.meter AS meter, basis, m.quantity AS quantity, key_id, replica_id, request_id,
    device_kind, {_FLAGS} AS flags, 1000::smallint AS share, agent, run
FROM asked CROSS JOIN LATERAL (VALUES
    ('input_tokens', input_tokens - least(cached_tokens, input_tokens)),
    ('cached_tokens', least(cached_tokens, input_tokens)),
    ('output_tokens', output_tokens)
) AS m(meter, quantity)
WHERE why IS NULL AND m.quantity > 0
), added AS ({usage.ADD} RETURNING 1), known AS ({usage.KNOWN})
SELECT (SELECT count(*) FROM given) - (SELECT count(*) FROM added),
    (SELECT count(*) FROM known),
    (SELECT array_agg(id) FROM known WHERE differs),
    (SELECT jsonb_object_agg(request_id, why) FROM asked WHERE why IS NOT NULL)
"""
_MARK = """
UPDATE billing_usageinbox SET booked_at = %s WHERE request_id = ANY (%s)
"""
_SET_ASIDE = """
UPDATE billing_usageinbox r SET problem = left(p.value, 200)
FROM jsonb_each_text(%s) p WHERE r.request_id = p.key
"""


def _take(limit: int) -> list[tuple[str, str, str, datetime]]:
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [limit])
        return list(cursor)


def _columns(name: str, row: type[NamedTuple], rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """The parameters of `_given`."""
    given = list(rows)
    return {f"{name}_{field}": [one[i] for one in given] for i, field in enumerate(row._fields)}


def _possible(closed: list[datetime], places: Iterable[Place], now: datetime) -> list[datetime]:
    """The times at which something may have been used: others get no partition."""
    since = min((place.since for place in places), default=now) - CLOCK_SKEW
    return [at for at in closed if since <= at <= now + CLOCK_SKEW]


def _enter(asked: dict[str, Any], closed: list[datetime]) -> dict[str, str]:
    """Adds the usage; the requests of which none is added, and why."""
    for month in {(at.year, at.month): at for at in closed}.values():
        partitions.provide(usage.TABLE, month)
    asked |= usage.around(min(closed, default=asked["now"]), max(closed, default=asked["now"]))
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_ENTER, asked)
            ((old, known, clashing, problems),) = cursor.fetchall()
            if old == known and not clashing:
                return json.loads(problems) if problems else {}
            transaction.set_rollback(True)
        # Otherwise somebody added the same usage meanwhile: now it is seen.
        requests = {event.rpartition(":")[0] for event in clashing or ()}
        asked["clashing"] = sorted({*asked["clashing"], *requests})


def _mark(requests: list[str], problems: dict[str, str], now: datetime) -> None:
    booked = [request for request in requests if request not in problems]
    with connection.cursor() as cursor:
        cursor.execute(_MARK, [now, booked])
        if problems:
            cursor.execute(_SET_ASIDE, [json.dumps(problems)])
