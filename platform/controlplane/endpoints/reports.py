"""What a node's report means for the replicas that we believe it runs.

A report is a level: it says everything that runs now, so losing one, or hearing one twice or
late, changes nothing in the end. Facts about one replica only ever move forward; a replica that
is over here, or that we never placed there, is none of a report's business: the agent ends its
engine when it reads the list of wishes.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from django.db import connection

from controlplane.endpoints import (
    adapters,
    egress,
    images,
    lifecycle,
    logs,
    measured_starts,
    notify,
    progress,
    pulls,
    sources,
)
from controlplane.endpoints.models import Replica
from controlplane.endpoints.states import COMING, LIVE, START_ORDER, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node

log = logging.getLogger(__name__)

# What a node may give as the reason of a failure; anything else is "it exited".
_REASONS = frozenset(
    {
        Reason.FETCH_FAILED,
        Reason.MODEL_NOT_FOUND,
        Reason.IMAGE_NOT_FOUND,
        Reason.ACCESS_DENIED,
        Reason.ENGINE_EXITED,
        Reason.ENGINE_MISSING,
        Reason.PROBE_FAILED,
        Reason.TOOL_PROBE_FAILED,
        Reason.SCHEMA_PROBE_FAILED,
        Reason.START_TIMEOUT,
        Reason.DEVICE_DIRTY,
        Reason.WALLS_MISSING,
    }
)
_PHASES = frozenset(wire.Phase) | frozenset(wire.START_STEPS)
# Of a replica's row, what a report is held against.
KNOWN = (
    "id",
    "state",
    "wish_version",
    "address",
    "endpoint_id",
    "state_at",
    "bytes_done",
    "bytes_total",
    "progress_at",
    "adapters",
    "egress",
)
_ADDRESS = re.compile(
    r"unix:/[!-~]{1,280}|relay:(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]+\]):\d{1,5}"
)


@dataclass(frozen=True)
class Held:
    """A replica that this node holds devices for, as we believe it to be."""

    id: str
    state: State
    wish_version: int


@dataclass(frozen=True)
class Verdict:
    """What a report says about one replica: an arc to take, devices to free, or nothing."""

    to: State | None = None
    reason: Reason = Reason.NODE_REPORT
    released: bool = False


def judge(held: Held, said: wire.ReplicaReport | None, version: int) -> Verdict:
    """Pure. `said` is None where a report that knows wish list `version` leaves the replica out."""
    over = held.state not in LIVE
    if said is None:
        if version < held.wish_version:
            return Verdict()  # it may not have heard of this wish yet
        if over:
            return Verdict(released=True)
        if held.state is State.DRAINING:
            return Verdict(State.STOPPED, Reason.STOPPED, released=True)
        return Verdict(State.FAILED, Reason.ENGINE_MISSING, released=True)
    if said.phase in (wire.Phase.STOPPED, wire.Phase.FAILED):
        if over:
            return Verdict(released=True)
        if said.phase is wire.Phase.STOPPED or held.state is State.DRAINING:
            return Verdict(State.STOPPED, Reason.STOPPED, released=True)
        reason = Reason(said.reason) if said.reason in _REASONS else Reason.ENGINE_EXITED
        return Verdict(State.FAILED, reason, released=True)
    if over or held.state is State.DRAINING:
        return Verdict()  # it has not taken the news yet
    if said.phase is wire.Phase.DRAINING:
        return Verdict(State.DRAINING)
    reached = reachable(said.address)
    heard = version >= held.wish_version
    if held.state is State.ASLEEP:
        woke = heard and said.phase is wire.Phase.READY and not said.can_sleep and reached
        return Verdict(State.READY, Reason.CANNOT_SLEEP) if woke else Verdict()
    if said.phase is wire.Phase.ASLEEP or (held.state is State.STARTING and not heard):
        return Verdict()  # it is asked to wake, and may be ready only because it still is
    return _progress(held.state, State(said.phase), reached)


def _progress(state: State, phase: State, reachable: bool) -> Verdict:
    if phase is State.READY and not reachable:
        phase = State.PROBING  # nobody could route to it, so nobody pays for it
    if state is State.UNREACHABLE:
        return Verdict(State.READY, Reason.ADOPTED) if phase is State.READY else Verdict()
    if START_ORDER.index(phase) <= START_ORDER.index(state):
        return Verdict()
    return Verdict(phase, Reason.PROBE_PASSED if phase is State.READY else Reason.NODE_REPORT)


def apply(node: Node, report: wire.Report, now: datetime) -> None:
    """Take a report into account. Idempotent, and safe in the heartbeat's own transaction.

    `node` is as the database has it: a report older than the newest of the same boot is dropped.
    Where nothing changed it costs one query, and one statement for the seconds served.
    """
    if report.boot_id == node.boot_id and report.seq < node.report_seq:
        return
    # Always in this order: reports of two nodes may touch the same two endpoints.
    held = Replica.objects.filter(node_id=node.id, released_at=None).order_by("endpoint_id", "id")
    act(held.only(*KNOWN), report, now).write(now)
    pulls.note(node, report.pulls, now)


def act(held: Iterable[Replica], report: wire.Report, now: datetime) -> "Serving":
    """What the report says of each that its node holds, done; returns the seconds it counted.

    `held` with what is KNOWN of each, in the order of endpoint and id.
    """
    said = {one.replica_id: one for one in report.replicas}
    serving = Serving()
    for row in held:
        replica = Held(row.id, State(row.state), row.wish_version)
        one = said.get(row.id)
        if one is not None:
            adapters.note(row, one.adapters)
            egress.note(row, one.egress, now)
        verdict = judge(replica, one, report.desired_version)
        if verdict.to is not None:
            move(replica, verdict, one, now)
        elif verdict.released:
            lifecycle.release(row.id, now=now)
        elif one is not None and row.state == State.READY:
            _moved(row, one)
        if one is not None and row.state in COMING:
            progress.note(row, one, now)
        if one is not None and replica.state not in COMING | {State.UNREACHABLE}:
            serving.add(row.id, one.ready_s)
    return serving


def move(replica: Held, verdict: Verdict, said: wire.ReplicaReport | None, now: datetime) -> None:
    """Take the arc of a verdict, with what the report says beside the phase."""
    assert verdict.to is not None
    if verdict.to is State.READY and said is not None and said.revision:
        sources.pin(replica.id, logs.clean(said.revision)[:64])
    if verdict.to is State.READY and said is not None and said.image:
        images.pin(replica.id, said.image)
    lifecycle.advance(
        replica.id,
        verdict.to,
        reason=verdict.reason,
        now=now,
        detail=logs.clean(said.detail)[:500] if said else "",
        expected=replica.state,
        released=verdict.released,
        ready_s=said.ready_s if said else 0.0,
        meters=said is not None and said.meters,
        **(facts(verdict.to, said) if said else {}),
    )
    if verdict.to is State.READY and said is not None:
        measured_starts.note(replica.id, said, now)


def reachable(address: str) -> bool:
    """Whether a gateway could make something of it."""
    return bool(_ADDRESS.fullmatch(address))


def facts(to: State, said: wire.ReplicaReport) -> dict[str, Any]:
    """What the replica's row should remember of a report with which its state moves."""
    found: dict[str, Any] = {}
    if said.phase_seconds:
        found["phase_seconds"] = {
            phase: round(seconds, 3)
            for phase, seconds in said.phase_seconds.items()
            if phase in _PHASES
        }
    if said.start_tier is not None:
        found["start_tier"] = said.start_tier
    if to is State.READY:
        found["can_sleep"] = said.can_sleep
        found["start_flags"] = _flags(said.start_flags)
    if said.engine is not None:
        found["engine_report"] = _engine(said.engine)
    if said.proof is not None:
        found["proof"] = msgspec.to_builtins(said.proof)
    if to is State.READY:
        found["address"] = said.address
    if to is State.FAILED:
        found["log_tail"] = logs.joined(said.log_tail)
    return found


def _engine(said: wire.EngineReport) -> dict[str, str | int | float]:
    """Only what fits the columns that others read it into; a node's numbers are not trusted."""
    kept: dict[str, str | int | float] = {"version": logs.clean(said.version)[:64]}
    bounds = {"max_model_len": 2**31, "max_concurrency": 10**9, "max_num_seqs": 2**31}
    for name, value in msgspec.to_builtins(said).items():
        if isinstance(value, int | float) and 0 <= value < bounds.get(name, 2**62):
            kept[name] = value
    return kept


def _flags(said: dict[str, str]) -> dict[str, str]:
    return {logs.clean(name)[:64]: logs.clean(value)[:200] for name, value in [*said.items()][:32]}


def _moved(row: Replica, said: wire.ReplicaReport) -> None:
    """An adopted engine may be reached elsewhere than before."""
    if said.phase is not wire.Phase.READY or said.address == row.address:
        return
    if not _ADDRESS.fullmatch(said.address):
        log.warning("%s: its node gives the address %r, which nobody can use", row.id, said.address)
        return
    ready = Replica.objects.filter(id=row.id, state=State.READY)
    if ready.update(address=said.address):
        notify.changed(row.endpoint_id)


@dataclass
class Serving:
    """Counts of seconds served, written for all replicas of a report at once."""

    ids: list[str] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)

    def add(self, replica_id: str, ready_s: float) -> None:
        self.ids.append(replica_id)
        self.counts.append(seconds(ready_s))

    def write(self, now: datetime) -> None:
        """Into the newest interval of each: never back, never beyond what our own clock saw.

        A count that fell has begun anew (the agent lost it): it goes on from what we have.
        """
        if not self.ids:
            return
        with connection.cursor() as cursor:
            cursor.execute(
                COUNT.format(whose=""), {"ids": self.ids, "counts": self.counts, "now": now}
            )


def seconds(ready_s: float) -> float:
    return max(0.0, ready_s)


# `whose` narrows down the replicas `v` that are counted.
COUNT = """
UPDATE endpoints_servinginterval AS i
SET node_offset_s = said.offset_s,
    served_s = GREATEST(i.served_s, LEAST(said.ready_s - said.offset_s, said.clock_s))
FROM (
    SELECT DISTINCT ON (s.replica_id) s.id, v.ready_s,
           CASE WHEN v.ready_s < s.node_offset_s + s.served_s - 1
                THEN v.ready_s - s.served_s ELSE s.node_offset_s END AS offset_s,
           EXTRACT(EPOCH FROM COALESCE(s.ended_at, %(now)s) - s.started_at) AS clock_s
    FROM unnest(%(ids)s::text[], %(counts)s::float8[]) AS v(replica_id, ready_s)
    {whose}
    JOIN endpoints_servinginterval s ON s.replica_id = v.replica_id
    ORDER BY s.replica_id, s.started_at DESC
) AS said
WHERE i.id = said.id
  AND (i.served_s < LEAST(said.ready_s - said.offset_s, said.clock_s)
       OR i.node_offset_s <> said.offset_s)
"""
