"""How much of each kind of device there was in a period, and how much of it replicas held."""

import itertools
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

from django.db import connection

from billing.reports import margin
from controlplane.endpoints.states import State

# A device is there from when its node joined until the node left; it is held from when a replica
# was placed on it until the node said that no engine of it runs. Microseconds: whole numbers.
_OWNED = """
SELECT p.n, d.kind, sum(EXTRACT(EPOCH FROM
    LEAST(p.until, COALESCE(n.removed_at, %(now)s), %(now)s) - GREATEST(p.since, n.created_at)
) * 1000000)::bigint
FROM unnest(%(numbers)s::int[], %(since)s::timestamptz[], %(until)s::timestamptz[])
    AS p(n, since, until)
JOIN fleet_node n ON n.created_at < LEAST(p.until, %(now)s)
    AND (n.removed_at IS NULL OR n.removed_at > p.since)
JOIN fleet_device d ON d.node_id = n.id
GROUP BY 1, 2
"""
_HELD = """
SELECT p.n, v.spec->>'device_kind', sum((v.spec->>'device_count')::int * r.node_count
    * COALESCE((v.spec->>'device_share')::int, 1000) * EXTRACT(EPOCH FROM
    LEAST(p.until, COALESCE(r.released_at, %(now)s), %(now)s) - GREATEST(p.since, t.at)
) * 1000)::bigint
FROM unnest(%(numbers)s::int[], %(since)s::timestamptz[], %(until)s::timestamptz[])
    AS p(n, since, until)
JOIN endpoints_transition t ON t.to_state = %(placed)s AND t.at < LEAST(p.until, %(now)s)
JOIN endpoints_replica r ON r.id = t.replica_id
    AND (r.released_at IS NULL OR r.released_at > GREATEST(p.since, t.at))
JOIN endpoints_endpointversion v ON v.endpoint_id = r.endpoint_id AND v.number = r.generation
GROUP BY 1, 2
"""
_MICRO = 1_000_000


def of(cuts: Sequence[datetime], now: datetime) -> list[margin.Capacity]:
    """Between each cut and the next, as far as `now`: device-seconds owned and held, by kind."""
    pieces = list(itertools.pairwise(cuts))
    arguments: dict[str, Any] = {
        "numbers": list(range(len(pieces))),
        "since": [since for since, _ in pieces],
        "until": [until for _, until in pieces],
        "now": now,
        "placed": State.PLACED.value,
    }
    with connection.cursor() as cursor:
        cursor.execute(_OWNED, arguments)
        owned = {(n, kind): Fraction(int(us), _MICRO) for n, kind, us in cursor.fetchall()}
        cursor.execute(_HELD, arguments)
        held = {(n, kind): Fraction(int(us), _MICRO) for n, kind, us in cursor.fetchall()}
    none = Fraction(0)
    return [
        margin.Capacity(
            kind, pieces[n][0], pieces[n][1], owned.get((n, kind), none), held.get((n, kind), none)
        )
        for n, kind in sorted({*owned, *held})
    ]
