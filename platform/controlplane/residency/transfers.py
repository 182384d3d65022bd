"""The no-transfer report: all processing locations of an organization in a period.

It counts three populations by themselves, so that none can hide behind another: the records of
placements, the replicas and members that stand in their own tables, and the requests that were
booked. What lies outside of the pin, and what stands without a record, makes the report red.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rfc8785
from django.db import connection

from compliance.stamps import stamp
from controlplane.tenancy.models import Organization

COLUMNS = (
    *("decided_at", "replica_id", "rank", "endpoint_id", "generation", "project_id", "node_id"),
    *("pool_id", "region", "country", "pin", "outside", "reason", "released_at"),
)
LOCATIONS = (
    *("region", "country", "outside", "nodes", "placements", "requests", "first_at", "last_at"),
)
UNKNOWN = ""  # the region of what has no record

# What stood at any moment of the period: placed before its end, and not let go before its start.
_RECORDS = """
SELECT p.decided_at, p.replica_id, p.rank, p.endpoint_id, p.generation, p.project_id, p.node_id,
       p.pool_id, p.region, p.country, p.pin, p.region <> %(pin)s, p.reason,
       CASE WHEN r.node_count > 1 THEN m.released_at ELSE r.released_at END
FROM endpoints_placementrecord p
LEFT JOIN endpoints_replica r ON r.id = p.replica_id
LEFT JOIN endpoints_member m ON m.replica_id = p.replica_id AND m.rank = p.rank
     AND m.node_id = p.node_id AND r.node_count > 1
WHERE p.organization_id = %(organization)s AND p.decided_at < %(end)s
  AND coalesce(CASE WHEN r.node_count > 1 THEN m.released_at ELSE r.released_at END, %(end)s)
      >= %(start)s
ORDER BY p.decided_at, p.id
"""
# From the tables that placement works on, what has no record: whoever wrote past the triggers left
# it there.
_STANDING = """
SELECT * FROM (
SELECT s.node_id, pool.region_id, g.country, EXISTS (
    SELECT FROM endpoints_placementrecord one
    WHERE one.replica_id = s.replica_id AND one.rank = s.rank AND one.node_id = s.node_id
      AND one.region = pool.region_id) AS recorded
FROM (
    SELECT r.id AS replica_id, 0 AS rank, r.node_id, r.endpoint_id, r.created_at, r.released_at
    FROM endpoints_replica r WHERE r.node_id IS NOT NULL
    UNION ALL
    SELECT r.id, m.rank, m.node_id, r.endpoint_id, r.created_at, m.released_at
    FROM endpoints_member m JOIN endpoints_replica r ON r.id = m.replica_id
) s
JOIN endpoints_endpoint e ON e.id = s.endpoint_id
JOIN tenancy_project p ON p.id = e.project_id
JOIN fleet_node n ON n.id = s.node_id
JOIN fleet_pool pool ON pool.id = n.pool_id
JOIN fleet_region g ON g.code = pool.region_id
WHERE p.organization_id = %(organization)s AND s.created_at < %(end)s
  AND coalesce(s.released_at, %(end)s) >= %(start)s
) standing WHERE NOT recorded ORDER BY 1
"""
# By the replicas that served them, of whichever organization: shared endpoints are others'.
_REQUESTS = """
WITH served AS (
    SELECT replica_id, count(DISTINCT request_id) AS requests FROM billing_usageevent
    WHERE account_id = %(account)s AND at >= %(start)s AND at < %(end)s
      AND request_id <> '' AND replica_id <> ''
    GROUP BY replica_id
)
SELECT coalesce(p.region, ''), coalesce(p.country, ''), sum(s.requests)
FROM served s
LEFT JOIN LATERAL (
    SELECT region, country FROM endpoints_placementrecord p WHERE p.replica_id = s.replica_id
    ORDER BY p.region = %(pin)s, p.id LIMIT 1
) p ON true
GROUP BY 1, 2
"""


@dataclass(frozen=True)
class Span:
    organization: Organization
    start: datetime
    end: datetime

    @property
    def values(self) -> dict[str, Any]:
        return {
            "organization": self.organization.id,
            "account": self.organization.account_id,
            "pin": self.organization.region_code,
            "start": self.start,
            "end": self.end,
        }

    def question(self) -> bytes:
        """What is asked, as canonical JSON: whoever doubts asks the same again."""
        said: dict[str, Any] = {
            "report": "no_transfer",
            "version": 1,
            "organization": self.organization.id,
            "pin": self.organization.region_code,
            "from": stamp(self.start),
            "to": stamp(self.end),
            "population": "placements that stood at any moment of the period; replicas and members"
            " in their own tables, for comparison; requests booked in the period by their replica",
        }
        return rfc8785.dumps(said)


def placements(span: Span) -> Iterator[tuple[Any, ...]]:
    """Every record of the period, in the order of COLUMNS."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(_RECORDS, span.values)
        yield from cursor


def report(span: Span) -> dict[str, Any]:
    """The report as plain JSON; `ok` is whether nothing was outside and nothing unrecorded."""
    places: dict[tuple[str, str], dict[str, Any]] = {}
    population = outside = 0
    for row in placements(span):
        one = dict(zip(COLUMNS, row, strict=True))
        population += 1
        outside += one["outside"]
        place = _place(places, one["region"], one["country"], span)
        place["nodes"].add(one["node_id"])
        place["placements"] += 1
        at = stamp(one["decided_at"])
        place["first_at"], place["last_at"] = place["first_at"] or at, at
    unrecorded, requests, elsewhere = 0, 0, 0
    for node_id, region, country, _ in _rows(_STANDING, span):
        unrecorded += 1
        outside += region != span.organization.region_code
        _place(places, region, country, span)["nodes"].add(node_id)
    for region, country, count in _rows(_REQUESTS, span):
        _place(places, region, country, span)["requests"] += int(count)
        requests += int(count)
        elsewhere += int(count) if region != span.organization.region_code else 0
    question = span.question()
    return {
        "object": "no_transfer_report",
        "ok": not (outside or unrecorded or elsewhere),
        "organization": span.organization.id,
        "pin": span.organization.region_code,
        "period_start": stamp(span.start),
        "period_end": stamp(span.end),
        "population": population,
        "outside_pin": outside,
        "without_record": unrecorded,
        "requests": requests,
        "requests_outside_pin": elsewhere,
        "locations": [_shown(places[key]) for key in sorted(places)],
        "query": question.decode(),
        "query_sha256": hashlib.sha256(question).hexdigest(),
    }


def location_rows(span: Span) -> Iterator[tuple[Any, ...]]:
    """The report's locations, in the order of LOCATIONS."""
    for one in report(span)["locations"]:
        yield tuple(len(one[name]) if name == "nodes" else one[name] for name in LOCATIONS)


def _place(
    places: dict[tuple[str, str], dict[str, Any]], region: str, country: str, span: Span
) -> dict[str, Any]:
    fresh = {
        "region": region,
        "country": country,
        "outside": region != span.organization.region_code,
        "nodes": set(),
        "placements": 0,
        "requests": 0,
        "first_at": "",
        "last_at": "",
    }
    return places.setdefault((region, country), fresh)


def _shown(place: dict[str, Any]) -> dict[str, Any]:
    return place | {"nodes": sorted(place["nodes"])}


def _rows(statement: str, span: Span) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, span.values)
        return list(cursor.fetchall())
