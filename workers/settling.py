"""What is given back: seconds that were billed and are not, in the end, the tenant's to pay.

Credits are usage events of their own, negative on every line, with ids that their charge gives; so
a step may be repeated or killed anywhere. Each comes with a finding that says why.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, FloatField
from django.db.models.functions import Coalesce, Extract, Floor, Least

from billing.meters import metering, usage
from billing.meters.metering import Found
from billing.meters.models import FindingKind, MeterFinding
from billing.models import Basis, UsageEvent
from billing.spending import reserving
from controlplane.endpoints import funding, node_records
from controlplane.endpoints.models import ServingInterval, Transition
from controlplane.endpoints.serving import MINUTE
from controlplane.endpoints.states import Reason, State

# How long an end is looked at: usage that comes later is of no interval that would be.
LOOKED_AT = timedelta(days=3)
AT_ONCE = 200
FLAG = "platform_fault"
_FAULT, _MOVE, _OVER = "~f", "~m", "~o"  # how ids of credits end
_CLOCK_S = Extract(F("ended_at") - F("started_at"), "epoch", output_field=FloatField())
_PROVED_S = Coalesce(F("proved_us") / 1e6, F("served_s"), output_field=FloatField())
AGREED_S = Floor(Least("served_s", _CLOCK_S, _PROVED_S))


def give_back(now: datetime) -> int:
    """Credit what ended by a fault of the platform, was moved, or was billed beyond what was
    agreed in the end; returns how many credits were written."""
    ended = ServingInterval.objects.filter(ended_at__gt=now - LOOKED_AT)
    faulty = ended.exclude(fault="").exclude(metered_s=F("settled_s"))
    over = ended.filter(metered_s__gt=AGREED_S + F("returned_s"))
    ids = {
        id
        for found in (faulty, over)
        for id in found.order_by("id").values_list("id", flat=True)[:AT_ONCE]
    }
    return sum(_settle(id, now) for id in sorted(ids))


def _settle(interval_id: str, now: datetime) -> int:
    with transaction.atomic():
        locked = ServingInterval.objects.select_for_update(of=("self",), skip_locked=True)
        interval = locked.select_related("replica").filter(id=interval_id).first()
        if interval is None or interval.ended_at is None:
            return 0
        written = 0
        agreed_s = ServingInterval.objects.annotate(agreed=AGREED_S).get(id=interval_id).agreed
        over_s = interval.metered_s - interval.returned_s - int(agreed_s)
        if over_s > 0:
            written += _credit(interval, _newest(interval, over_s), _OVER, now)
            interval.returned_s += over_s
        if interval.fault == Reason.NODE_DRAIN:
            written += _credit(interval, _doubled(interval), _MOVE, now)
        elif interval.fault:
            minute = interval.ended_at.replace(second=0, microsecond=0)
            written += _credit(interval, {minute: 60}, _FAULT, now)
        interval.settled_s = interval.metered_s
        interval.save(update_fields=["settled_s", "returned_s"])
    return written


def _newest(interval: ServingInterval, seconds: int) -> dict[datetime, int]:
    """The last seconds that were billed, by the minutes of their events."""
    wanted: dict[datetime, int] = {}
    left = seconds * interval.replica.version.devices_each
    charged: Counter[datetime] = Counter()
    for event in _charges(interval):
        charged[event.at] += event.quantity
    for event in _events(interval, Basis.CREDIT):
        charged[event.at] -= event.quantity
    for at in sorted(charged, reverse=True):
        taken = min(left, charged[at])
        if taken > 0:
            wanted[at] = math.ceil(taken / interval.replica.version.devices_each)
        left -= taken
    return wanted


def _doubled(interval: ServingInterval) -> dict[datetime, int]:
    """Seconds in which the replica that the platform put in this one's place served as well."""
    assert interval.ended_at is not None
    made = Transition.objects.filter(to_state=State.REQUESTED, reason=Reason.NODE_DRAIN)
    beside = ServingInterval.objects.filter(
        replica__endpoint_id=interval.replica.endpoint_id,
        replica__generation=interval.replica.generation,
        replica__in=made.values("replica_id"),
        started_at__gt=interval.started_at,
        started_at__lt=interval.ended_at,
    ).exclude(replica_id=interval.replica_id)
    for successor in beside.order_by("started_at", "id"):
        # Each stands in for one that went.
        other = MeterFinding.objects.filter(key=f"moved:{successor.id}").first()
        if other is None or other.interval_id == interval.id:
            until = min(interval.ended_at, successor.ended_at or interval.ended_at)
            doubled = _by_minute(successor.started_at, until)
            found = _moved(interval, successor, sum(doubled.values()))
            metering.find([found], interval.ended_at)
            return doubled
    return {}


def _moved(interval: ServingInterval, successor: ServingInterval, seconds: int) -> Found:
    assert interval.ended_at is not None
    return Found(
        f"moved:{successor.id}",
        FindingKind.MOVED,
        interval.ended_at,
        f"the platform moved {interval.replica_id} to {successor.replica_id}: seconds in which"
        " both served are billed once",
        replica_id=interval.replica_id,
        interval_id=interval.id,
        whose=_whose(interval),
        seconds=seconds,
    )


def _by_minute(start: datetime, end: datetime) -> dict[datetime, int]:
    """Whole seconds, rounded up, from `start` to `end` in each minute."""
    found: dict[datetime, int] = {}
    at = start
    while at < end:
        minute = at.replace(second=0, microsecond=0)
        until = min(end, minute + MINUTE)
        found[minute] = math.ceil((until - at).total_seconds())
        at = until
    return found


def _credit(
    interval: ServingInterval, wanted: Mapping[datetime, int], suffix: str, now: datetime
) -> int:
    """Give back up to so many of the replica's seconds of each minute, of what was charged for it
    and was not given back before. How many events that were."""
    if not wanted:
        return 0
    before: defaultdict[str, list[UsageEvent]] = defaultdict(list)
    for credit in _events(interval, Basis.CREDIT):
        before[credit.id.rpartition("~")[0]].append(credit)
    each = interval.replica.version.devices_each
    left = {at: seconds * each for at, seconds in wanted.items()}
    if suffix != _OVER:  # of which only what is new is asked for
        for credit in (one for some in before.values() for one in some if suffix in one.id):
            left[credit.at] = left.get(credit.at, 0) - credit.quantity
    credits = []
    for event in _charges(interval):
        mine = before[event.id]
        quantity = min(left.get(event.at, 0), event.quantity - sum(one.quantity for one in mine))
        if quantity <= 0:
            continue
        number = sum(suffix in one.id for one in mine)
        left[event.at] -= quantity
        fields = {name: getattr(event, name) for name in usage.EXPORTED} | {"flags": ()}
        back = usage.Event(**fields)
        credits.append(
            replace(
                back,
                id=f"{event.id}{suffix}{number or ''}",
                basis=Basis.CREDIT.value,
                quantity=quantity,
                flags=(FLAG, _WHY[suffix] if suffix != _FAULT else interval.fault),
            )
        )
    if credits:
        usage.record(credits)
        pieces = [(one.at, one.quantity, one.meter) for one in credits]
        payer = funding.payer(interval.replica.endpoint, interval.replica.version)
        reserving.give_back(reserving.Served(interval.replica_id, payer, pieces))
        if suffix != _MOVE:
            seconds = sum(one.quantity for one in credits) // each
            metering.find([_found(interval, suffix, seconds, now)], now)
    return len(credits)


_WHY = {_MOVE: "moved", _OVER: "overbilled"}


def _found(interval: ServingInterval, suffix: str, seconds: int, now: datetime) -> Found:
    fault = suffix == _FAULT
    what = f"it failed ({interval.fault})" if fault else "less was agreed in the end"
    return Found(
        f"credit:{interval.id}{suffix}{interval.metered_s}",
        FindingKind.PLATFORM_FAULT if fault else FindingKind.OVERBILLED,
        interval.ended_at or now,
        f"{seconds} s of {interval.replica_id} are given back: {what}",
        replica_id=interval.replica_id,
        interval_id=interval.id,
        whose=_whose(interval),
        seconds=seconds,
    )


def _charges(interval: ServingInterval) -> list[UsageEvent]:
    return _events(interval, Basis.CHARGE)


def _events(interval: ServingInterval, basis: Basis) -> list[UsageEvent]:
    replica = interval.replica
    mine = UsageEvent.objects.filter(
        endpoint_id=replica.endpoint_id,
        replica_id=replica.id,
        basis=basis,
        id__startswith=f"{replica.id}:{interval.id}:",
        at__gte=interval.started_at - MINUTE,
    )
    if interval.ended_at is not None:
        mine = mine.filter(at__lte=interval.ended_at + MINUTE)
    return list(mine.order_by("-at", "-id"))


def _whose(interval: ServingInterval) -> metering.Whose:
    whose = node_records.owners([interval.replica_id])
    return whose.get(interval.replica_id, metering.NOBODY)
