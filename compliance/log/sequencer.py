"""Gives leaves their index: batches of what waits, in one transaction each, without a head lock.

Writers only insert; a trigger queues their leaf. Here one process at a time (an advisory lock; the
primary key holds if that fails) takes what is committed, oldest first, and appends it. A writer
that rolls back leaves nothing, so indices have no gaps. A kill in any step leaves the transaction's
whole effect or none.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Min

from compliance import locks
from compliance.log import signing
from compliance.log.merkle import Frontier
from compliance.log.models import Log, LogPending

log = logging.getLogger(__name__)

BATCH = 2_000
LOCK = "log"  # whoever appends to a log holds it
_LEVEL = 8  # a node is kept for each so many heights

Queued = tuple[str, str, bytes | memoryview, datetime, datetime]


@dataclass
class _Rows:
    """What a batch adds, column by column as `unnest` takes it."""

    leaves: list[tuple[str, int, str, bytes | memoryview, datetime, datetime]] = field(
        default_factory=list
    )
    nodes: list[tuple[str, int, int, bytes]] = field(default_factory=list)
    heads: list[tuple[str, int, bytes]] = field(default_factory=list)


def sequence(now: datetime, limit: int = BATCH) -> int:
    """One batch; how many leaves were looked at. 0: nothing waits, or somebody else is at it."""
    with locks.try_hold(LOCK) as mine, transaction.atomic():
        if not mine:
            return 0
        with connection.cursor() as cursor:
            # What was there before the log, first: then its order is that of time.
            cursor.execute("SELECT stoa_backfill_log(%s)", [limit])
            (looked,) = cursor.fetchone()
            cursor.execute(
                "SELECT event_id, owner, leaf_hash, recorded_at, queued_at"
                " FROM compliance_logpending ORDER BY event_id LIMIT %s",
                [limit],
            )
            waiting: list[Queued] = cursor.fetchall()
        if waiting:
            append(waiting, now)
    return max(int(looked), len(waiting))


def append(waiting: Iterable[Queued], now: datetime) -> None:
    """In the caller's transaction, which holds the lock: each becomes a leaf of its owner's log."""
    by_owner: dict[str, list[Queued]] = defaultdict(list)
    for one in waiting:
        by_owner[one[1]].append(one)
    logs = opened(by_owner, now)
    rows = _Rows()
    for owner, queued in by_owner.items():
        _extend(logs[owner], queued, rows)
    _write(rows)


def opened(owners: Iterable[str], now: datetime) -> dict[str, Log]:
    """The open log of each, made where there is none."""
    wanted = set(owners)
    found = Log.objects.filter(owner__in=wanted, closed_at=None).select_for_update()
    logs = {one.owner: one for one in found.order_by("id")}
    fresh = [
        Log(owner=owner, origin=signing.origin_of(owner), opened_at=now)
        for owner in sorted(wanted - logs.keys())
    ]
    Log.objects.bulk_create(fresh)
    return logs | {one.owner: one for one in fresh}


def oldest_wait() -> datetime | None:
    """Since when, by the database's clock, the oldest of what waits has waited."""
    found: datetime | None = LogPending.objects.aggregate(oldest=Min("queued_at"))["oldest"]
    return found


def _extend(log: Log, queued: list[Queued], rows: _Rows) -> None:
    frontier = Frontier.load(log.size, bytes(log.peaks))
    for event_id, _, leaf, *times in queued:
        rows.leaves.append((log.id, frontier.size, event_id, leaf, times[0], times[1]))
        for height, index, hash_ in frontier.append(bytes(leaf)):
            if height % _LEVEL == 0:
                rows.nodes.append((log.id, height // _LEVEL, index, hash_))
    rows.heads.append((log.id, frontier.size, frontier.dump()))


def _write(rows: _Rows) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO compliance_logleaf"
            " (log_id, index, event_id, leaf_hash, recorded_at, queued_at)"
            " SELECT * FROM unnest(%s::varchar[], %s::bigint[], %s::varchar[], %s::bytea[],"
            " %s::timestamptz[], %s::timestamptz[])",
            [list(column) for column in zip(*rows.leaves, strict=True)],
        )
        if rows.nodes:
            cursor.execute(
                "INSERT INTO compliance_lognode (log_id, level, index, hash)"
                " SELECT * FROM unnest(%s::varchar[], %s::smallint[], %s::bigint[], %s::bytea[])",
                [list(column) for column in zip(*rows.nodes, strict=True)],
            )
        cursor.execute(
            "UPDATE compliance_log l SET size = h.size, peaks = h.peaks FROM"
            " unnest(%s::varchar[], %s::bigint[], %s::bytea[]) h (id, size, peaks)"
            " WHERE l.id = h.id",
            [list(column) for column in zip(*rows.heads, strict=True)],
        )
