"""When the control plane itself was up: a node's silence counts only while somebody listened.

The sweep beats `sweep`, the web process (which hears the nodes) beats `door`. After an outage of
ours every node looks silent; nobody may be given up for that.
"""

from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from controlplane.endpoints.models import Pulse

SWEEP = "sweep"
DOOR = "door"


# For `beat`, and for whoever has a connection of his own; %(…)s as `values` gives them.
STATEMENT = """
INSERT INTO endpoints_pulse AS p (name, since, at) VALUES (%(name)s, %(now)s, %(now)s)
ON CONFLICT (name) DO UPDATE
SET at = EXCLUDED.at,
    since = CASE WHEN EXCLUDED.at - p.at <= %(gap)s THEN p.since ELSE EXCLUDED.at END
WHERE p.at < EXCLUDED.at
"""


def values(name: str, *, now: datetime, gap_s: float) -> dict[str, Any]:
    return {"name": name, "now": now, "gap": timedelta(seconds=gap_s)}


def beat(name: str, *, now: datetime, gap_s: float) -> None:
    """We are up. Longer than `gap_s` since the last beat: we were not, and start to count anew."""
    with connection.cursor() as cursor:
        cursor.execute(STATEMENT, values(name, now=now, gap_s=gap_s))


def listening_since(*, now: datetime, gap_s: float) -> datetime | None:
    """Since when all who beat have been up without a gap; None while one of them is not."""
    since: datetime | None = None
    for pulse in Pulse.objects.all():
        if now - pulse.at > timedelta(seconds=gap_s):
            return None
        since = pulse.since if since is None else max(since, pulse.since)
    return since
