"""Maintenance of a node: planned with a word to whom it concerns, drained when it begins, and taken
back when it is over.

`tend` may run anywhere, at once, and be killed at any line: each step is one transaction under the
node's lock.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from compliance import audit
from controlplane.endpoints.models import Replica
from controlplane.endpoints.states import LIVE
from controlplane.fleet import errors, findings, services
from controlplane.fleet.keeping_models import MaintenanceState as State
from controlplane.fleet.models import Maintenance, Node
from controlplane.tenancy import notices
from controlplane.tenancy.models import Organization

log = logging.getLogger(__name__)

LONGEST = timedelta(days=30)
AHEAD = timedelta(days=365)
_OPEN = (State.PLANNED, State.ACTIVE)
_PLANNED, _CANCELLED = "planned", "cancelled"  # keys of notices


def plan(
    *,
    node: Node,
    starts_at: datetime,
    ends_at: datetime,
    message: str = "",
    take_back: bool = True,
    actor: audit.Actor,
    now: datetime,
) -> Maintenance:
    """Plan it, and tell the organizations that are served there now. One that begins now begins
    with the next sweep. Raises RemovedNode, InvalidWindow for one that ends in the past or lies
    over another of the node."""
    _check(starts_at, ends_at, now)
    with transaction.atomic():
        node = services.locked(node)
        there = Maintenance.objects.filter(node=node, state__in=_OPEN)
        if there.filter(starts_at__lt=ends_at, ends_at__gt=starts_at).exists():
            raise errors.InvalidWindow("There is maintenance of this node at that time already.")
        row = Maintenance.objects.create(
            node=node,
            starts_at=max(starts_at, now),
            ends_at=ends_at,
            message=message.strip()[:500],
            take_back=take_back,
            created_at=now,
            created_by=actor.id,
        )
        _tell_tenants(row, now)
        _tell(
            "maintenance.plan",
            row,
            actor,
            now,
            audit.Change("starts_at", None, audit.stamp(row.starts_at)),
            audit.Change("ends_at", None, audit.stamp(row.ends_at)),
            audit.Change("told", None, len(row.told)),
        )
    return row


def cancel(*, maintenance: Maintenance, actor: audit.Actor, now: datetime) -> Maintenance:
    """Call it off: what it drained is taken back at once. Raises NotCancellable when it is over."""
    with transaction.atomic():
        row = _locked(maintenance.pk)
        if row.state == State.CANCELLED:
            return row
        if row.state not in _OPEN:
            raise errors.NotCancellable("The maintenance is over.")
        was_active = row.state == State.ACTIVE
        row.state, row.ended_at = State.CANCELLED, now
        row.result = _take_back(row, now) if was_active else "it had not begun"
        row.save(update_fields=("state", "ended_at", "result"))
        about = audit.Target("maintenance", row.id)
        notices.withdraw(actor=audit.SYSTEM, about=about, key=_PLANNED, now=now)
        _notify(row, row.told, _CANCELLED, "Maintenance was cancelled", _words(row), now)
        _tell("maintenance.cancel", row, actor, now)
    return row


def tend(*, now: datetime) -> int:
    """Begin what is to begin and end what is over; the number of steps that took effect."""
    begins = Q(state=State.PLANNED, starts_at__lte=now)
    ends = Q(state=State.ACTIVE, ends_at__lte=now)
    done = 0
    for pk in list(Maintenance.objects.filter(begins | ends).order_by("id").values_list("pk")):
        try:
            while _step(pk[0], now):
                done += 1
        except Exception:  # one must not stop the others
            log.exception("maintenance %s could not go on", pk[0])
    return done


def _step(pk: str, now: datetime) -> bool:
    with transaction.atomic():
        row = _locked(pk)
        if row.state == State.PLANNED and row.starts_at <= now:
            return _begin(row, now)
        if row.state == State.ACTIVE and row.ends_at <= now:
            return _end(row, now)
    return False


def _begin(row: Maintenance, now: datetime) -> bool:
    row.started_at = now
    if row.node.removed_at is not None:
        return _close(row, "the node had left the fleet", now)
    _tell_tenants(row, now)  # who came since it was planned
    row.state = State.ACTIVE
    # One that the health policy drained is taken over, or the policy would take it back meanwhile.
    row.drained = row.node.drain_requested_at is None or row.node.health_action != ""
    if row.drained:
        services.drain(node=row.node, actor=audit.SYSTEM, now=now)
    row.save(update_fields=("state", "started_at", "drained", "told"))
    _tell("maintenance.start", row, audit.SYSTEM, now)
    return True


def _end(row: Maintenance, now: datetime) -> bool:
    kept = "" if row.take_back else "it was to stay out of service"
    return _close(row, kept or _take_back(row, now), now)


def _close(row: Maintenance, result: str, now: datetime) -> bool:
    row.state, row.ended_at, row.result = State.OVER, now, result
    row.save(update_fields=("state", "started_at", "ended_at", "result"))
    about = audit.Target("maintenance", row.id)
    notices.withdraw(actor=audit.SYSTEM, about=about, key=_PLANNED, now=now)
    _tell("maintenance.end", row, audit.SYSTEM, now, audit.Change("result", None, result))
    return True


def _take_back(row: Maintenance, now: datetime) -> str:
    """Put the node into service again, unless it is not well, or not ours to; what became of it."""
    node = row.node
    if node.removed_at is not None:
        return "the node has left the fleet"
    if not row.drained:
        return "it was out of service before"
    if node.drain_requested_at is None:
        return "an operator had taken it back"
    if services.leaving(node):
        return "it leaves the fleet"
    others = Maintenance.objects.filter(node=node, state=State.ACTIVE).exclude(pk=row.pk)
    if others.exists():
        return "other maintenance of it goes on"
    unwell = [
        one.type
        for one in findings.conditions_of(node, findings.open_of([node])[node.id], now)
        if not one.well and one.type != "Schedulable"
    ]
    if unwell:
        return f"kept out of service: {', '.join(unwell)}"
    services.uncordon(node=node, actor=audit.SYSTEM, now=now)
    return "taken back into service"


# --- Whom it concerns -----------------------------------------------------------------------


def concerned(node: Node) -> list[str]:
    """Ids of the organizations that are served there now."""
    here = Q(node=node) | Q(members__node=node, members__released_at=None)
    live = Replica.objects.filter(here, state__in=sorted(LIVE))
    found = live.values_list("endpoint__project__organization_id", flat=True)
    return sorted(set(found.order_by()))


def _tell_tenants(row: Maintenance, now: datetime) -> None:
    new = [one for one in concerned(row.node) if one not in row.told]
    _notify(row, new, _PLANNED, "Maintenance is planned", _words(row), now)
    if new:
        row.told = sorted({*row.told, *new})
        row.save(update_fields=("told",))


def _notify(
    row: Maintenance, ids: Iterable[str], key: str, subject: str, text: str, now: datetime
) -> None:
    about = audit.Target("maintenance", row.id)
    for organization in Organization.objects.filter(id__in=list(ids)).order_by("id"):
        notices.tell(organization, subject=subject, text=text, about=about, key=key, now=now)


def _words(row: Maintenance) -> str:
    """To tenants, who know no nodes: when, and what it means for them."""
    window = f"{row.starts_at:%Y-%m-%d %H:%M} to {row.ends_at:%Y-%m-%d %H:%M} UTC"
    text = (
        f"A machine that serves your endpoints in {row.node.pool.region_id}: {window}."
        " Replicas are moved to other machines before it goes out of service; where no other has"
        " room, an endpoint may wait until one has."
    )
    return f"{text} {row.message}".strip()


# --- Inside ---------------------------------------------------------------------------------


def _check(starts_at: datetime, ends_at: datetime, now: datetime) -> None:
    if ends_at <= max(starts_at, now):
        raise errors.InvalidWindow("Maintenance ends after it begins, and in the future.")
    if ends_at - starts_at > LONGEST:
        raise errors.InvalidWindow(f"Maintenance lasts at most {LONGEST.days} days.")
    if starts_at > now + AHEAD:
        raise errors.InvalidWindow(f"Maintenance begins within {AHEAD.days} days.")


def _locked(pk: str) -> Maintenance:
    """The node before what hangs on it, as everybody does who needs both."""
    node_id = Maintenance.objects.values_list("node_id", flat=True).get(pk=pk)
    Node.objects.select_for_update(no_key=True).get(pk=node_id)
    found = Maintenance.objects.select_for_update(of=("self",))
    return found.select_related("node__pool__region").get(pk=pk)


def _tell(
    action: str, row: Maintenance, actor: audit.Actor, now: datetime, *change: audit.Change
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("node", row.node_id),
        log=audit.PLATFORM,
        region=row.node.pool.region_id,
        now=now,
        change=[audit.Change("maintenance", None, row.id), *change],
    )
