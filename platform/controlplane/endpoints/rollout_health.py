"""How the two versions of a rollout serve, as the gateways' rows say."""

from django.db import connection

from controlplane.endpoints.models import Rollout, VersionHealth
from controlplane.endpoints.verdict import Health

_BUCKETS = """
SELECT h.version, b.key::int, sum(b.value::int8)
FROM endpoints_versionhealth h, jsonb_each_text(h.{column}) b
WHERE h.rollout_id = %s GROUP BY 1, 2
"""


def requests(rollout: Rollout) -> dict[int, int]:
    """How many each version got."""
    rows = VersionHealth.objects.filter(rollout_id=rollout.id).values_list("version", "requests")
    counts: dict[int, int] = {}
    for version, count in rows:
        counts[version] = counts.get(version, 0) + count
    return counts


def of(rollout: Rollout) -> tuple[Health, Health]:
    """Of the new version, and of all others."""
    counts = {True: [0, 0], False: [0, 0]}
    for row in VersionHealth.objects.filter(rollout_id=rollout.id).values_list(
        "version", "requests", "errors"
    ):
        mine = counts[row[0] == rollout.to_number]
        mine[0] += row[1]
        mine[1] += row[2]
    first, total = _buckets(rollout, "first"), _buckets(rollout, "total")
    new, old = (
        Health(counts[fresh][0], counts[fresh][1], first[fresh], total[fresh])
        for fresh in (True, False)
    )
    return new, old


def _buckets(rollout: Rollout, column: str) -> dict[bool, dict[int, int]]:
    found: dict[bool, dict[int, int]] = {True: {}, False: {}}
    with connection.cursor() as cursor:
        cursor.execute(_BUCKETS.format(column=column), [rollout.id])
        for version, bucket, count in cursor.fetchall():
            mine = found[version == rollout.to_number]
            mine[bucket] = mine.get(bucket, 0) + int(count)
    return found
