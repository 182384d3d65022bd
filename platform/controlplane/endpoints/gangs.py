"""Gangs: replicas that stand on several nodes. They are placed whole or not at all, start
together, serve where rank 0 serves, and fall when any member does.

A gang is as far as its least advanced member. While one still fetches, the others wait without an
engine; with the step to `starting` all are told to go. Followers then count as ready as soon as
their process runs: what proves them is rank 0's inference.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import Sum

from controlplane.endpoints import claiming, lifecycle, logs, members, notify, progress, reports
from controlplane.endpoints.models import DeviceClaim, Member, Replica
from controlplane.endpoints.states import COMING, LIVE, START_ORDER, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.placement.gang import GangPlacement
from controlplane.placement.nodes import Need

# Before it the members' engines may not start; from it on they may.
_GO = START_ORDER.index(State.STARTING)
_MOST_BYTES = 2**62
_GONE = "its node runs no engine of it"


# --- placing ------------------------------------------------------------------------------


def able(pool_id: str) -> set[str]:
    """Ids of the pool's nodes that can host a member."""
    rows = Node.objects.filter(pool_id=pool_id, removed_at=None).values_list("id", "inventory")
    return {id for id, inventory in rows if _can_join(inventory)}


def siblings(endpoint_id: str) -> Counter[str]:
    """Node ids to how many members of the endpoint's gangs they host."""
    live = Member.objects.filter(replica__endpoint_id=endpoint_id, replica__state__in=LIVE)
    return Counter(live.values_list("node_id", flat=True))


def take(replica: Replica, need: Need, chosen: GangPlacement, now: datetime) -> bool:
    """Claim `need` on each of these nodes, ranks in their order: on all of them, or on none.

    False where somebody was faster, or the replica is requested no more.
    """
    replica_id, node_ids = replica.id, chosen.node_ids
    rejected = chosen.rejected.by_reason()
    with transaction.atomic():
        claiming.lock_pool(replica.endpoint.pool)
        members.lock(node_ids)
        nodes = Node.objects.select_related("pool").in_bulk(node_ids)
        claims: list[DeviceClaim] = []
        for id in node_ids:
            ids = claiming.free(nodes[id], need, now, [one.device_id for one in claims])
            if ids is None:
                return False
            claims += [DeviceClaim(device_id=one, replica_id=replica_id) for one in ids]
        waiting = Replica.objects.select_for_update(no_key=True)
        if not waiting.filter(id=replica_id, state=State.REQUESTED).exists():
            return False
        claiming.because(rejected)
        members.enlist(replica_id, node_ids)
        lifecycle.advance(
            replica_id, State.PLACED, reason=Reason.PLACED, now=now, expected=State.REQUESTED
        )
        DeviceClaim.objects.bulk_create(claims)
        claiming.note(replica_id, rejected, now)
        return True


def _can_join(inventory: Mapping[str, object]) -> bool:
    walls = inventory.get("walls")
    return isinstance(walls, list) and wire.Wall.GANG in walls and bool(inventory.get("relay"))


# --- what a member's node is told -----------------------------------------------------------


def seated(member: Member, wish: wire.DesiredReplica) -> wire.DesiredReplica:
    """The wish for a gang as this member's node should hear it."""
    replica = member.replica
    state = State(replica.state)
    if wish.spec is None:
        return wish
    claims = [claim.device for claim in replica.claims.all()]
    spec = msgspec.structs.replace(
        wish.spec,
        device_indexes=sorted(one.index for one in claims if one.node_id == member.node_id),
        seat=wire.Seat(rank=member.rank, size=replica.node_count),
        may_sleep=False,  # its members would have to, and to wake, as one
    )
    peers = [
        wire.Peer(rank=one.rank, node_id=one.node_id, relay=_relay(one.node))
        for one in replica.members.all()
    ]
    go = state not in START_ORDER or START_ORDER.index(state) >= _GO
    return msgspec.structs.replace(wish, spec=spec, peers=peers, go=go)


def _relay(node: Node) -> str:
    found = f"relay:{node.inventory.get('relay', '')}"
    return found.removeprefix("relay:") if reports.reachable(found) else ""


# --- what a member's node says ---------------------------------------------------------------


def hear(node: Node, report: wire.Report, now: datetime) -> None:
    """Take a report into account for the gangs with a member on this node. Idempotent."""
    said = {one.replica_id: one for one in report.replicas}
    mine = Member.objects.filter(node_id=node.id, released_at=None).select_related("replica")
    serving = reports.Serving()
    for member in mine.defer("replica__log_tail").order_by("replica__endpoint_id", "replica_id"):
        replica, one = member.replica, said.get(member.replica_id)
        held = reports.Held(replica.id, State(replica.state), member.wish_version)
        verdict = reports.judge(held, one, report.desired_version)
        if verdict.released:
            _ended(member, node, verdict, one, now)
        elif verdict.to is State.DRAINING:
            reports.move(held, verdict, one, now)
        elif one is not None and held.state in LIVE:
            _moved(member, held, one, now)
        if one and member.rank == 0 and held.state not in COMING | {State.UNREACHABLE}:
            serving.add(replica.id, one.ready_s)
    serving.write(now)


def _ended(
    member: Member,
    node: Node,
    verdict: reports.Verdict,
    said: wire.ReplicaReport | None,
    now: datetime,
) -> None:
    """No engine of this member runs: the whole gang is over, and these devices are free."""
    replica = member.replica
    with transaction.atomic():
        if verdict.to is not None:
            facts = reports.facts(verdict.to, said) if said else {}
            lifecycle.advance(
                replica.id,
                verdict.to,
                reason=verdict.reason,
                now=now,
                detail=f"rank {member.rank}: {logs.clean(said.detail) if said else _GONE}",
                expected=State(replica.state),
                ready_s=said.ready_s if said and member.rank == 0 else 0.0,
                **facts,
            )
        lifecycle.release(replica.id, now=now, node_id=node.id)


def _moved(member: Member, held: reports.Held, said: wire.ReplicaReport, now: datetime) -> None:
    """A member came further, and with it perhaps the gang."""
    others = Member.objects.filter(replica_id=held.id).exclude(id=member.id)
    rows = list(others.values_list("phase", "node__lease_until"))
    phases = [said.phase.value, *(phase for phase, _ in rows)]
    _note(member, said, now, phases[1:])
    if held.state is State.DRAINING:
        return
    if held.state is State.UNREACHABLE:
        silent = any(until is None or until <= now for _, until in rows)
        back = member.rank == 0 and said.phase is wire.Phase.READY
        if back and not silent and reports.reachable(said.address):
            reports.move(held, reports.Verdict(State.READY, Reason.ADOPTED), said, now)
        return
    if held.state not in START_ORDER:
        return
    least = min(_step(phase) for phase in phases)
    if member.rank > 0:
        least = min(least, _GO)  # what comes after it is rank 0's to say
    elif least == len(START_ORDER) - 1 and not reports.reachable(said.address):
        least -= 1
    if least > START_ORDER.index(held.state):
        to = START_ORDER[least]
        reason = Reason.PROBE_PASSED if to is State.READY else Reason.NODE_REPORT
        reports.move(held, reports.Verdict(to, reason), said, now)


def _step(phase: str) -> int:
    """How far a member is on the way to ready; one that nobody has heard of is just placed."""
    return START_ORDER.index(State(phase)) if phase in set(START_ORDER) else 0


def _note(member: Member, said: wire.ReplicaReport, now: datetime, others: Iterable[str]) -> None:
    """Keep the member's phase and bytes; of all of them together the replica shows the sum.

    Of the gang's progress they are news only where no other member is further behind.
    """
    replica = member.replica
    done, total = (min(max(n, 0), _MOST_BYTES) for n in (said.bytes_done, said.bytes_total))
    facts: dict[str, Any] = {}
    if (done, total) != (member.bytes_done, member.bytes_total):
        rows = Member.objects.filter(replica_id=replica.id).exclude(id=member.id)
        sums = rows.aggregate(done=Sum("bytes_done"), total=Sum("bytes_total"))
        facts["bytes_done"] = min(done + sums["done"], _MOST_BYTES)
        facts["bytes_total"] = min(total + sums["total"], _MOST_BYTES)
    if replica.state in COMING and all(_step(said.phase) <= _step(one) for one in others):
        moved = progress.moved_at(replica, said, now, more=done > member.bytes_done)
        facts |= {"progress_at": moved} if moved else {}
    if facts:
        Replica.objects.filter(id=replica.id).update(**facts)
    if (member.phase, done, total) != (said.phase, member.bytes_done, member.bytes_total):
        mine = {"phase": said.phase.value, "bytes_done": done, "bytes_total": total}
        Member.objects.filter(id=member.id).update(**mine)
        notify.changed(replica.endpoint_id)
