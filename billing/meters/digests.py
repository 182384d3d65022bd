"""Hourly digests of usage: what an account's events of an hour were, each chained to the last.

A digest stands in the account's audit log as well. So nobody, the operator included, can take an
event away or change one that a digest covers without that showing. Usage that comes late gives a
further digest of its hour; the newest of an hour is the one that holds.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction

from billing.meters import usage
from billing.models import MeteringDigest, UsageEvent
from compliance import audit, locks

HOUR = timedelta(hours=1)
# What a minute's last events take to arrive: an hour is digested when it has been over for it.
SETTLING = timedelta(minutes=5)
LATE = timedelta(hours=72)  # usage that comes later than that is found by `verify` alone


@dataclass(frozen=True)
class Log:
    """Where an account's events go: the organization's log, and its region."""

    id: str
    region: str


def due(now: datetime, limit: int = 500) -> list[tuple[str, datetime]]:
    """The (account, hour) pairs that need a digest, oldest hour first; idle hours are among them.

    Of all accounts that ever had usage.
    """
    end = _hour(now - SETTLING)
    since = end - LATE
    with connection.cursor() as cursor:
        cursor.execute(_NEXT)
        following = dict(cursor.fetchall())
    found = {(id, at) for id, hour in following.items() for at in _hours(_hour(hour), end)}
    found |= _changed(since, end, list(following))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))[:limit]


def make(account_id: str, hour: datetime, *, log: Log, now: datetime) -> MeteringDigest | None:
    """The digest of an hour that is over, with its audit event; None where the newest holds."""
    hour = _hour(hour)
    if hour + HOUR > now:
        raise ValueError(f"the hour of {hour.isoformat()} is not over")
    with transaction.atomic():
        locks.hold(f"digest:{account_id}")
        mine = MeteringDigest.objects.filter(account_id=account_id)
        last = mine.order_by("-number").first()
        held = mine.filter(hour=hour).order_by("-number").first()
        count, events = summed(account_id, hour)
        if held is not None and (held.events, held.events_sha256) == (count, events):
            return None
        number, previous = (last.number + 1, last.sha256) if last else (1, "")
        digest = MeteringDigest.objects.create(
            account_id=account_id,
            number=number,
            hour=hour,
            events=count,
            events_sha256=events,
            previous_sha256=previous,
            sha256=chained(account_id, number, hour, count, events, previous),
            made_at=now,
        )
        audit.record(
            actor=audit.SYSTEM,
            action="metering.digest",
            target=audit.Target("account", account_id),
            log=log.id,
            region=log.region,
            now=now,
            change=[
                audit.Change("hour", None, hour.isoformat()),
                audit.Change("number", None, number),
                audit.Change("events", None, count),
                audit.Change("events_sha256", None, events),
                audit.Change("previous_sha256", None, previous),
                audit.Change("sha256", None, digest.sha256),
            ],
        )
    return digest


def verify(account_id: str, start: datetime, end: datetime) -> list[str]:
    """What does not fit, in words: the account's whole chain, and its usage of start <= at < end.

    Empty where every digest follows from the one before it and every event is covered.
    """
    wrong: list[str] = []
    newest: dict[datetime, MeteringDigest] = {}
    number, previous = 0, ""
    for one in MeteringDigest.objects.filter(account_id=account_id).order_by("number"):
        number += 1
        named = f"digest {one.number} of {one.hour:%Y-%m-%d %H}:00"
        expected = chained(
            account_id, one.number, one.hour, one.events, one.events_sha256, one.previous_sha256
        )
        if one.number != number or one.previous_sha256 != previous:
            wrong.append(f"{named} does not follow the one before it")
        if one.sha256 != expected:
            wrong.append(f"{named} is not what it says")
        number, previous = one.number, one.sha256
        newest[one.hour] = one
    for hour in _hours(_hour(start), end):
        count, events = summed(account_id, hour)
        held = newest.get(hour)
        if held is None and count:
            wrong.append(f"{count} events of {hour:%Y-%m-%d %H}:00 have no digest")
        elif held is not None and (held.events, held.events_sha256) != (count, events):
            wrong.append(
                f"the usage of {hour:%Y-%m-%d %H}:00 ({count} events) is not what digest"
                f" {held.number} covers ({held.events})"
            )
    return wrong


def summed(account_id: str, hour: datetime) -> tuple[int, str]:
    """How many events an hour has, and the SHA-256 over them: a line each, in the order of ids."""
    mine = UsageEvent.objects.filter(account_id=account_id, at__gte=hour, at__lt=hour + HOUR)
    total, digest = 0, hashlib.sha256()
    for event in mine.order_by("id").iterator(chunk_size=2_000):
        digest.update(line({name: getattr(event, name) for name in usage.EXPORTED}))
        total += 1
    return total, digest.hexdigest()


def line(event: Mapping[str, Any]) -> bytes:
    """An event in its canonical form: JSON, keys sorted, times in UTC with microseconds."""
    said = {
        name: value.astimezone(UTC).isoformat(timespec="microseconds")
        if isinstance(value, datetime)
        else value
        for name, value in event.items()
    }
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def chained(
    account_id: str, number: int, hour: datetime, events: int, events_sha256: str, previous: str
) -> str:
    """The SHA-256 of a digest, which is over the one before it as well."""
    said = {
        "account": account_id,
        "number": number,
        "hour": hour.astimezone(UTC).isoformat(timespec="seconds"),
        "events": events,
        "events_sha256": events_sha256,
        "previous_sha256": previous,
    }
    return hashlib.sha256(
        json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


# The hour after an account's last digest, or the first that it has usage of.
_NEXT = """
SELECT id, next FROM (
    SELECT a.id, COALESCE(
        (SELECT max(d.hour) FROM billing_meteringdigest d WHERE d.account_id = a.id)
        + interval '1 hour',
        (SELECT min(u.at) FROM billing_usageevent u WHERE u.account_id = a.id)
    ) AS next
    FROM billing_account a
) AS found WHERE next IS NOT NULL
"""


def _changed(since: datetime, end: datetime, known: list[str]) -> set[tuple[str, datetime]]:
    """Hours that have other events than their newest digest says: usage is only ever added."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNTS, [since, end, known])
        return {(account_id, hour) for account_id, hour in cursor.fetchall()}


_COUNTS = """
WITH used AS (
    SELECT account_id, date_trunc('hour', at, 'UTC') AS hour, count(*) AS events
    FROM billing_usageevent WHERE at >= %s AND at < %s AND account_id = ANY(%s) GROUP BY 1, 2
)
SELECT used.account_id, used.hour FROM used
LEFT JOIN LATERAL (
    SELECT d.events FROM billing_meteringdigest d
    WHERE d.account_id = used.account_id AND d.hour = used.hour ORDER BY d.number DESC LIMIT 1
) AS held ON true
WHERE held.events <> used.events
   OR held.events IS NULL AND used.hour <= (
       SELECT max(d.hour) FROM billing_meteringdigest d WHERE d.account_id = used.account_id)
"""


def _hours(start: datetime, end: datetime) -> Sequence[datetime]:
    return [start + n * HOUR for n in range(max(0, -((start - end) // HOUR)))]


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
