"""The nodes of a pool as placement sees them, read once for as many replicas as there are.

What was taken since is crossed off, so a picture serves a whole sweep. It may be wrong by what
others took: `placing` looks again under the node's lock, and then asks for a new one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import connection

from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import LIVE
from controlplane.placement.choose import (
    Candidate,
    FreeDevice,
    Need,
    Placement,
    Refusal,
    choose,
)


@dataclass
class Board:
    """Candidates by pool and kind of device, as they stood at `now`."""

    now: datetime

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str], dict[str, Candidate]] = {}
        self._refused: dict[tuple[str, Need], Refusal] = {}

    def refusal(self, endpoint: Endpoint, need: Need) -> Refusal | None:
        """What was answered before: nothing here becomes free."""
        return self._refused.get((endpoint.pool_id, need))

    def choose(self, endpoint: Endpoint, need: Need) -> Placement | Refusal:
        answer = choose(need, self.candidates(endpoint, need.kind))
        if isinstance(answer, Refusal):
            self._refused[endpoint.pool_id, need] = answer
        return answer

    def took(self, endpoint: Endpoint, kind: str, placed: Placement) -> None:
        nodes, taken = self._nodes(endpoint, kind), set(placed.device_ids)
        if node := nodes.get(placed.node_id):
            left = tuple(one for one in node.free if one.id not in taken)
            nodes[node.node_id] = replace(node, free=left)

    def forget(self, endpoint: Endpoint, kind: str) -> None:
        """It is old: read anew."""
        self._read.pop((endpoint.pool_id, kind), None)

    def candidates(self, endpoint: Endpoint, kind: str) -> list[Candidate]:
        """The nodes of the endpoint's pool, with what each has free of that kind."""
        siblings = Counter(
            Replica.objects.filter(endpoint=endpoint, state__in=LIVE)
            .order_by()
            .values_list("node_id", flat=True)
        )
        return [
            replace(one, siblings=siblings[id]) if id in siblings else one
            for id, one in self._nodes(endpoint, kind).items()
        ]

    def _nodes(self, endpoint: Endpoint, kind: str) -> dict[str, Candidate]:
        key = (endpoint.pool_id, kind)
        if key not in self._read:
            self._read[key] = _nodes(endpoint, kind, self.now)
        return self._read[key]


def walled(walls: Iterable[str]) -> bool:
    """Whether a node's engines cannot reach each other: a user of its own, and no shared
    loopback."""
    raised = set(walls)
    return "uid" in raised and bool(raised & {"network", "socket"})


def _nodes(endpoint: Endpoint, kind: str, now: datetime) -> dict[str, Candidate]:
    owner = endpoint.pool.organization_id or ""
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, {"pool": endpoint.pool_id, "kind": kind, "now": now})
        return {
            id: Candidate(
                node_id=id,
                name=name,
                free=tuple(
                    FreeDevice(device, index, kind)
                    for device, index in zip(devices, indexes, strict=True)
                ),
                total=total,
                closed=closed,
                organization_id=owner,
                walled=walled(walls.split()),
            )
            for id, name, closed, walls, total, devices, indexes in cursor.fetchall()
        }


_STATEMENT = """
WITH free AS (
    SELECT d.node_id, count(*) AS total,
           array_agg(d.id ORDER BY d.index) FILTER (WHERE c.device_id IS NULL) AS ids,
           array_agg(d.index ORDER BY d.index) FILTER (WHERE c.device_id IS NULL) AS indexes
    FROM fleet_device d
    JOIN fleet_node n ON n.id = d.node_id
    LEFT JOIN endpoints_deviceclaim c ON c.device_id = d.id
    WHERE n.pool_id = %(pool)s AND n.removed_at IS NULL AND d.healthy AND d.kind = %(kind)s
    GROUP BY d.node_id
)
SELECT n.id, n.name,
       CASE WHEN n.drain_requested_at IS NOT NULL THEN 'it is being drained'
            WHEN n.cordoned_at IS NOT NULL THEN 'it is cordoned'
            WHEN n.lease_until > %(now)s THEN ''
            ELSE 'it is unreachable' END,
       COALESCE((
           SELECT string_agg(wall, ' ') FROM jsonb_array_elements_text(n.inventory -> 'walls') wall
       ), ''),
       COALESCE(f.total, 0), COALESCE(f.ids, '{}'), COALESCE(f.indexes, '{}')
FROM fleet_node n
LEFT JOIN free f ON f.node_id = n.id
WHERE n.pool_id = %(pool)s AND n.removed_at IS NULL
ORDER BY n.id
"""
