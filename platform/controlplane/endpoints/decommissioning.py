"""A node, or one device of it, leaves the fleet for good, step by step; the state is the row's.

    node    draining → erasing → closing → done
    device  draining → awaiting → done

`tend` takes each row as far as it can go and may run anywhere, at once, and be killed at any line:
a step is one transaction that looks again under the row's lock, so it happens once or not at all.
What runs there is moved by the reconciler (make before break); a node erases what tenants left on
it and says so, signed by its certificate, and a last time when its credential is gone; then the
certificate is dead, what it served is closed, and the record is signed.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from django.db import transaction

from compliance import audit
from controlplane.endpoints import decommission_record
from controlplane.endpoints.models import DeviceClaim, Member, Replica, ServingInterval
from controlplane.fleet import errors, replacing, services, wire
from controlplane.fleet.keeping_models import DecommissionState as State
from controlplane.fleet.models import Decommission, Device, Node

log = logging.getLogger(__name__)

LAST_WORD = timedelta(seconds=60)  # for which a node may still say that its credential is gone
_OVER = (State.DONE, State.CANCELLED)
_MOST_ITEMS, _MOST_NUMBER = 100, 1 << 53


def begin(
    *, node: Node, reason: str, unconfirmed: bool = False, actor: audit.Actor, now: datetime
) -> Decommission:
    """Drain the node, and take it out of the fleet when it is empty and erased.

    `unconfirmed`: it will never answer again, so that nothing is waited for but our own books;
    said of one that is under way, it counts from then on. Raises RemovedNode.
    """
    with transaction.atomic():
        node = services.locked(node)
        row = Decommission.objects.filter(node=node, device=None).exclude(state__in=_OVER).first()
        if row is not None and (row.unconfirmed or not unconfirmed):
            return row
        if row is None:
            services.drain(node=node, actor=actor, now=now)
            row = Decommission(
                node=node,
                reason=reason[:500],
                was=decommission_record.facts(node),
                requested_by=actor.id,
                requested_at=now,
            )
        row.unconfirmed = unconfirmed
        row.save()
        _tell("node.decommission", row, actor, now, audit.Change("unconfirmed", None, unconfirmed))
    return row


def cancel(*, decommission: Decommission, actor: audit.Actor, now: datetime) -> Decommission:
    """While nothing was erased. The node stays drained. Raises RemovedNode, NotCancellable."""
    if decommission.device_id is not None:
        return replacing.cancel(replacement=decommission, actor=actor, now=now)
    with transaction.atomic():
        services.locked(decommission.node)
        row = _locked(decommission.pk)
        if row.state == State.CANCELLED:
            return row
        if row.state != State.DRAINING:
            raise errors.NotCancellable("The node was told to erase what it has.")
        row.state, row.closed_at = State.CANCELLED, now
        row.save(update_fields=("state", "closed_at"))
        _tell("node.decommission_cancel", row, actor, now)
    return row


def wish(node: Node) -> wire.Erase | None:
    """What a node that is to be erased is told."""
    if node.drain_requested_at is None:
        return None
    mine = Decommission.objects.filter(node=node, device=None)
    row = mine.filter(state__in=(State.ERASING, State.CLOSING)).first()
    return wire.Erase(id=row.id) if row else None


def confirm(*, node: Node, erased: wire.Erased, now: datetime) -> bool:
    """The node says what it has erased; whether that was all. Raises InvalidReport."""
    said = _checked(erased)
    with transaction.atomic():
        services.locked(node)
        mine = Decommission.objects.select_for_update(of=("self",)).filter(node=node, device=None)
        row = mine.filter(pk=erased.id, state__in=(State.ERASING, State.CLOSING)).first()
        if row is None:
            return False
        # Who says nothing has confirmed nothing.
        whole = bool(erased.items) and all(item.done for item in erased.items)
        gone = any(item.what == "credential" and item.done for item in erased.items)
        if row.credential_erased_at is not None or row.erased == said:
            return whole
        row.erased = said
        if whole and row.erased_at is None:
            row.erased_at, row.state = now, State.CLOSING
            actor = audit.Actor("node", node.id, auth="certificate")
            _tell("node.erased", row, actor, now)
        if whole and gone:
            row.credential_erased_at = now
        row.save(update_fields=("erased", "erased_at", "state", "credential_erased_at"))
    return whole


def tend(*, now: datetime) -> int:
    """Take each as far as it goes; the number of steps that took effect."""
    done = 0
    rows = Decommission.objects.exclude(state__in=_OVER).order_by("id")
    for pk in list(rows.values_list("pk", flat=True)):
        try:
            while _step(pk, now):
                done += 1
        except Exception:  # one must not stop the others
            log.exception("decommission %s could not go on", pk)
    return done


# --- Steps: each whether it took effect --------------------------------------------------


def _step(pk: str, now: datetime) -> bool:
    with transaction.atomic():
        # The node before what hangs on it, as everybody does who needs both.
        row = Decommission.objects.get(pk=pk)
        Node.objects.select_for_update(no_key=True).get(pk=row.node_id)
        row = _locked(pk)
        take = _STEPS.get((State(row.state), row.device_id is not None))
        return take is not None and take(row, now)


def _drained(row: Decommission, now: datetime) -> bool:
    held = _held(row)
    if moved := sorted({*row.moved, *held}):
        Decommission.objects.filter(pk=row.pk).update(moved=moved)
        row.moved = moved
    if _without_its_word(row):
        return True
    if held:
        return False
    row.state, row.drained_at = State.ERASING, now
    row.save(update_fields=("state", "drained_at"))
    services.touch(row.node)
    _tell("node.erase", row, audit.SYSTEM, now)
    return True


def _erasing(row: Decommission, now: datetime) -> bool:
    """The node's own word takes it on (`confirm`), unless nobody waits for that any more."""
    return _without_its_word(row)


def _without_its_word(row: Decommission) -> bool:
    """Where nobody waits for what the node says: one that was removed is heard no more."""
    if row.node.removed_at is not None:
        row.unconfirmed = True
    if not row.unconfirmed:
        return False
    row.state = State.CLOSING
    row.save(update_fields=("state", "unconfirmed"))
    return True


def _closing(row: Decommission, now: datetime) -> bool:
    if row.revoked_at is None:
        waited = row.erased_at is not None and now - row.erased_at >= LAST_WORD
        if not (row.unconfirmed or row.credential_erased_at or waited):
            return False
        gone = services.remove_node(node=row.node, actor=audit.SYSTEM, now=now)
        row.revoked_at = gone.removed_at
        row.save(update_fields=("revoked_at",))
        return True
    if _held(row) or _open_intervals(row):
        return False  # the reconciler gives up what was on it, and closes that
    row.closed_at = now
    decommission_record.sign(row, now)
    row.state = State.DONE
    row.save()
    _tell("node.decommissioned", row, audit.SYSTEM, now, *_evidence(row))
    return True


def _device_drained(row: Decommission, now: datetime) -> bool:
    if row.node.removed_at is not None:
        return _left_with_its_node(row, now)
    held = _held(row)
    if held and set(held) - set(row.moved):
        row.moved = sorted({*row.moved, *held})
        row.save(update_fields=("moved",))
    if held:
        return False
    row.state, row.drained_at = State.AWAITING, now
    row.save(update_fields=("state", "drained_at"))
    return True


def _succeeded(row: Decommission, now: datetime) -> bool:
    """Another device is at its index, and well."""
    assert row.device_id is not None
    if row.node.removed_at is not None:
        return _left_with_its_node(row, now)
    device = Device.objects.get(pk=row.device_id)
    other = (device.uuid, device.serial) != (row.was["uuid"], row.was["serial"])
    if not (other and device.healthy and device.uuid) or _open_intervals(row):
        return False
    row.successor, row.closed_at = replacing.facts(device), now
    decommission_record.sign(row, now)
    row.state = State.DONE
    row.save()
    Device.objects.filter(pk=device.pk).update(retiring_at=None)
    services.touch(row.node)
    replacing.tell("device.replaced", row, audit.SYSTEM, now)
    return True


def _left_with_its_node(row: Decommission, now: datetime) -> bool:
    """No other will ever take its place: it is in the record of its node."""
    row.state, row.closed_at = State.CANCELLED, now
    row.save(update_fields=("state", "closed_at"))
    replacing.tell("device.keep", row, audit.SYSTEM, now)
    return True


_STEPS: dict[tuple[State, bool], Callable[[Decommission, datetime], bool]] = {
    (State.DRAINING, False): _drained,
    (State.ERASING, False): _erasing,
    (State.CLOSING, False): _closing,
    (State.DRAINING, True): _device_drained,
    (State.AWAITING, True): _succeeded,
}


# --- Inside ---------------------------------------------------------------------------------


def _held(row: Decommission) -> list[str]:
    """Replicas that still hold something of what leaves."""
    if row.device_id is not None:
        claims = DeviceClaim.objects.filter(device=row.device_id)
        return list(claims.values_list("replica_id", flat=True))
    alone = Replica.objects.filter(node=row.node_id, released_at=None)
    gangs = Member.objects.filter(node=row.node_id, released_at=None)
    ids = {*alone.values_list("id", flat=True), *gangs.values_list("replica_id", flat=True)}
    return sorted(ids)


def _open_intervals(row: Decommission) -> bool:
    """Whether something that was on it is still being metered there."""
    gone = Replica.objects.filter(id__in=row.moved).exclude(released_at=None)
    return ServingInterval.objects.filter(replica__in=gone, ended_at=None).exists()


def _checked(erased: wire.Erased) -> dict[str, object]:
    """A node's word is a stranger's. Raises InvalidReport."""
    for item in erased.items:
        if not (0 <= item.files < _MOST_NUMBER and 0 <= item.bytes < _MOST_NUMBER):
            raise errors.InvalidReport(f"{item.what}: a count is out of bounds.")
        if any("\0" in text or len(text) > 1000 for text in (item.what, item.path, item.why)):
            raise errors.InvalidReport("A word is too long, or holds a NUL character.")
    if len(erased.items) > _MOST_ITEMS:
        raise errors.InvalidReport(f"At most {_MOST_ITEMS} folders are erased.")
    said: dict[str, object] = msgspec.to_builtins(erased)
    return said


def _locked(pk: str) -> Decommission:
    found = Decommission.objects.select_for_update(of=("self",))
    return found.select_related("node__pool__region").get(pk=pk)


def _evidence(row: Decommission) -> list[audit.Change]:
    assert row.record is not None
    return [
        audit.Change("record_sha256", None, decommission_record.digest(row)),
        audit.Change("confirmed", None, row.erased_at is not None),
    ]


def _tell(
    action: str, row: Decommission, actor: audit.Actor, now: datetime, *change: audit.Change
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("node", row.node_id),
        log=audit.PLATFORM,
        region=row.node.pool.region_id,
        now=now,
        change=[audit.Change("decommission", None, row.id), *change],
    )
