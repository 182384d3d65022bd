"""Which endpoints a sweep has to load: one statement that leaves out those that are settled.

Settled is what `reconcile.plan` certainly answers with nothing: as many replicas as was decided,
with no new decision due, all of them ready (asleep, where that was decided), of the newest
generation, funded, and on nodes that are heard and stay; or none, where none should be. Whatever
else is the case is for `plan` to judge, so a new rule there needs a word here only where it
concerns an endpoint that this calls settled.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from controlplane.endpoints.deciding import FRESH
from controlplane.endpoints.reconcile import Limits
from controlplane.endpoints.states import LIVE


def endpoints(*, now: datetime, limits: Limits, unfunded: Collection[str] = ()) -> list[str]:
    """Ids, oldest first. `unfunded`: replicas that no budget pays for."""
    since = limits.listening_since
    values: dict[str, Any] = {
        "now": now,
        "fresh": now - FRESH,
        "live": sorted(LIVE),
        "unfunded": list(unfunded),
        # Whoever could not be heard before has a whole lease from when we listened, if we do.
        "fair": (since or now) + timedelta(seconds=limits.lease_s),
    }
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, values)
        return [row[0] for row in cursor.fetchall()]


# What is over is held until its node has confirmed it, and concerns `plan` when that is no more.
_STATEMENT = """
WITH held AS (
    SELECT r.endpoint_id,
           count(*) FILTER (WHERE r.state = ANY (%(live)s)) AS live,
           bool_or(
               CASE WHEN r.state = ANY (%(live)s)
               THEN CASE r.state
                    WHEN 'ready' THEN r.can_sleep AND s.tier = 'asleep'
                    WHEN 'asleep' THEN s.tier <> 'asleep'
                    ELSE true END
                    OR n.id IS NULL OR n.drain_requested_at IS NOT NULL
                    OR EXISTS (
                        SELECT FROM endpoints_deviceclaim c
                        JOIN fleet_device d ON d.id = c.device_id
                        WHERE c.replica_id = r.id AND d.retiring_at IS NOT NULL
                    )
                    OR n.removed_at IS NOT NULL OR r.id = ANY (%(unfunded)s)
                    OR r.generation <> e.generation
                    OR GREATEST(COALESCE(n.lease_until, n.created_at), %(fair)s) < %(now)s
               ELSE n.id IS NULL OR n.removed_at IS NOT NULL END
           ) AS restless
    FROM endpoints_replica r
    JOIN endpoints_endpoint e ON e.id = r.endpoint_id
    LEFT JOIN endpoints_scaling s ON s.endpoint_id = e.id
    LEFT JOIN fleet_node n ON n.id = r.node_id
    WHERE r.released_at IS NULL
    GROUP BY r.endpoint_id
)
SELECT e.id
FROM endpoints_endpoint e
LEFT JOIN held h ON h.endpoint_id = e.id
LEFT JOIN endpoints_scaling s ON s.endpoint_id = e.id
WHERE h.restless
   OR CASE WHEN e.deleted_at IS NOT NULL OR e.stopped_at IS NOT NULL
      THEN h.live > 0
      ELSE s.look_at IS NULL OR s.look_at <= %(now)s
           OR COALESCE(h.live, 0) <> s.replicas
           OR e.id IN (
               SELECT a.endpoint_id FROM endpoints_activity a
               WHERE a.at > %(fresh)s AND (a.waiting > 0 OR a.pressed)
           ) END
ORDER BY e.id
"""
