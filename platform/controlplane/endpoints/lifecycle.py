"""The one door for a replica's state: explicit arcs, compare-and-set, a timed row for each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import DateTimeField, F, Max, Value
from django.db.models.functions import Greatest

from compliance import audit
from controlplane.endpoints import faults, members, notify, rollout_rows, signals, starts
from controlplane.endpoints.backoff import counts, delay_s
from controlplane.endpoints.errors import IllegalArc
from controlplane.endpoints.models import (
    AsleepInterval,
    DeviceClaim,
    Endpoint,
    PlacementNote,
    Replica,
    ServingInterval,
    Transition,
)
from controlplane.endpoints.states import ARCS, COMING, LIVE, Reason, State
from controlplane.fleet.models import Node

# Columns that a mover may set together with the state.
_FACTS = frozenset(
    {"node_id", "address", "start_tier", "engine_report", "phase_seconds", "log_tail", "proof"}
    | {"can_sleep", "start_flags"}
)
# After these arcs, and each that leaves `asleep`, the node's list of wishes reads differently.
_CHANGES_WISH = frozenset({State.PLACED, State.ASLEEP, State.DRAINING, State.STOPPED, State.FAILED})
# Its node was not there to say until when it served: the last it said is what counts.
_NODE_SILENT = frozenset({Reason.NODE_UNREACHABLE, Reason.NODE_LOST})
_AUDITED = {
    State.PLACED: "replica.place",
    State.READY: "replica.ready",
    State.ASLEEP: "replica.sleep",
    State.DRAINING: "replica.stop",
    State.FAILED: "replica.fail",
}


@dataclass(frozen=True)
class _Was:
    """The replica as it stood before the arc, with what else the move has to know."""

    state: State
    state_at: datetime
    created_at: datetime
    endpoint_id: str
    generation: int
    node_id: str | None
    node_count: int
    organization_id: str
    region: str

    @property
    def gang(self) -> bool:
        return self.node_count > 1


def advance(
    replica_id: str,
    to: State,
    *,
    reason: Reason,
    now: datetime,
    detail: str = "",
    expected: State | Collection[State] | None = None,
    released: bool = False,
    ready_s: float = 0.0,
    meters: bool = False,
    **facts: Any,
) -> bool:
    """Take a replica to `to`; True if this call did it.

    False where there is nothing to do any more: the replica is there already, is over, is not
    in one of the `expected` states, or somebody else moved it first. IllegalArc where no such
    arc exists. `facts` are columns to set with it (`node_id`, `address`, …); `ready_s` is the
    node's count of seconds in ready at this moment, `meters` that it proves them by records;
    `released`: the node has confirmed that no engine runs. One transaction, joined if there is one.
    """
    if unknown := facts.keys() - _FACTS:
        raise TypeError(f"advance() does not set {sorted(unknown)}")
    detail = detail[:500]
    with transaction.atomic():
        was = _read(replica_id)
        if was is None or was.state == to or was.state not in LIVE:
            return False
        if expected is not None and was.state not in _states(expected):
            return False
        if to not in ARCS[was.state]:
            raise IllegalArc(replica_id, was.state, to)
        node_id = facts.get("node_id", was.node_id)
        wish_changes = _changes_wish(was, to)
        nodes = members.node_ids(replica_id) if was.gang else [node_id] if node_id else []
        if nodes and wish_changes:
            # Before the replica's own row, as everybody does who needs both.
            members.lock(nodes)
        facts |= {"state": to, "reason": reason, "state_at": now, "detail": detail}
        if to is State.DRAINING or (to is State.STOPPED and was.state is not State.DRAINING):
            facts["stop_requested_at"] = now
        if not Replica.objects.filter(id=replica_id, state=was.state).update(**facts):
            return False
        _keep_time(replica_id, was, to, reason, now, ready_s, meters=meters)
        _note(replica_id, was, to, reason, detail, now)
        if was.gang and wish_changes:
            members.change_wish(replica_id)
        elif node_id and wish_changes:
            _change_wish(replica_id, node_id)
        if to not in LIVE and (released or not nodes):
            _let_go(replica_id, now)
        _count_failures(was, to, reason, now)
        if to in (State.READY, State.FAILED) and was.state in COMING:
            starts.note(replica_id, reason=reason, now=now)
        _record(replica_id, was, to, reason, nodes, now)
        notify.changed(was.endpoint_id, *nodes)
        if to not in LIVE:
            signals.hint(was.endpoint_id)
        return True


def _changes_wish(was: _Was, to: State) -> bool:
    """A gang's members may start with the step to starting, all at once."""
    goes = was.gang and to is State.STARTING
    return to in _CHANGES_WISH or was.state is State.ASLEEP or goes


def release(replica_id: str, *, now: datetime, node_id: str | None = None) -> bool:
    """Free the devices of a replica that is over: its node has said that no engine of it runs.

    Of a gang only those on `node_id`, or without one those on nodes that were removed.
    """
    with transaction.atomic():
        over = Replica.objects.filter(id=replica_id, released_at=None).exclude(state__in=LIVE)
        row = over.values_list("endpoint_id", "node_id", "node_count").first()
        if row is None:
            return False
        gang = row[2] > 1
        on = node_id if gang else row[1]
        if on:
            # It is in the node's list no more. The node before the replica, as everybody does.
            Node.objects.filter(id=on).update(desired_version=F("desired_version") + 1)
        done = members.let_go(replica_id, node_id, now) if gang else _let_go(replica_id, now)
        if gang and done and not members.held(replica_id):
            _let_go(replica_id, now)
        if not done:
            transaction.set_rollback(True)
            return False
        notify.changed(row[0], *([on] if on else []))
        signals.hint(row[0])
        return True


def _read(replica_id: str) -> _Was | None:
    row = (
        Replica.objects.filter(id=replica_id)
        .values_list(
            "state",
            "state_at",
            "created_at",
            "endpoint_id",
            "generation",
            "node_id",
            "node_count",
            "endpoint__project__organization_id",
            "endpoint__region_code",
        )
        .first()
    )
    return _Was(State(row[0]), *row[1:]) if row else None


def _states(expected: State | Collection[State]) -> Collection[State]:
    return (expected,) if isinstance(expected, State) else expected


def _note(
    replica_id: str, was: _Was, to: State, reason: Reason, detail: str, now: datetime
) -> None:
    Transition.objects.create(
        replica_id=replica_id,
        from_state=was.state,
        to_state=to,
        reason=reason,
        detail=detail,
        at=now,
        seconds=max(0.0, (now - was.state_at).total_seconds()),
    )


def _keep_time(
    replica_id: str,
    was: _Was,
    to: State,
    reason: Reason,
    now: datetime,
    ready_s: float,
    *,
    meters: bool,
) -> None:
    """Open the serving interval on the way into ready; close it on the way out."""
    _keep_sleep(replica_id, was, to, now)
    newest = ServingInterval.objects.filter(replica_id=replica_id).order_by("-started_at").first()
    if to is State.READY:
        # Two hosts' clocks differ a little; two intervals of a replica must not overlap.
        start = max(now, newest.ended_at) if newest and newest.ended_at else now
        ServingInterval.objects.create(
            replica_id=replica_id,
            started_at=start,
            node_offset_s=max(0.0, ready_s),
            proved_us=0 if meters else None,
        )
    elif was.state is State.READY and newest is not None and newest.ended_at is None:
        end = now
        if reason in _NODE_SILENT and was.gang:
            end = min(now, members.heard_at(replica_id) or now)
        elif reason in _NODE_SILENT and was.node_id:
            heard = Node.objects.filter(id=was.node_id).values_list("heartbeat_at", flat=True)
            end = min(now, heard.get() or now)
        funded = Replica.objects.values_list("funded_until", flat=True).get(id=replica_id)
        end = min(end, funded or end)
        newest.ended_at = max(newest.started_at, end)
        newest.save(update_fields=["ended_at"])
    if newest is not None and faults.gives_back(was.state, to, reason):
        ServingInterval.objects.filter(id=newest.id).update(fault=reason)


def _keep_sleep(replica_id: str, was: _Was, to: State, now: datetime) -> None:
    if to is State.ASLEEP:
        ends = AsleepInterval.objects.filter(replica_id=replica_id).aggregate(last=Max("ended_at"))
        start = max(now, ends["last"] or now)
        AsleepInterval.objects.create(replica_id=replica_id, started_at=start)
    elif was.state is State.ASLEEP:
        slept = AsleepInterval.objects.filter(replica_id=replica_id, ended_at=None)
        slept.update(ended_at=Greatest("started_at", Value(now, DateTimeField())))


def _change_wish(replica_id: str, node_id: str) -> None:
    """Raise the version of the node's list, and note from which version on this one holds."""
    Node.objects.filter(id=node_id).update(desired_version=F("desired_version") + 1)
    version = Node.objects.values_list("desired_version", flat=True).get(id=node_id)
    Replica.objects.filter(id=replica_id).update(wish_version=version)


def _let_go(replica_id: str, now: datetime) -> bool:
    done = Replica.objects.filter(id=replica_id, released_at=None).update(released_at=now)
    DeviceClaim.objects.filter(replica_id=replica_id).delete()
    PlacementNote.objects.filter(replica_id=replica_id).delete()
    return bool(done)


def _count_failures(was: _Was, to: State, reason: Reason, now: datetime) -> None:
    """A failed engine defers the endpoint's next try, longer each time, until one gets ready.

    A version that is being rolled out has a count of its own: the old one is not held up by it.
    """
    endpoint = Endpoint.objects.filter(id=was.endpoint_id)
    if rollout_rows.counted(was.endpoint_id, was.generation, to, counts(reason), now):
        return
    if to is State.READY:
        endpoint.exclude(failures=0, retry_at=None).update(failures=0, retry_at=None)
    elif to is State.FAILED and counts(reason):
        endpoint.filter(failures__lt=1000).update(failures=F("failures") + 1)
        failures = endpoint.values_list("failures", flat=True).get()
        wait_s = delay_s(failures, settings.RETRY_BASE_S, settings.RETRY_MAX_S)
        endpoint.update(retry_at=now + timedelta(seconds=wait_s))


def _record(
    replica_id: str, was: _Was, to: State, reason: Reason, nodes: Sequence[str], now: datetime
) -> None:
    """Where whose model ran, and how it ended, is evidence: it stands in the tenant's log."""
    if action := _AUDITED.get(to):
        audit.record(
            actor=audit.SYSTEM,
            action=action,
            target=audit.Target("replica", replica_id),
            log=was.organization_id,
            region=was.region,
            reason=reason,
            now=now,
            change=[
                audit.Change("endpoint_id", None, was.endpoint_id),
                audit.Change("node_ids", None, list(nodes))
                if was.gang
                else audit.Change("node_id", None, nodes[0]),
            ]
            if to is State.PLACED
            else (),
        )
