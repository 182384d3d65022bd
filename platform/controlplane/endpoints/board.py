"""The nodes of a pool as placement sees them, read once for as many replicas as there are.

What was taken since is crossed off, so a picture serves a whole sweep. It may be wrong by what
others took: `placing` looks again under the node's lock, and then asks for a new one. For one
replica some nodes of a large pool are enough, drawn by lot of those that take anybody: the best
of a hundred is nearly the best of all, at a tenth of the price of reading a thousand.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

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
    """Candidates by pool and kind of device, as they stood at `now`.

    `most`: so many nodes of a pool are read, unless none of those can take a replica.
    """

    now: datetime
    most: int | None = None

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str], dict[str, Candidate]] = {}
        self._refused: dict[tuple[str, Need], Refusal] = {}

    def refusal(self, endpoint: Endpoint, need: Need) -> Refusal | None:
        """What was answered before: nothing here becomes free."""
        return self._refused.get((endpoint.pool_id, need))

    def choose(self, endpoint: Endpoint, need: Need) -> Placement | Refusal:
        answer = choose(need, self.candidates(endpoint, need.kind))
        if isinstance(answer, Refusal) and self.most is not None:
            self.widen()
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

    def widen(self) -> None:
        """Look at all nodes from here on."""
        if self.most is not None:
            self.most = None
            self._read.clear()

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
            self._read[key] = _nodes(endpoint, kind, self.now, self.most)
        return self._read[key]


def walled(walls: Iterable[str]) -> bool:
    """Whether a node's engines cannot reach each other: a user of its own, and no shared
    loopback."""
    raised = set(walls)
    return "uid" in raised and bool(raised & {"network", "socket"})


def _nodes(endpoint: Endpoint, kind: str, now: datetime, most: int | None) -> dict[str, Candidate]:
    owner = endpoint.pool.organization_id or ""
    values: dict[str, Any] = {"pool": endpoint.pool_id, "kind": kind, "now": now, "most": most}
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, values)
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
                containers=bool(containers),
            )
            for id, name, closed, walls, containers, total, devices, indexes in cursor.fetchall()
        }


_STATEMENT = """
WITH drawn AS (
    SELECT id FROM fleet_node
    WHERE pool_id = %(pool)s AND removed_at IS NULL
    ORDER BY (lease_until > %(now)s AND cordoned_at IS NULL AND drain_requested_at IS NULL)
             IS NOT TRUE, random()
    LIMIT %(most)s
), free AS (
    SELECT d.node_id, count(*) AS total,
           array_agg(d.id ORDER BY d.index) FILTER (WHERE c.device_id IS NULL) AS ids,
           array_agg(d.index ORDER BY d.index) FILTER (WHERE c.device_id IS NULL) AS indexes
    FROM drawn
    JOIN fleet_device d ON d.node_id = drawn.id
    LEFT JOIN endpoints_deviceclaim c ON c.device_id = d.id
    WHERE d.healthy AND d.retiring_at IS NULL AND d.kind = %(kind)s
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
       COALESCE(n.inventory ->> 'containers', ''),
       COALESCE(f.total, 0), COALESCE(f.ids, '{}'), COALESCE(f.indexes, '{}')
FROM drawn
JOIN fleet_node n ON n.id = drawn.id
LEFT JOIN free f ON f.node_id = n.id
ORDER BY n.id
"""
