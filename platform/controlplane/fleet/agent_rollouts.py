"""How the agent's releases come to nodes: begun by the operator, carried on by the sweep.

`tend` may run anywhere, at once, and be killed at any line: each step is one transaction under
the rollout's lock, and `waves.plan` looks at what is there, not at what was decided before.
"""

import logging
import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from compliance import audit, ids, sealing
from controlplane.fleet import bundle, errors, services, waves, wire
from controlplane.fleet.models import (
    AgentRelease,
    AgentRollout,
    AgentUpdate,
    Node,
    NodeFinding,
    Pool,
)
from controlplane.fleet.rollout_models import OPEN, RolloutState

log = logging.getLogger(__name__)

DEFAULT = waves.Policy()
_REASON = 500


def release(now: datetime) -> AgentRelease:
    """The agent that belongs to this control plane, kept. Raises bundle.NoAgent."""
    packed = bundle.current()
    if content(packed.digest) is None:
        AgentRelease.objects.update_or_create(
            sha256=packed.digest,
            defaults={
                "version": bundle.version(packed),
                "content": sealing.seal(packed.content, context=_context(packed.digest)),
                "created_at": now,
            },
        )
    return AgentRelease.objects.get(pk=packed.digest)


def content(sha256: str) -> bytes | None:
    """Its bundle. None for one that was not kept by `release`: who can write to the database
    alone must not choose what nodes run."""
    found = AgentRelease.objects.filter(sha256=sha256).values_list("content", flat=True).first()
    try:
        return None if found is None else sealing.unseal(bytes(found), context=_context(sha256))
    except sealing.SealBroken:
        log.error("release %s of the agent was not sealed by us: it is not handed out", sha256)
        return None


def wish(node: Node) -> wire.AgentRelease | None:
    """What the node is told to run: while its pool's rollout goes on, and once its turn came."""
    told = AgentUpdate.objects.filter(node_id=node.id, rollout__state=RolloutState.RUNNING)
    found = told.select_related("rollout__release").defer("rollout__release__content").first()
    if found is None:
        return None
    wanted = found.rollout.release
    return wire.AgentRelease(
        sha256=wanted.sha256, version=wanted.version, attempt=found.rollout.attempt
    )


# --- The operator's verbs ---------------------------------------------------------------


def begin(
    *,
    pool: Pool,
    release: AgentRelease,
    policy: waves.Policy = DEFAULT,
    actor: audit.Actor,
    now: datetime,
) -> AgentRollout:
    """Bring the pool's nodes to `release`. The pool's open rollout ends here; one to the same
    release that is under way goes on, and is returned. Raises InvalidPolicy."""
    _check(policy)
    with transaction.atomic():
        Pool.objects.select_for_update(of=("self",)).get(pk=pool.pk)
        for old in AgentRollout.objects.select_for_update().filter(pool=pool, state__in=OPEN):
            if old.release_id == release.sha256 and old.state == RolloutState.RUNNING:
                return old
            _end(old, RolloutState.SUPERSEDED, "agent_rollout.supersede", actor, now)
        made = AgentRollout(
            id=ids.new("aro"),
            pool=pool,
            release=release,
            canary_share=policy.canary_share,
            wave_size=policy.wave_size,
            pause_s=policy.pause_s,
            limit_s=policy.limit_s,
            created_at=now,
            created_by=actor.id,
        )
        made.save(force_insert=True)
        _tell(made, "agent_rollout.begin", actor, now, release=release.sha256)
    return made


def resume(*, rollout: AgentRollout, actor: audit.Actor, now: datetime) -> AgentRollout:
    """Go on with what was halted: nodes that got worse are tried again, in their turn, and for
    the others what is wrong by now counts as seen. Raises NotOpen."""
    with transaction.atomic():
        row = _locked(rollout)
        if row.state != RolloutState.HALTED:
            raise errors.NotOpen("Only a rollout that was halted can be resumed.")
        for node in _standing(row, now):
            told = AgentUpdate.objects.filter(rollout=row, node_id=node.id)
            if node.done_at is not None and node.heard and node.release == row.release_id:
                told.update(told_at=now)
            else:
                told.delete()
        row.state, row.attempt = RolloutState.RUNNING, row.attempt + 1
        row.halt_reason = ""
        row.save(update_fields=("state", "attempt", "halt_reason"))
        _tell(row, "agent_rollout.resume", actor, now, attempt=row.attempt)
    return row


def abort(*, rollout: AgentRollout, actor: audit.Actor, now: datetime) -> AgentRollout:
    """No more nodes get it; those that have it keep it. Raises NotOpen."""
    with transaction.atomic():
        row = _locked(rollout)
        if row.state not in OPEN:
            raise errors.NotOpen("This rollout is over.")
        _end(row, RolloutState.ABORTED, "agent_rollout.abort", actor, now)
    return row


# --- The sweep --------------------------------------------------------------------------


def tend(*, now: datetime, listening_since: datetime | None) -> int:
    """Take every running rollout one step on; the number of those that moved.

    `listening_since`: since when nodes could be heard. Whoever could not be heard before has a
    whole lease from then; None: nobody can be heard, so nothing is decided.
    """
    if listening_since is None:
        return 0
    fair_from = listening_since + timedelta(seconds=settings.NODE_LEASE_S)
    running = AgentRollout.objects.filter(state=RolloutState.RUNNING).order_by("id")
    moved = 0
    for rollout in running:
        try:
            moved += _step(rollout, now, fair_from)
        except Exception:  # one pool must not stop the others
            log.exception("rollout %s could not go on", rollout.id)
    return moved


def counts(rollout: AgentRollout, now: datetime) -> dict[str, Any]:
    """How far it is: nodes by what they run, and whose agent is brought along by hand."""
    nodes = _standing(rollout, now)
    return {
        "nodes": len(nodes),
        "updated": sum(node.release == rollout.release_id for node in nodes),
        "in_flight": [node.id for node in nodes if node.told_at and node.done_at is None],
        "by_hand": [node.id for node in nodes if not node.able],
    }


def _step(rollout: AgentRollout, now: datetime, fair_from: datetime) -> bool:
    with transaction.atomic():
        row = _locked(rollout)
        if row.state != RolloutState.RUNNING:
            return False
        policy = waves.Policy(row.canary_share, row.wave_size, row.pause_s, row.limit_s)
        standing = _standing(row, now)
        found = waves.plan(standing, row.release_id, policy, now, fair_from=fair_from)
        if found.halt:
            _halt(row, found, now)
            return True
        AgentUpdate.objects.filter(rollout=row, node_id__in=found.done).update(done_at=now)
        if found.finished:
            _end(row, RolloutState.DONE, "agent_rollout.finish", audit.SYSTEM, now)
        if found.tell:
            _next_wave(row, found.tell, now)
    return bool(found.done or found.tell or found.finished)


def _next_wave(row: AgentRollout, nodes: Iterable[str], now: datetime) -> None:
    newest = AgentUpdate.objects.filter(rollout=row).aggregate(Max("wave"))["wave__max"]
    wave = 0 if newest is None else newest + 1
    for node_id in nodes:
        AgentUpdate.objects.create(
            id=ids.new("aup"), rollout=row, node_id=node_id, wave=wave, told_at=now
        )
        services.touch(Node(pk=node_id))
    named = sorted(nodes)
    _tell(row, "agent_rollout.wave", audit.SYSTEM, now, wave=wave, nodes=named[:50])


def _halt(row: AgentRollout, found: waves.Plan, now: datetime) -> None:
    row.state, row.halt_reason = RolloutState.HALTED, found.halt[:_REASON]
    row.save(update_fields=("state", "halt_reason"))
    _withdraw(row)
    worse = list(found.worse[:50])
    _tell(row, "agent_rollout.halt", audit.SYSTEM, now, reason=row.halt_reason, nodes=worse)


def _end(
    row: AgentRollout, state: RolloutState, action: str, actor: audit.Actor, now: datetime
) -> None:
    row.state, row.ended_at = state, now
    row.save(update_fields=("state", "ended_at"))
    _withdraw(row)
    _tell(row, action, actor, now)


def _withdraw(row: AgentRollout) -> None:
    """Who is still under way hears that it is to stay as it is."""
    told = AgentUpdate.objects.filter(rollout=row, done_at=None)
    for node_id in told.values_list("node_id", flat=True).order_by("node_id"):
        services.touch(Node(pk=node_id))


def _standing(row: AgentRollout, now: datetime) -> list[waves.Standing]:
    nodes = list(Node.objects.filter(pool_id=row.pool_id, removed_at=None).order_by("id"))
    told = {one.node_id: one for one in AgentUpdate.objects.filter(rollout=row)}
    critical = dict(
        NodeFinding.objects.filter(
            node__in=nodes, ended_at=None, severity=wire.Severity.CRITICAL.value
        )
        .order_by()
        .values_list("node_id")
        .annotate(Max("since"))
    )
    return [_stands(node, row, told.get(node.id), critical.get(node.id), now) for node in nodes]


def _stands(
    node: Node,
    row: AgentRollout,
    told: AgentUpdate | None,
    critical: datetime | None,
    now: datetime,
) -> waves.Standing:
    said = node.inventory.get("agent") or {}
    failed = said.get("failed") == row.release_id and said.get("attempt") == row.attempt
    return waves.Standing(
        id=node.id,
        able=bool(said),
        release=str(said.get("sha256", "")),
        heard=node.reachable(now),
        critical_since=critical,
        went_back=str(said.get("why") or "it does not say why")[:200] if failed else "",
        told_at=told.told_at if told else None,
        done_at=told.done_at if told else None,
    )


def _locked(rollout: AgentRollout) -> AgentRollout:
    found = AgentRollout.objects.select_for_update(of=("self",)).select_related("pool")
    return found.get(pk=rollout.pk)


def _check(policy: waves.Policy) -> None:
    finite = all(math.isfinite(one) for one in (policy.pause_s, policy.limit_s))
    if not 0 <= policy.canary_share <= 1:
        raise errors.InvalidPolicy("canary_share is a share of the nodes, from 0 to 1.")
    if not 1 <= policy.wave_size <= 10_000:
        raise errors.InvalidPolicy("wave_size is a number of nodes, 1 at least.")
    least = settings.NODE_LEASE_S
    if not finite or not 0 <= policy.pause_s <= 7 * 86_400 or not least < policy.limit_s <= 86_400:
        raise errors.InvalidPolicy(
            f"pause_s is at most a week, limit_s more than {least:g} and at most a day."
        )


def _context(sha256: str) -> str:
    return f"agent_release:{sha256}"


def _tell(row: AgentRollout, action: str, actor: audit.Actor, now: datetime, **facts: Any) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("agent_rollout", row.id),
        log=audit.PLATFORM,
        region=row.pool.region_id,
        now=now,
        change=[audit.Change(name, None, value) for name, value in facts.items()],
    )
