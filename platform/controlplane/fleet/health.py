"""The fleet's health policy at work: what was decided about a pool's nodes, done and told.

`tend` may run anywhere, at once, and be killed at any line: each step is a transaction of its own
that looks again under the node's lock.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from compliance import audit
from controlplane.fleet import errors, health_policy, replacing, services
from controlplane.fleet.health_decide import Decision, NodeHealth, Seen, Step, decide
from controlplane.fleet.health_policy import Action, Policy
from controlplane.fleet.models import Decommission, Device, Node, NodeFinding, Pool
from controlplane.fleet.wire import Severity

log = logging.getLogger(__name__)


def tend(*, now: datetime) -> int:
    """Every pool with a node that ails, or was acted on; the number of steps that took effect."""
    ailing = Q(nodes__has_findings=True) | ~Q(nodes__health_action="")
    pools = Pool.objects.filter(
        Q(health_braked_at__isnull=False) | ailing & Q(nodes__removed_at=None)
    )
    return sum(_tend(pool, now) for pool in pools.distinct().order_by("id"))


def set_policy(
    *,
    pool: Pool,
    changes: dict[str, Any],
    actor: audit.Actor,
    now: datetime,
    instead_of: dict[str, Any] | None = None,
) -> Policy:
    """Replace what the pool's policy changes of the default. Raises errors.InvalidPolicy.

    `instead_of`: raises errors.PolicyChanged where what is kept is not that any more.
    """
    policy = health_policy.parse(changes)
    with transaction.atomic():
        locked = Pool.objects.select_for_update(of=("self",)).get(pk=pool.pk)
        before, locked.health_policy = locked.health_policy, changes
        if instead_of is not None and before != instead_of:
            raise errors.PolicyChanged("Somebody changed this policy: read it again.")
        if before != changes:
            locked.save(update_fields=("health_policy",))
            audit.record(
                actor=actor,
                action="pool.update",
                target=audit.Target("pool", pool.id),
                log=audit.PLATFORM,
                region=pool.region_id,
                now=now,
                change=[audit.Change("health_policy", before, changes)],
            )
    pool.health_policy = changes
    return policy


def policy_of(pool: Pool) -> Policy:
    """As it is kept; one that is kept and no more valid is the default, and said so in the log."""
    try:
        return health_policy.parse(pool.health_policy)
    except errors.InvalidPolicy:
        log.exception("the health policy of pool %s is not valid: the default holds", pool.id)
        return Policy()


def invalid(pool: Pool) -> str:
    """Why what a pool keeps cannot be followed, so that the default holds; empty: it can."""
    try:
        health_policy.parse(pool.health_policy)
    except errors.InvalidPolicy as error:
        return str(error)
    return ""


def decision(pool: Pool, now: datetime) -> Decision:
    policy = policy_of(pool)
    return decide(_nodes(pool, policy, now), policy, now)


def _tend(pool: Pool, now: datetime) -> int:
    try:
        found = decision(pool, now)
    except Exception:  # one pool must not stop the others
        log.exception("the health of pool %s could not be judged", pool.id)
        return 0
    done = _note_brake(pool, found, now)
    return done + sum(_take(step, now) for step in found.steps)


def _nodes(pool: Pool, policy: Policy, now: datetime) -> list[NodeHealth]:
    nodes = list(Node.objects.filter(pool=pool, removed_at=None).defer("inventory").order_by("id"))
    rules = [policy.rule(check) for check in {**health_policy.DEFAULT, **policy.rules}]
    back = timedelta(seconds=max(max(rule.within_s, rule.recover_s) for rule in rules))
    found: dict[str, list[Seen]] = {node.id: [] for node in nodes}
    rows = NodeFinding.objects.filter(node__in=nodes)
    for row in rows.filter(Q(ended_at=None) | Q(ended_at__gt=now - back)).order_by("since"):
        found[row.node_id].append(
            Seen(
                check=row.check_name,
                severity=Severity(row.severity),
                since=row.since,
                ended_at=row.ended_at,
                device=row.device,
                acknowledged=row.acknowledged_at is not None,
            )
        )
    retiring: dict[str, set[int]] = {node.id: set() for node in nodes}
    marked = Device.objects.filter(node__in=nodes, retiring_at__isnull=False)
    for node_id, index in marked.values_list("node_id", "index"):
        retiring[node_id].add(index)
    return [
        NodeHealth(
            id=node.id,
            findings=found[node.id],
            heard=node.reachable(now),
            cordoned=node.cordoned_at is not None,
            draining=node.drain_requested_at is not None,
            done=Action(node.health_action or Action.NOTHING),
            retiring=frozenset(retiring[node.id]),
        )
        for node in nodes
    ]


def _note_brake(pool: Pool, found: Decision, now: datetime) -> int:
    """Told once when it begins and once when it ends."""
    braked = now if found.braked else None
    if bool(braked) is bool(pool.health_braked_at):
        return 0
    with transaction.atomic():
        still = Pool.objects.filter(pk=pool.pk, health_braked_at=pool.health_braked_at)
        if not still.update(health_braked_at=braked):
            return 0
        audit.record(
            actor=audit.SYSTEM,
            action="pool.health_brake" if braked else "pool.health_release",
            target=audit.Target("pool", pool.id),
            log=audit.PLATFORM,
            region=pool.region_id,
            now=now,
            change=[audit.Change("nodes", None, sorted(found.braked)[:20])],
        )
    return 1


def _take(step: Step, now: datetime) -> bool:
    try:
        if step.action is Action.REPLACE and step.device is not None:
            return _replace(step, now)
        if step.action is Action.NOTHING:
            return _recover(step, now)
        return _withdraw(step, now)
    except errors.RemovedNode:
        return False


def _withdraw(step: Step, now: datetime) -> bool:
    with transaction.atomic():
        node = services.locked(Node(pk=step.node_id))
        drains = step.action is Action.DRAIN
        if node.drain_requested_at is not None or (node.cordoned_at is not None and not drains):
            return False
        # One that an operator had cordoned is not ours to take back.
        ours = node.cordoned_at is None or node.health_action != ""
        node.cordoned_at = node.cordoned_at or now
        node.drain_requested_at = now if drains else None
        if ours:
            node.health_action, node.health_since = step.action.value, now
        node.health_reason = step.check[:64]
        _keep(node, "node.drain" if drains else "node.cordon", step.check, now)
    return True


def _recover(step: Step, now: datetime) -> bool:
    with transaction.atomic():
        node = services.locked(Node(pk=step.node_id))
        if not node.health_action:
            return False
        node.cordoned_at = node.drain_requested_at = node.health_since = None
        node.health_action = node.health_reason = ""
        _keep(node, "node.uncordon", "recovered", now)
    return True


def _replace(step: Step, now: datetime) -> bool:
    assert step.device is not None
    device = Device.objects.filter(node=step.node_id, index=step.device).first()
    if device is None or device.retiring_at is not None:
        return False
    reason = f"the health policy: {step.check}"
    made: Decommission = replacing.begin(device=device, reason=reason, actor=audit.SYSTEM, now=now)
    return made.requested_at == now


def _keep(node: Node, action: str, reason: str, now: datetime) -> None:
    node.save(
        update_fields=(
            *("cordoned_at", "drain_requested_at"),
            *("health_action", "health_reason", "health_since"),
        )
    )
    services.touch(node)
    audit.record(
        actor=audit.SYSTEM,
        action=action,
        target=audit.Target("node", node.id),
        log=audit.PLATFORM,
        region=node.pool.region_id,
        now=now,
        reason=reason,
    )
