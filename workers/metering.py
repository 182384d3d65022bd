"""From what was counted to what is owed: requests and serving seconds become usage, once.

Each step writes its events and the mark that says so in one transaction, and each event has an
id that its source determines. So a step may be killed anywhere, repeated, or run twice at once.
What cannot be booked is set aside with its reason, and is never dropped.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction

from billing import errors, reserving, services, usage
from billing.models import Basis, Meter, UsageInbox
from controlplane.endpoints import funding, serving
from controlplane.endpoints.models import Endpoint, ServingInterval
from controlplane.tenancy.models import Organization, Project

log = logging.getLogger(__name__)

# A gateway's clock may be this far ahead of ours.
CLOCK_SKEW = timedelta(minutes=5)
# More tokens than any context times any number of choices: a counter gone wrong.
ABSURD_TOKENS = 1_000_000_000
# Booked requests stay this long, for whoever compares them with a gateway's spool.
BATCH = "brq_"  # how ids of lines of batches begin: only the control plane can draw them
INBOX_KEPT = timedelta(days=30)
AT_ONCE = 500  # serving intervals of one transaction


# How a request may end, and be counted, without a word about it.
_WHOLE = frozenset({"", "complete"})
_EXACT = frozenset({"", "engine"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Unbookable(Exception):
    """Why a request cannot become usage."""


def book_requests(now: datetime, limit: int = 2000) -> int:
    """Turns up to `limit` requests that gateways delivered into usage; returns how many.

    Safe to run side by side: each takes rows that no other holds. A request that cannot be
    booked keeps its row, with `problem` set, and an error in the log.
    """
    with transaction.atomic():
        rows = list(
            UsageInbox.objects.select_for_update(skip_locked=True)
            .filter(booked_at=None, problem="")
            .order_by("received_at")[:limit]
        )
        endpoints = _endpoints(row.endpoint_id for row in rows)
        projects = _projects(row.project_id for row in rows)
        events: dict[str, list[usage.Event]] = {}
        problems: dict[str, str] = {}
        for row in rows:
            try:
                events[row.request_id] = _request_events(row, endpoints, projects, now)
            except _Unbookable as reason:
                problems[row.request_id] = str(reason)
        problems |= _record(events)
        booked = events.keys() - problems.keys()
        UsageInbox.objects.filter(request_id__in=booked).update(booked_at=now)
        for request_id, problem in problems.items():
            log.error("request %s cannot be booked: %s", request_id, problem)
            UsageInbox.objects.filter(request_id=request_id).update(problem=problem[:200])
    return len(booked)


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


def accrue_hours(now: datetime, back_hours: int = 6) -> int:
    """Posts past hours' usage to the ledger; returns how many hours of accounts were posted.

    Begins `back_hours` before the newest hour that was accrued, so that an outage of any length
    is made up for. Usage that comes later than that is posted when somebody looks further back.
    """
    newest = services.newest_accrual()
    start = newest - timedelta(hours=back_hours) if newest else _EPOCH
    posted = 0
    for account_id, hour in services.unaccrued(start, services.hour_start(now)):
        try:
            posted += services.accrue(account_id, hour, now=now).posted is not None
        except errors.BillingError as error:
            log.error("%s: the hour of %s cannot be accrued: %s", account_id, hour, error)
    return posted


def prune(now: datetime) -> int:
    """Removes booked requests after their time; what is set aside stays."""
    removed, _ = UsageInbox.objects.filter(booked_at__lt=now - INBOX_KEPT).delete()
    return removed


def _endpoints(ids: Iterable[str]) -> dict[str, Endpoint]:
    return Endpoint.objects.select_related("project__organization").in_bulk(set(ids))


def _projects(ids: Iterable[str]) -> dict[str, Project]:
    return Project.objects.select_related("organization").in_bulk(set(ids))


def _caller(row: UsageInbox, endpoint: Endpoint, projects: Mapping[str, Project]) -> Organization:
    """Whose request it was. Raises _Unbookable where they may not have called the endpoint."""
    if endpoint.project_id == row.project_id:
        return endpoint.project.organization
    project = projects.get(row.project_id)
    shared = (
        project is not None
        and project.organization.region_code == endpoint.region_code
        and endpoint.shared_at is not None
        and endpoint.shared_at - CLOCK_SKEW <= row.closed_at
        and (endpoint.unshared_at is None or row.opened_at <= endpoint.unshared_at + CLOCK_SKEW)
    )
    if project is None or not shared:
        raise _Unbookable(f"endpoint {endpoint.id} is not of project {row.project_id!r}")
    return project.organization


def _request_events(
    row: UsageInbox,
    endpoints: Mapping[str, Endpoint],
    projects: Mapping[str, Project],
    now: datetime,
) -> list[usage.Event]:
    """The tokens of one request. On a shared endpoint other organizations owe for them; to whom
    an endpoint belongs they only attribute what its seconds cost."""
    endpoint = endpoints.get(row.endpoint_id)
    if endpoint is None:
        raise _Unbookable(f"no endpoint {row.endpoint_id!r}")
    organization = _caller(row, endpoint, projects)
    owed = organization.id != endpoint.project.organization_id
    counts = (row.input_tokens, row.cached_tokens, row.output_tokens)
    if min(counts) < 0 or max(counts) > ABSURD_TOKENS:
        raise _Unbookable(f"no such token counts: {counts}")
    if not endpoint.created_at - CLOCK_SKEW <= row.closed_at <= now + CLOCK_SKEW:
        raise _Unbookable(f"closed at {row.closed_at.isoformat()}, which cannot be")
    cached = min(row.cached_tokens, row.input_tokens)
    quantities = {
        Meter.INPUT_TOKENS: row.input_tokens - cached,
        Meter.CACHED_TOKENS: cached,
        Meter.OUTPUT_TOKENS: row.output_tokens,
    }
    return [
        usage.Event(
            id=usage.request_event_id(row.request_id, meter.value),
            at=row.closed_at,
            account_id=organization.account_id,
            project_id=row.project_id,
            key_id=row.key_id,
            endpoint_id=row.endpoint_id,
            replica_id=row.replica_id,
            request_id=row.request_id,
            region=endpoint.region_code,
            device_kind=endpoint.device_kind,
            meter=meter.value,
            basis=(Basis.CHARGE if owed else Basis.ATTRIBUTION).value,
            quantity=quantity,
            flags=_flags(row),
            agent=row.agent,
            run=row.run,
        )
        for meter, quantity in quantities.items()
        if quantity
    ]


def _flags(row: UsageInbox) -> tuple[str, ...]:
    """What an auditor or a bill should know of a count: it was cut off, or not the engine's own,
    or a line of a batch."""
    flags = []
    if row.finish not in _WHOLE:
        flags.append(row.finish)
    if row.counted_by not in _EXACT:
        flags.append(row.counted_by)
    if row.cached_tokens > row.input_tokens:
        flags.append("cached_above_input")
    if row.request_id.startswith(BATCH):
        flags.append("batch")
    return tuple(flags)


def _record(events: Mapping[str, list[usage.Event]]) -> dict[str, str]:
    """Writes what can be written; the requests that clash with recorded usage, and why."""
    try:
        usage.record(event for of in events.values() for event in of)
    except errors.UsageConflict as conflict:
        clashing = {event_id.rpartition(":")[0] for event_id in conflict.ids}
        usage.record(event for id, of in events.items() if id not in clashing for event in of)
        return dict.fromkeys(clashing, "usage of this id is recorded with other content")
    return {}


def _meter_each(interval_ids: Sequence[str], now: datetime) -> int:
    """Together, or one by one where one of them cannot be metered."""
    try:
        return _meter(interval_ids, now)
    except errors.UsageConflict as conflict:
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
        written = usage.record(
            event for one, pieces in due for event in _replica_events(one, pieces)
        )
        reserving.settle([_served(one, pieces) for one, pieces in due])
        for one, pieces in due:
            one.metered_s += sum(piece.seconds for piece in pieces)
        with connection.cursor() as cursor:
            cursor.execute(_MARK, [[one.id for one, _ in due], [one.metered_s for one, _ in due]])
    return written


def _served(interval: ServingInterval, due: Iterable[serving.Slice]) -> reserving.Served:
    version = interval.replica.version
    pieces = [(piece.at, piece.seconds * version.devices_each) for piece in due]
    payer = funding.payer(interval.replica.endpoint, version)
    return reserving.Served(interval.replica_id, payer, pieces)


# As `serving.slices` finds something due, or a little more: a minute is over, or the stretch is.
_DUE = """
SELECT i.id FROM endpoints_servinginterval i
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
        served_s=interval.served_s,
        metered_s=interval.metered_s,
        now=now,
    )


def _replica_events(
    interval: ServingInterval, due: Iterable[serving.Slice]
) -> Iterable[usage.Event]:
    replica = interval.replica
    endpoint = replica.endpoint
    for piece in due:
        yield usage.Event(
            id=f"{replica.id}:{interval.id}:{piece.name}",
            at=piece.at,
            account_id=endpoint.project.organization.account_id,
            project_id=endpoint.project_id,
            endpoint_id=endpoint.id,
            replica_id=replica.id,
            region=endpoint.region_code,
            device_kind=replica.version.device_kind,
            meter=Meter.DEVICE_SECONDS.value,
            basis=Basis.CHARGE.value,
            quantity=piece.seconds * replica.version.devices_each,
            share=replica.version.device_share,
        )
