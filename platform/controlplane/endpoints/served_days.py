"""What happened on each endpoint in a day that is over: of the rows that requests, seconds and
starts leave, once for each, and kept when those are gone.

Speeds are of whole answers whose first token can be told (streams, and engines that say more);
money is billing's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from billing.models import Basis, Meter
from billing.reports import costs
from controlplane.endpoints import starts
from controlplane.endpoints.models import Endpoint, ServedDay, Start

AFTER = timedelta(hours=1)  # what gateways could not deliver before is not waited for
BACK = 3  # days that are made up for after an outage
_READY = (Meter.DEVICE_SECONDS, Meter.WARM_SECONDS)

# Requests that batches send are traffic like any other here: they keep the engine as busy.
_TRAFFIC = """
SELECT endpoint_id, count(*), sum(input_tokens)::int8, sum(cached_tokens)::int8,
    sum(output_tokens)::int8,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY first_us / 1e6)
        FILTER (WHERE first_us IS NOT NULL),
    percentile_cont(ARRAY[0.5, 0.95])
        WITHIN GROUP (ORDER BY decode_us / 1e6 / (output_tokens - 1))
        FILTER (WHERE decode_us IS NOT NULL AND output_tokens > 1),
    count(*) FILTER (WHERE decode_us IS NOT NULL AND output_tokens > 1)
FROM billing_usageinbox
WHERE booked_at >= %(start)s AND closed_at >= %(start)s AND closed_at < %(end)s
    AND status = 200 AND finish IN ('', 'complete') AND endpoint_id = ANY (%(known)s)
GROUP BY endpoint_id
"""
# Device-seconds, and seconds in which any replica served: of each minute those of the longest.
_SERVED = """
WITH each AS (
    SELECT u.endpoint_id, u.replica_id, u.at, sum(u.quantity * u.share) / 1000.0 AS device_s,
        sum(u.quantity::float8
            / ((v.spec ->> 'device_count')::int * (v.spec ->> 'node_count')::int)) AS s
    FROM billing_usageevent u
    JOIN endpoints_replica r ON r.id = u.replica_id
    JOIN endpoints_endpointversion v ON v.endpoint_id = r.endpoint_id AND v.number = r.generation
    WHERE u.at >= %(start)s AND u.at < %(end)s
        AND u.meter = ANY (%(meters)s) AND u.basis = 'charge'
        AND u.endpoint_id = ANY (%(known)s)
    GROUP BY 1, 2, 3
), minutes AS (
    SELECT endpoint_id, sum(device_s) AS device_s, max(s) AS s FROM each GROUP BY endpoint_id, at
)
SELECT endpoint_id, round(sum(device_s))::int8, sum(s)::float8 FROM minutes GROUP BY endpoint_id
"""


def close(now: datetime) -> int:
    """Keep the days that are over; how many endpoints' days that were. Idempotent."""
    last = (now - AFTER).astimezone(UTC).date() - timedelta(days=1)
    return sum(close_day(last - timedelta(days=back)) for back in range(BACK))


def close_day(day: date) -> int:
    """All endpoints of one day, or none."""
    if ServedDay.objects.filter(day=day).exists():
        return 0
    begins = datetime.combine(day, time(), UTC)
    found = _figures(begins, begins + timedelta(days=1))
    rows = [ServedDay(endpoint_id=id, day=day, figures=one) for id, one in found.items()]
    with transaction.atomic():
        ServedDay.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _figures(begins: datetime, ends: datetime) -> dict[str, dict[str, Any]]:
    """By endpoint, of those that answered anything."""
    known = list(Endpoint.objects.values_list("id", flat=True))
    asked: dict[str, Any] = {
        "start": begins,
        "end": ends,
        "known": known,
        "meters": [meter.value for meter in _READY],
    }
    with connection.cursor() as cursor:
        cursor.execute(_TRAFFIC, asked)
        traffic = {row[0]: row[1:] for row in cursor.fetchall()}
        cursor.execute(_SERVED, {**asked, "known": list(traffic)})
        served = {row[0]: row[1:] for row in cursor.fetchall()}
    money = _costs(traffic, begins, ends)
    begun = _starts(traffic, begins, ends)
    found = {}
    for id, (requests, read, cached, written, first, each, timed) in traffic.items():
        device_s, served_s = served.get(id, (0, 0.0))
        found[id] = {
            "requests": requests,
            "input_tokens": read,
            "cached_tokens": cached,
            "output_tokens": written,
            "ttft_s": _pair(first),
            "tpot_s": _pair(each),
            "timed_requests": timed,
            "device_s": device_s,
            "served_s": round(served_s),
            "starts_s": begun.get(id, {}),
            **money.get(id, {"cost": None, "currency": ""}),
        }
    return found


def _pair(both: list[float] | None) -> dict[str, float] | None:
    return None if both is None else {"p50": round(both[0], 5), "p95": round(both[1], 5)}


def _costs(ids: Iterable[str], begins: datetime, ends: datetime) -> dict[str, dict[str, str]]:
    """Exact, of what its devices cost; nothing where some of it has no price."""
    accounts = Endpoint.objects.filter(id__in=list(ids)).values_list(
        "project__organization__account_id", flat=True
    )
    found = {}
    for account in set(accounts):
        told = costs.by("endpoint", account, start=begins, end=ends)
        unpriced = {one.key for one in told.unpriced if one.basis == Basis.CHARGE}
        for row in told.rows:
            mine = row.basis == Basis.CHARGE and any(meter in row.quantities for meter in _READY)
            if mine and row.key not in unpriced:
                found[row.key] = {"cost": f"{Decimal(row.exact):f}", "currency": told.currency}
    return found


def _starts(
    ids: Mapping[str, Any], begins: datetime, ends: datetime
) -> dict[str, dict[str, dict[str, float]]]:
    """By endpoint and tier, of starts that came to serve."""
    rows = Start.objects.filter(
        endpoint_id__in=list(ids), ready=True, ended_at__gte=begins, ended_at__lt=ends
    )
    each: dict[str, list[Start]] = defaultdict(list)
    for row in rows:
        each[row.endpoint_id].append(row)
    return {
        id: {
            one.tier: {"p50": one.total[0], "p95": one.total[1], "count": one.count}
            for one in starts.figures(some)
        }
        for id, some in each.items()
    }
