"""From what was counted to what is owed: requests and serving seconds become usage, once.

Each step writes its events and the mark that says so in one transaction, and each event has an
id that its source determines. So a step may be killed anywhere, repeated, or run twice at once.
What cannot be booked is set aside with its reason, and is never dropped.
"""

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TypeAlias

from django.db import connection, transaction

from billing import errors, services
from billing.meters import booking, usage
from billing.models import Meter, UsageInbox
from billing.spending import reserving
from controlplane.endpoints import funding, serving
from controlplane.endpoints.models import Endpoint, ServingInterval
from controlplane.tenancy.models import Project
from workers import device_usage, warmth

log = logging.getLogger(__name__)

AT_ONCE = 500  # serving intervals of one transaction
UNPROVED = "unproved"  # a flag
Part: TypeAlias = tuple[serving.Slice, list[warmth.Piece]]


def book_requests(now: datetime, limit: int = 2000) -> int:
    """Turns up to `limit` requests that gateways delivered into usage; returns how many.

    A request that cannot be booked keeps its row, with `problem` set, and an error in the log.
    """
    booked = booking.book(now, limit, _places, _askers)
    for request_id, problem in booked.problems.items():
        log.error("request %s cannot be booked: %s", request_id, problem)
    return booked.requests


def retry_problems() -> int:
    """Puts the requests that were set aside back in line, once their cause is cured."""
    return UsageInbox.objects.filter(booked_at=None).exclude(problem="").update(problem="")


def meter_replicas(now: datetime, limit: int | None = None) -> int:
    """Turns seconds that replicas served into usage, minute by minute; returns the new events.

    `limit`: of so many serving intervals, those that began first; the others are for the next run.
    """
    with connection.cursor() as cursor:
        cursor.execute(_DUE, {"now": now, "limit": limit})
        due = [row[0] for row in cursor.fetchall()]
    return sum(
        _meter_each(due[start : start + AT_ONCE], now) for start in range(0, len(due), AT_ONCE)
    )


def accrue_hours(now: datetime) -> int:
    """Posts past hours' usage to the ledger, however late it came; returns how many hours of
    accounts were posted."""
    return services.accrue_due(now)


def _places(ids: Collection[str]) -> Iterable[booking.Place]:
    return itertools.starmap(
        booking.Place,
        Endpoint.objects.filter(id__in=ids).values_list(
            "id",
            "project_id",
            "project__organization_id",
            "region_code",
            "device_kind",
            "created_at",
            "shared_at",
            "unshared_at",
        ),
    )


def _askers(ids: Collection[str]) -> Iterable[booking.Asker]:
    return itertools.starmap(
        booking.Asker,
        Project.objects.filter(id__in=ids).values_list(
            "id", "organization_id", "organization__account_id", "organization__region_code"
        ),
    )


def _meter_each(interval_ids: Sequence[str], now: datetime) -> int:
    """Together, or one by one where one of them cannot be metered."""
    try:
        return _meter(interval_ids, now)
    except (errors.UsageConflict, errors.UsageRefused) as conflict:
        if len(interval_ids) > 1:
            return sum(_meter_each([id], now) for id in interval_ids)
        log.error("serving interval %s cannot be metered: %s", interval_ids[0], conflict)
        return 0


def _meter(interval_ids: Sequence[str], now: datetime) -> int:
    """The due minutes of some intervals, and the marks that they are done, in one transaction."""
    with transaction.atomic():
        intervals = (
            ServingInterval.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("replica__endpoint__project__organization")
            .prefetch_related("replica__version")
            .defer("replica__log_tail", "replica__engine_report")
            .filter(id__in=interval_ids)
            .order_by("id")
        )
        due = [(one, pieces) for one in intervals if (pieces := _slices(one, now))]
        if not due:
            return 0
        parts = warmth.parts(due)
        written = usage.record(
            event
            for (one, _), of in zip(due, parts, strict=True)
            for event in _replica_events(one, of)
        )
        reserving.settle([_served(one, of) for (one, _), of in zip(due, parts, strict=True)])
        for one, pieces in due:
            one.metered_s += sum(piece.seconds for piece in pieces)
        with connection.cursor() as cursor:
            cursor.execute(_MARK, [[one.id for one, _ in due], [one.metered_s for one, _ in due]])
    return written


def _served(interval: ServingInterval, due: Iterable[Part]) -> reserving.Served:
    version = interval.replica.version
    pieces = [
        (piece.at, piece.seconds * version.devices_each, piece.meter.value)
        for _, pieces in due
        for piece in pieces
    ]
    payer = funding.payer(interval.replica.endpoint, version)
    return reserving.Served(interval.replica_id, payer, pieces)


# As `serving.slices` finds something due, or a little more: a minute is over, or the stretch is.
_DUE = """
SELECT i.id FROM (
    SELECT id, started_at, ended_at, metered_s,
           LEAST(served_s, COALESCE(proved_us / 1e6, served_s)) AS served_s
    FROM endpoints_servinginterval
) i
WHERE (i.ended_at IS NULL
       AND floor(floor((EXTRACT(EPOCH FROM i.started_at) + 0.001
                        + LEAST(i.served_s, EXTRACT(EPOCH FROM %(now)s - i.started_at))) / 60) * 60
                 - EXTRACT(EPOCH FROM i.started_at)) > i.metered_s)
   OR (i.ended_at IS NOT NULL
       AND i.metered_s
           < floor(LEAST(i.served_s, EXTRACT(EPOCH FROM i.ended_at - i.started_at))))
ORDER BY i.id LIMIT %(limit)s
"""
_MARK = """
UPDATE endpoints_servinginterval i SET metered_s = v.metered_s
FROM unnest(%s::text[], %s::int[]) AS v(id, metered_s) WHERE i.id = v.id
"""


def _slices(interval: ServingInterval, now: datetime) -> list[serving.Slice]:
    """Of an open interval nothing beyond what budgets have reserved: they are asked first."""
    funded_until = interval.replica.funded_until
    if interval.ended_at is None and funded_until is not None:
        now = min(now, funded_until)
    return serving.slices(
        started_at=interval.started_at,
        ended_at=interval.ended_at,
        served_s=serving.agreed_s(interval.served_s, interval.proved_us),
        metered_s=interval.metered_s,
        now=now,
    )


def _replica_events(interval: ServingInterval, due: Iterable[Part]) -> Iterator[usage.Event]:
    """`unproved`: its node's agent signs no records yet, and its count alone is billed."""
    flags = (UNPROVED,) if interval.proved_us is None else ()
    for one, pieces in due:
        for piece in pieces:
            name = f"{interval.replica.id}:{interval.id}:{one.name}{_SUFFIX.get(piece.meter, '')}"
            yield device_usage.event(
                interval.replica, name, piece.at, piece.meter, piece.seconds, flags
            )


# The pieces of one slice are told apart by it.
_SUFFIX = {Meter.WARM_SECONDS: "w"}
