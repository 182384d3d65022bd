"""What must hold of a month's seconds, whatever befell them; and what operators and digests add."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import connection

from billing.meters import digests, metering
from billing.models import MeterFinding, NodeBatch, NodeRecord
from compliance import audit
from tests.month.customers import Company
from tests.month.nodes import Played
from tests.month.traffic import Trouble

if TYPE_CHECKING:
    from tests.month.story import Told

# Companies whose chain of digests is held against their usage, and of how many days of it.
VERIFIED, DAYS = 3, 7
# A move's seconds are rounded away from the tenant in each minute of its overlap.
_ROUNDED_S = 3

# Net seconds of each session's replicas: device and warm seconds, less what was given back.
_BILLED = """
SELECT replica_id, sum(CASE basis WHEN 'charge' THEN quantity ELSE -quantity END)
         FILTER (WHERE meter <> 'asleep_seconds'),
       sum(quantity) FILTER (WHERE meter = 'asleep_seconds')
FROM billing_usageevent WHERE basis <> 'attribution' GROUP BY 1
"""
# Minutes of an endpoint, which never wants more than one replica, with more than 60 s billed.
_TWICE = """
SELECT u.endpoint_id, u.at FROM billing_usageevent u
JOIN endpoints_endpoint e ON e.id = u.endpoint_id
WHERE u.basis <> 'attribution' GROUP BY 1, 2, e.device_count
HAVING sum(CASE u.basis WHEN 'charge' THEN quantity ELSE -quantity END) > 60 * e.device_count
"""
# Replicas that are billed more than their nodes' records, or our own clock, hold of them.
_MORE = """
WITH billed AS (
    SELECT u.replica_id, u.meter = 'asleep_seconds' AS asleep,
           sum(CASE basis WHEN 'charge' THEN quantity ELSE -quantity END) / e.device_count AS s
    FROM billing_usageevent u JOIN endpoints_endpoint e ON e.id = u.endpoint_id
    WHERE u.basis <> 'attribution' GROUP BY 1, 2, e.device_count
), recorded AS (
    SELECT replica_id, state = 'asleep' AS asleep, sum(mono_end_us - mono_start_us) / 1e6 AS s
    FROM billing_noderecord GROUP BY 1, 2
), seen AS (
    SELECT replica_id, false AS asleep, sum(EXTRACT(EPOCH FROM ended_at - started_at)) AS s
    FROM endpoints_servinginterval GROUP BY 1
    UNION ALL
    SELECT replica_id, true, sum(EXTRACT(EPOCH FROM ended_at - started_at))
    FROM endpoints_asleepinterval GROUP BY 1
)
SELECT replica_id FROM billed
LEFT JOIN recorded USING (replica_id, asleep) LEFT JOIN seen USING (replica_id, asleep)
WHERE billed.s > COALESCE(recorded.s, 0) OR billed.s > COALESCE(seen.s, 0)
"""


def hold(played: Sequence[Played], told: "Told") -> str:
    """Each session is billed what it served and was proved, to the second, and no second twice."""
    billed = {row[0]: (int(row[1] or 0), int(row[2] or 0)) for row in _rows(_BILLED)}
    given_back = 0
    for one in played:
        each = one.session.endpoint.device_count
        ready, asleep = (
            sum(of[place] for id in one.replicas if (of := billed.get(id))) // each
            for place in (0, 1)
        )
        served = one.session.busy_s + one.session.warm_s
        owed = served - one.lost_s
        least = owed - (_ROUNDED_S if one.session.trouble is Trouble.MOVE else 0)
        what = f"{one.session.endpoint.id} at {one.session.start} ({one.session.trouble})"
        told.must(least <= ready <= owed, f"{what}: {ready} s are billed of {owed}")
        told.must(asleep == one.session.asleep_s, f"{what}: {asleep} s asleep are billed")
        given_back += served - ready
    told.must(not _rows(_TWICE), "a second of an endpoint is billed twice")
    told.must(not _rows(_MORE), "more is billed than was recorded, or than we saw")
    _found(played, told)
    batches, records = NodeBatch.objects.count(), NodeRecord.objects.count()
    return f"{records:,} records in {batches:,} signed batches; {given_back:,} s not billed"


def _found(played: Sequence[Played], told: "Told") -> None:
    """Each trouble is a finding, and nothing else is; what arrives twice is none."""
    expected = Counter(one.session.trouble.value for one in played if one.session.trouble)
    expected.pop(Trouble.REPLAY.value, None)
    expected["unproved"] = expected[Trouble.GAP.value]
    found = Counter(MeterFinding.objects.values_list("kind", flat=True))
    told.must(+found == +expected, f"found {dict(found)}, and not {dict(expected)}")
    told.must(
        NodeBatch.objects.exclude(problem="").count() == expected[Trouble.OVERLAP.value],
        "other batches are set aside than those that say a minute twice",
    )


def explain(now: datetime) -> int:
    """An operator says why records are missing; of how many accounts that was."""
    open_ = MeterFinding.objects.filter(blocks=True, explained_at=None)
    accounts = set()
    for one in open_:
        accounts.add(one.account_id)
        metering.explain(
            one.id,
            actor=audit.Actor("user", "usr_operator"),
            reason="A disk of the node failed; what it had not sent is not billed.",
            log=audit.PLATFORM,
            region="eu-de-1",
            now=now,
        )
    return len(accounts)


def digest(companies: Sequence[Company], start: datetime, now: datetime, told: "Told") -> str:
    """Of each hour in which a company used something; idle ones, which workers digest too, are
    left out so that the month has an end."""
    logs = {
        one.account.id: digests.Log(one.organization.id, one.organization.region_code)
        for one in companies
    }
    hours = _rows(
        "SELECT DISTINCT date_trunc('hour', at, 'UTC') AS hour, account_id FROM billing_usageevent"
        " ORDER BY 1"
    )
    for hour, account_id in hours:
        digests.make(account_id, hour, log=logs[account_id], now=now)
    for account_id in [*logs][:VERIFIED]:
        wrong = digests.verify(account_id, start, start + timedelta(days=DAYS))
        told.must(not wrong, f"digests: {wrong[:1]}")
    return f"{len(hours):,} hours, chained in the audit log"


def _rows(statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
