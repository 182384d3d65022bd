"""Signed records of what a node's replicas served: proved, kept, and held against our own clock.

A record says how long its replica had been ready before it. So it falls into the serving interval
that began at that count, whenever it arrives; and what no interval of ours covers, such as the
moment in which a node had not heard yet that a stop was asked, proves nothing that is billed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import connection, transaction

from billing.meters import metering
from billing.meters.metering import NOBODY, Batch, Found, Record, Whose
from billing.meters.models import FindingKind
from controlplane.endpoints.models import Replica
from controlplane.fleet import credentials, errors, meter_wire, revoking
from controlplane.fleet.meter_wire import MeterBatch, MeterBody, MeterRecord, MeterState

SECOND_US = 1_000_000
# What our clock and a node's may differ by before somebody is told.
TOLERANCE_US = 1 * SECOND_US
FAST_US = 2 * SECOND_US
# Under a hard budget, what is proved that long after the end, or before what was proved already,
# is nobody's to pay: the reservation that it would be paid from has gone back.
PROOF_WAIT = timedelta(minutes=2)
_MOST_US = 1 << 60
_BOOT = re.compile(r"[!-~]{1,64}")
_ID = re.compile(r"[a-z]{2,4}_[0-9a-z]{1,27}")


def note(node_id: str, batches: Sequence[MeterBatch], now: datetime) -> None:
    """Keep what is new in `batches`, sent by a node that proved who it is. Idempotent."""
    if not batches:
        return
    read = _whole([_read(node_id, one) for one in batches[: 2 * meter_wire.BATCHES_AT_ONCE]])
    with transaction.atomic():
        stored = metering.store(node_id, read, now)
        found = stored.found
        if stored.new:
            ours = _placed_on(node_id, {one.replica_id for one in stored.new})
            found += _not_ours(node_id, stored.new, ours, now)
            proving = [one for one in stored.new if ours.get(one.replica_id)]
            found += _prove(node_id, proving, now)
            _sleep([one for one in proving if one.state == MeterState.ASLEEP], now)
        metering.find(found, now)


def _read(node_id: str, said: MeterBatch) -> Batch:
    """What a batch says, or why that counts for nothing."""
    shown, problem, boot, records = "", "", "", []
    try:
        who = credentials.signed(
            said.certificate, said.signature, meter_wire.signed_bytes(said.body)
        )
        shown = who.certificate_sha256
        if who.node_id != node_id:
            problem = "it is signed by another node"
        elif revoking.is_revoked(shown):
            problem = "the certificate of the key that signed it was revoked"
        else:
            body = msgspec.json.decode(said.body, type=MeterBody)
            boot, records, problem = body.machine_boot, body.records, _nonsense(node_id, body)
    except errors.CredentialError as error:
        problem = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"it cannot be read: {error}"
    return Batch(
        node_id=node_id,
        body=said.body,
        signature=said.signature,
        certificate_sha256=shown,
        certificate=said.certificate if shown else b"",
        machine_boot=boot if _BOOT.fullmatch(boot) else "",
        records=[] if problem else [_record(one) for one in records],
        problem=problem,
    )


def _whole(read: Sequence[Batch]) -> list[Batch]:
    """With the account of each whose records are all of one: it may see the batch as it is."""
    whose = owners(sorted({record.replica_id for one in read for record in one.records}))

    def account(of: Batch) -> str:
        found = {whose.get(record.replica_id, NOBODY).account_id for record in of.records}
        return found.pop() if len(found) == 1 else ""

    return [replace(one, account_id=account(one)) for one in read]


def _nonsense(node_id: str, body: MeterBody) -> str:
    """What the tables cannot hold, and nobody can have served."""
    if body.node_id != node_id:
        return "it speaks of another node"
    if not _BOOT.fullmatch(body.machine_boot):
        return "it names no boot"
    if not 0 < len(body.records) <= meter_wire.RECORDS_AT_ONCE:
        return f"it holds {len(body.records)} records"
    for one in body.records:
        times = (one.mono_start_us, one.mono_end_us, one.before_us)
        walls = (one.wall_start_us, one.wall_end_us)
        if not (
            0 < one.seq < _MOST_US
            and _ID.fullmatch(one.replica_id)
            and 0 <= one.devices < 1 << 15
            and all(0 <= value < _MOST_US for value in times)
            and all(0 <= value < 1 << 53 for value in walls)
            and 0 < one.mono_end_us - one.mono_start_us <= meter_wire.LONGEST_US
        ):
            return f"its record {one.seq} cannot be"
    return ""


def _record(one: MeterRecord) -> Record:
    return Record(**msgspec.structs.asdict(one) | {"state": one.state.value})


def _placed_on(node_id: str, replica_ids: Iterable[str]) -> dict[str, bool]:
    """Those of them that were placed on this node, and whether it is its count that is billed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.id, COALESCE(m.rank, 0) = 0 FROM endpoints_replica r"
            " LEFT JOIN endpoints_member m ON m.replica_id = r.id AND m.node_id = %s"
            " WHERE r.id = ANY(%s) AND (r.node_id = %s OR m.id IS NOT NULL)",
            [node_id, list(replica_ids), node_id],
        )
        return dict(cursor.fetchall())


def _not_ours(
    node_id: str, records: Iterable[Record], ours: dict[str, bool], now: datetime
) -> list[Found]:
    return [
        Found(
            f"not_its_node:{node_id}:{id}",
            FindingKind.NOT_ITS_NODE,
            now,
            f"node {node_id} counts seconds of {id}, which was not placed on it",
            node_id=node_id,
            replica_id=id if Replica.objects.filter(id=id).exists() else "",
        )
        for id in sorted({one.replica_id for one in records} - ours.keys())
    ]


# --- ready ------------------------------------------------------------------------------------

# `hi`: an interval that is open takes what comes; one that is over, what it was found to serve.
# `past_us`: under a hard budget nothing before it counts any more.
_PROVE = """
WITH said AS (
    SELECT * FROM unnest(%(ids)s::text[], %(befores)s::bigint[], %(lengths)s::bigint[])
        AS v(replica_id, before_us, length_us)
), own AS (
    SELECT i.id, i.replica_id, i.proved_us IS NOT NULL AS counted,
           round(i.node_offset_s * 1e6)::bigint AS lo,
           CASE WHEN i.ended_at IS NULL THEN %(most)s
                ELSE round((i.node_offset_s + i.served_s) * 1e6)::bigint END AS hi,
           CASE WHEN r.funded_until IS NULL THEN 0
                WHEN i.ended_at <= %(closed)s THEN %(most)s ELSE i.reached_us END AS past_us,
           (EXTRACT(EPOCH FROM COALESCE(i.ended_at, %(now)s) - i.started_at) * 1e6)::bigint
           AS clock_us
    FROM endpoints_servinginterval i JOIN endpoints_replica r ON r.id = i.replica_id
    WHERE i.replica_id IN (SELECT replica_id FROM said)
), within AS (
    SELECT own.id, own.replica_id, own.counted, own.clock_us,
           LEAST(said.before_us + said.length_us, own.hi) - own.lo AS reached_us,
           LEAST(said.before_us + said.length_us, own.hi)
           - GREATEST(said.before_us, own.lo, own.lo + own.past_us) AS us
    FROM said JOIN own ON own.replica_id = said.replica_id
     AND LEAST(said.before_us + said.length_us, own.hi)
         > GREATEST(said.before_us, own.lo, own.lo + own.past_us)
), summed AS (
    SELECT id, replica_id, counted, clock_us, sum(us)::bigint AS us,
           max(reached_us)::bigint AS reached_us
    FROM within GROUP BY 1, 2, 3, 4
), proved AS (
    UPDATE endpoints_servinginterval i
    SET proved_us = i.proved_us + summed.us, reached_us = GREATEST(i.reached_us, summed.reached_us)
    FROM summed WHERE i.id = summed.id AND summed.counted
)
SELECT id, replica_id, us, reached_us - clock_us FROM summed
"""


def _prove(node_id: str, records: Sequence[Record], now: datetime) -> list[Found]:
    ready = [one for one in records if one.state == MeterState.READY]
    if not ready:
        return []
    values: dict[str, Any] = {
        "ids": [one.replica_id for one in ready],
        "befores": [one.before_us for one in ready],
        "lengths": [one.length_us for one in ready],
        "most": _MOST_US,
        "closed": now - PROOF_WAIT,
        "now": now,
    }
    with connection.cursor() as cursor:
        cursor.execute(_PROVE, values)
        rows = cursor.fetchall()
    inside: dict[str, int] = dict.fromkeys(values["ids"], 0)
    fast: dict[str, tuple[str, int]] = {}
    for interval_id, replica_id, us, ahead_us in rows:
        inside[replica_id] += us
        if ahead_us > FAST_US:
            fast[interval_id] = (replica_id, ahead_us)
    whose = owners([*inside])
    return [
        *_outside(node_id, ready, inside, whose, now),
        *(
            Found(
                f"fast:{interval_id}",
                FindingKind.FAST_CLOCK,
                now,
                f"its node counts {ahead_us / 1e6:.0f} s more than our clock: ours is billed",
                node_id=node_id,
                replica_id=replica_id,
                interval_id=interval_id,
                seconds=ahead_us // SECOND_US,
                whose=whose.get(replica_id, NOBODY),
            )
            for interval_id, (replica_id, ahead_us) in fast.items()
        ),
    ]


def _outside(
    node_id: str,
    ready: Sequence[Record],
    inside: dict[str, int],
    whose: dict[str, Whose],
    now: datetime,
) -> Iterable[Found]:
    """Seconds that the node counts and no interval of ours holds."""
    for id, held_us in inside.items():
        mine = [one for one in ready if one.replica_id == id]
        left_us = sum(one.length_us for one in mine) - held_us
        if left_us > TOLERANCE_US:
            yield Found(
                f"outside:{node_id}:{id}:{min(one.before_us for one in mine)}",
                FindingKind.OUTSIDE,
                now,
                f"{left_us // SECOND_US} s that its node counts are not between ready and the"
                " request to stop, or we could not reach it: not billed",
                node_id=node_id,
                replica_id=id,
                seconds=left_us // SECOND_US,
                whose=whose.get(id, NOBODY),
            )


def owners(replica_ids: Sequence[str]) -> dict[str, Whose]:
    """Whose each replica is, as a finding names them."""
    rows = Replica.objects.filter(id__in=replica_ids).values_list(
        "id", "endpoint_id", "endpoint__project_id", "endpoint__project__organization__account_id"
    )
    return {
        id: Whose(account_id=account, project_id=project, endpoint_id=endpoint)
        for id, endpoint, project, account in rows
    }


# --- asleep -----------------------------------------------------------------------------------

# Into the newest stretch of sleep: its own clock bounds what of it is billed.
_SLEPT = """
UPDATE endpoints_asleepinterval i SET proved_us = i.proved_us + said.us
FROM (
    SELECT DISTINCT ON (s.replica_id) s.id, v.us
    FROM (SELECT replica_id, sum(us)::bigint AS us
          FROM unnest(%s::text[], %s::bigint[]) AS u(replica_id, us) GROUP BY 1) v
    JOIN endpoints_asleepinterval s ON s.replica_id = v.replica_id AND s.started_at <= %s
    ORDER BY s.replica_id, s.started_at DESC
) AS said
WHERE i.id = said.id
"""


def _sleep(records: Sequence[Record], now: datetime) -> None:
    if records:
        values: list[Any] = [
            [one.replica_id for one in records],
            [one.length_us for one in records],
            now,
        ]
        with connection.cursor() as cursor:
            cursor.execute(_SLEPT, values)
