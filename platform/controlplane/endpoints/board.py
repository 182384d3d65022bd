"""The nodes of a pool as placement sees them, read once for as many replicas as there are.

What was taken since is crossed off, so a picture serves a whole sweep. It may be wrong by what
others took: `placing` looks again under the node's lock, and then asks for a new one. For one
replica some nodes of a large pool are enough, those that hold its weights and then others drawn by
lot of those that take anybody: the best of a hundred is nearly the best of all, at a tenth of the
price of reading a thousand.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db import connection

from controlplane.endpoints import claiming, locality
from controlplane.endpoints.models import Endpoint, Replica, Reservation
from controlplane.endpoints.states import LIVE
from controlplane.placement.choose import Placement, Refusal, choose
from controlplane.placement.mix import Mix, Shape
from controlplane.placement.nodes import Candidate, FreeDevice, Need, Weights

# Who waits for how many devices of a node, who asked first first.
_Reserved = Sequence[tuple[str, int]]


@dataclass
class Board:
    """Candidates by pool and kind of device, as they stood at `now`.

    `most`: so many nodes of a pool are read, unless none of those can take a replica.
    """

    now: datetime
    most: int | None = None

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str], dict[str, Candidate]] = {}
        self._reserved: dict[tuple[str, str], dict[str, _Reserved]] = {}
        self._mixes: dict[tuple[str, str], Mix] = {}
        self._weights: dict[str, dict[str, Weights]] = {}
        self._refused: dict[tuple[str, Need], Refusal] = {}

    def refusal(self, endpoint: Endpoint, need: Need) -> Refusal | None:
        """What was answered before: nothing here becomes free. Not for whom something is
        reserved."""
        reserved = self._reserved.get((endpoint.pool_id, need.kind), {})
        if any(need.lot == id for kept in reserved.values() for id, _ in kept):
            return None
        return self._refused.get((endpoint.pool_id, need))

    def choose(self, endpoint: Endpoint, need: Need) -> Placement | Refusal:
        """`need.lot` is the id of the replica, which what is reserved for it is open to."""
        answer = self._choose(endpoint, need)
        if isinstance(answer, Refusal) and self.most is not None:
            self.widen()
            answer = self._choose(endpoint, need)
        if isinstance(answer, Refusal):
            self._refused[endpoint.pool_id, need] = answer
        return answer

    def _choose(self, endpoint: Endpoint, need: Need) -> Placement | Refusal:
        nodes = self.candidates(endpoint, need.kind, need.lot)
        return choose(need, nodes, self.mix(endpoint, need.kind))

    def mix(self, endpoint: Endpoint, kind: str) -> Mix:
        """What the pool's endpoints ask for, by which its free devices are worth something."""
        key = (endpoint.pool_id, kind)
        if key not in self._mixes:
            self._mixes[key] = _mix(endpoint.pool_id, kind)
        return self._mixes[key]

    def took(self, endpoint: Endpoint, need: Need, placed: Placement) -> None:
        nodes, taken = self._nodes(endpoint, need.kind), set(placed.device_ids)
        if node := nodes.get(placed.node_id):
            left = [_left(one, need) if one.id in taken else one for one in node.free]
            nodes[node.node_id] = replace(node, free=tuple(one for one in left if one.milli > 0))

    def forget(self, endpoint: Endpoint, kind: str) -> None:
        """It is old: read anew."""
        self._read.pop((endpoint.pool_id, kind), None)

    def widen(self) -> None:
        """Look at all nodes from here on."""
        if self.most is not None:
            self.most = None
            self._read.clear()

    def candidates(self, endpoint: Endpoint, kind: str, replica_id: str = "") -> list[Candidate]:
        """The nodes of the endpoint's pool, with what each has free of that kind for this
        replica: what is reserved for others is not."""
        siblings = Counter(
            Replica.objects.filter(endpoint=endpoint, state__in=LIVE)
            .order_by()
            .values_list("node_id", flat=True)
        )
        weights, nodes = self._weights_of(endpoint), self._nodes(endpoint, kind)
        reserved = self._reserved[endpoint.pool_id, kind]
        return [
            _as_seen(one, siblings[id], weights.get(id), reserved.get(id, ()), replica_id)
            if id in siblings or id in weights or id in reserved
            else one
            for id, one in nodes.items()
        ]

    def _nodes(self, endpoint: Endpoint, kind: str) -> dict[str, Candidate]:
        key = (endpoint.pool_id, kind)
        if key not in self._read:
            near = list(self._weights_of(endpoint)) if self.most is not None else []
            self._read[key] = _nodes(endpoint, kind, self.now, self.most, near)
            self._reserved[key] = _reserved(endpoint.pool_id, kind, self.now)
        return self._read[key]

    def _weights_of(self, endpoint: Endpoint) -> dict[str, Weights]:
        if endpoint.id not in self._weights:
            self._weights[endpoint.id] = locality.of(endpoint, self.now)
        return self._weights[endpoint.id]


def _left(device: FreeDevice, need: Need) -> FreeDevice:
    return replace(device, milli=device.milli - need.milli, organization_id=need.organization_id)


def walled(walls: Iterable[str]) -> bool:
    """Whether a node's engines cannot reach each other: a user of its own, and no shared
    loopback."""
    raised = set(walls)
    return "uid" in raised and bool(raised & {"network", "socket"})


def _as_seen(
    node: Candidate,
    siblings: int,
    weights: Weights | None,
    reserved: _Reserved,
    replica_id: str,
) -> Candidate:
    seen = claiming.but_reserved(node, claiming.before(replica_id, reserved))
    return replace(seen, siblings=siblings, weights=weights or Weights.NONE)


def _reserved(pool_id: str, kind: str, now: datetime) -> dict[str, _Reserved]:
    rows = Reservation.objects.filter(node__pool=pool_id, kind=kind, expires_at__gt=now)
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for node_id, replica_id, count in rows.order_by("id").values_list(
        "node_id", "replica_id", "count"
    ):
        found[node_id].append((replica_id, count))
    return dict(found)


def _mix(pool_id: str, kind: str) -> Mix:
    """Each endpoint as often as it may have replicas; and a little of any block, for who comes."""
    rows = Endpoint.objects.filter(pool=pool_id, device_kind=kind, deleted_at=None)
    asked: Counter[Shape] = Counter({Shape(count): 1 for count in (1, 2, 4, 8)})
    for count, milli, replicas in rows.order_by().values_list(
        "device_count", "device_share", "max_replicas"
    ):
        asked[Shape(count, milli)] += replicas
    return Mix(asked)


def _nodes(
    endpoint: Endpoint, kind: str, now: datetime, most: int | None, near: list[str]
) -> dict[str, Candidate]:
    """`near`: nodes that are drawn first, where they take anybody."""
    pool = endpoint.pool
    values: dict[str, Any] = {"pool": endpoint.pool_id, "kind": kind, "now": now}
    values |= {"most": most, "near": near}
    parts = claiming.partly_free(pool.id, kind) if pool.share_devices else {}
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, values)
        return {
            id: Candidate(
                node_id=id,
                name=name,
                free=tuple(
                    FreeDevice(device, index, kind)
                    for device, index in zip(devices, indexes, strict=True)
                )
                + tuple(parts.get(id, ())),
                total=total,
                sick=sick,
                closed=closed,
                organization_id=pool.organization_id or "",
                region=pool.region_id,
                keep_block=pool.keep_block,
                shares=pool.share_devices,
                can_share=can_share,
                walled=walled(walls.split()),
                containers=bool(containers),
            )
            for (
                id,
                name,
                closed,
                walls,
                containers,
                can_share,
                total,
                sick,
                devices,
                indexes,
            ) in cursor
        }


_STATEMENT = """
WITH drawn AS (
    SELECT id FROM fleet_node
    WHERE pool_id = %(pool)s AND removed_at IS NULL
    ORDER BY (lease_until > %(now)s AND cordoned_at IS NULL AND drain_requested_at IS NULL)
             IS NOT TRUE, id = ANY (%(near)s) DESC, random()
    LIMIT %(most)s
), free AS (
    SELECT d.node_id, count(DISTINCT d.id) FILTER (WHERE d.takes) AS total,
           count(DISTINCT d.id) FILTER (WHERE NOT d.takes) AS sick,
           array_agg(d.id ORDER BY d.index) FILTER (WHERE d.takes AND d.free) AS ids,
           array_agg(d.index ORDER BY d.index) FILTER (WHERE d.takes AND d.free) AS indexes
    FROM (
        SELECT d.id, d.node_id, d.index, d.healthy AND d.retiring_at IS NULL AS takes,
               c.device_id IS NULL AS free
        FROM drawn
        JOIN fleet_device d ON d.node_id = drawn.id
        LEFT JOIN endpoints_deviceclaim c ON c.device_id = d.id
        WHERE d.kind = %(kind)s
    ) d
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
       COALESCE(n.inventory ->> 'shares', '') = 'true',
       COALESCE(f.total, 0), COALESCE(f.sick, 0),
       COALESCE(f.ids, '{}'), COALESCE(f.indexes, '{}')
FROM drawn
JOIN fleet_node n ON n.id = drawn.id
LEFT JOIN free f ON f.node_id = n.id
ORDER BY n.id
"""
