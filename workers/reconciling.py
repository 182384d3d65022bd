"""Our own serving intervals, node records and usage, held against each other (within a second).

What differs and has no known cause is said aloud, and keeps the account's invoices back until an
operator has explained it (`billing.meters.metering.unexplained`). Nothing is billed by what is
found here: the less counted already.
"""

import math
from datetime import datetime, timedelta

from django.db.models import F, Q, Sum

from billing.meters import metering
from billing.meters.metering import Found
from billing.meters.models import FindingKind, MeterFinding
from billing.models import Basis, UsageEvent
from controlplane.endpoints import node_records
from controlplane.endpoints.models import ServingInterval, Transition
from controlplane.endpoints.serving import MINUTE, bounded_s
from controlplane.endpoints.states import Reason, State

GRACE = timedelta(hours=1)  # for records that are still on their way
TOLERANCE_S = 1.0
# More than a node can have served since its last record, and what comes with it.
SILENT_S = 65
AT_ONCE = 1000
_SILENT = (Reason.NODE_UNREACHABLE, Reason.NODE_LOST)


def reconcile(now: datetime) -> int:
    """Look at what ended, and at what goes on; returns how many differences are new."""
    every = ServingInterval.objects.select_related("replica").order_by("id")
    ended = list(every.filter(ended_at__lt=now - GRACE, reconciled_at=None)[:AT_ONCE])
    holes = Q(reached_us__gt=F("proved_us") + TOLERANCE_S * 1e6)
    behind = Q(served_s__gt=F("reached_us") / 1e6 + GRACE.total_seconds())
    going = every.filter(holes | behind, ended_at=None, proved_us__isnull=False)
    found = [one for interval in (*ended, *going[:AT_ONCE]) for one in _differences(interval, now)]
    new = metering.find(found, now)
    done = [interval.id for interval in ended]
    ServingInterval.objects.filter(id__in=done).update(reconciled_at=now)
    _close(now)
    return len(new)


def _differences(interval: ServingInterval, now: datetime) -> list[Found]:
    served_s = float(bounded_s(interval.started_at, interval.ended_at, interval.served_s, now))
    found = []
    agreed_s = served_s
    if interval.proved_us is not None:
        proved_s = interval.proved_us / 1e6
        agreed_s = min(served_s, proved_s)
        missing_s = _missing_s(interval, served_s, now)
        known_s = _known_s(interval)
        if missing_s - known_s > TOLERANCE_S:
            found.append(_unproved(interval, missing_s - known_s, now))
    if interval.ended_at is not None:
        found += _usage(interval, math.floor(agreed_s), now)
    return found


def _missing_s(interval: ServingInterval, served_s: float, now: datetime) -> float:
    """Served by our clock, and no record proves it: of what goes on, only what is overdue."""
    assert interval.proved_us is not None
    if interval.ended_at is not None:
        return served_s - interval.proved_us / 1e6
    holes_s = (interval.reached_us - interval.proved_us) / 1e6
    behind_s = served_s - interval.reached_us / 1e6
    return holes_s + (behind_s if behind_s > GRACE.total_seconds() else 0.0)


def _known_s(interval: ServingInterval) -> int:
    mine = MeterFinding.objects.filter(interval_id=interval.id, kind=FindingKind.UNPROVED)
    return mine.aggregate(total=Sum("seconds"))["total"] or 0


def _unproved(interval: ServingInterval, missing_s: float, now: datetime) -> Found:
    """A node that fell silent cannot prove its last minute: nobody has to explain that."""
    told = MeterFinding.objects.filter(interval_id=interval.id, kind=FindingKind.UNPROVED).count()
    silent = missing_s <= SILENT_S and _silent(interval)
    why = ": its node fell silent" if silent else ""
    return Found(
        f"unproved:{interval.id}:{told}",
        FindingKind.UNPROVED,
        interval.ended_at or now,
        f"no node record proves {missing_s:.0f} s of {interval.replica_id}: not billed{why}",
        node_id=interval.replica.node_id or "",
        replica_id=interval.replica_id,
        interval_id=interval.id,
        whose=_whose(interval),
        seconds=math.ceil(missing_s),
        blocks=not silent,
    )


def _silent(interval: ServingInterval) -> bool:
    if interval.ended_at is None:
        return False
    left = Transition.objects.filter(
        replica_id=interval.replica_id, from_state=State.READY, at__gte=interval.ended_at
    )
    first = left.order_by("at", "id").values_list("reason", flat=True).first()
    return first in _SILENT


def _usage(interval: ServingInterval, agreed_s: int, now: datetime) -> list[Found]:
    """Charges less what was given back because too much was charged, against what was agreed."""
    assert interval.ended_at is not None
    replica = interval.replica
    mine = UsageEvent.objects.filter(
        endpoint_id=replica.endpoint_id,
        replica_id=replica.id,
        at__gte=interval.started_at - MINUTE,
        at__lte=interval.ended_at + MINUTE,
        id__startswith=f"{replica.id}:{interval.id}:",
    )
    charged = mine.filter(basis=Basis.CHARGE).aggregate(total=Sum("quantity"))["total"] or 0
    back = mine.filter(basis=Basis.CREDIT, id__contains="~o")
    charged -= back.aggregate(total=Sum("quantity"))["total"] or 0
    billed_s = charged / replica.version.devices_each
    if abs(billed_s - agreed_s) <= TOLERANCE_S:
        return []
    return [
        Found(
            f"unexplained:{interval.id}",
            FindingKind.UNEXPLAINED,
            interval.ended_at,
            f"{replica.id}: usage says {billed_s:.0f} s, our clock and its node {agreed_s} s",
            replica_id=replica.id,
            interval_id=interval.id,
            whose=_whose(interval),
            blocks=True,
        )
    ]


def _close(now: datetime) -> None:
    """What was missing and was proved late is missing no more."""
    open_ = MeterFinding.objects.filter(
        kind=FindingKind.UNPROVED, explained_at=None, found_at__gt=now - timedelta(days=35)
    )
    for one in open_.exclude(interval_id=""):
        interval = ServingInterval.objects.get(id=one.interval_id)
        served_s = float(bounded_s(interval.started_at, interval.ended_at, interval.served_s, now))
        if interval.proved_us is None or _missing_s(interval, served_s, now) > TOLERANCE_S:
            continue
        one.explained_at, one.explanation = now, "it was proved late"
        one.save(update_fields=["explained_at", "explanation"])


def _whose(interval: ServingInterval) -> metering.Whose:
    return node_records.owners([interval.replica_id]).get(interval.replica_id, metering.NOBODY)
