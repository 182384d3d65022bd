"""What is to be done about the findings of a pool's nodes. Pure: decides, does nothing.

Damped twice. A finding must hold or recur before it moves anything (health_policy.Rule), and what
was done is undone only when all has been well for longer. And a brake: where more nodes of a pool
would be out of service than its policy allows, none more is taken out, for it is likelier that
something which they share is wrong, or we are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.fleet.health_policy import Action, Policy, Rule
from controlplane.fleet.wire import Severity

_SEVERITY = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)
_RANK = (Action.NOTHING, Action.CORDON, Action.DRAIN)


@dataclass(frozen=True)
class Seen:
    """A finding, there since `since`; over since `ended_at`."""

    check: str
    severity: Severity
    since: datetime
    ended_at: datetime | None = None
    device: int | None = None
    acknowledged: bool = False


@dataclass(frozen=True)
class NodeHealth:
    """`done`: what the policy did. `heard`: of a silent node nobody knows how it is now."""

    id: str
    findings: Sequence[Seen] = ()
    heard: bool = True
    cordoned: bool = False
    draining: bool = False
    done: Action = Action.NOTHING
    retiring: frozenset[int] = frozenset()  # devices that are to be replaced already

    @property
    def stands(self) -> Action:
        if self.draining:
            return Action.DRAIN
        return Action.CORDON if self.cordoned else Action.NOTHING


@dataclass(frozen=True)
class Step:
    """`action` nothing: take the node back into service."""

    node_id: str
    action: Action
    check: str = ""
    device: int | None = None


@dataclass(frozen=True)
class Decision:
    steps: list[Step] = field(default_factory=list)
    braked: frozenset[str] = frozenset()  # nodes that would be acted on, were there not too many


def decide(nodes: Sequence[NodeHealth], policy: Policy, now: datetime) -> Decision:
    """The next steps for a pool; none where all is as its policy wants it."""
    wanted = {node.id: list(_wanted(node, policy, now)) for node in nodes if node.heard}
    more = [node for node in nodes if wanted.get(node.id)]
    already = {node.id for node in nodes if node.done is not Action.NOTHING or node.retiring}
    worse = {node.id for node in more} - already
    braked = frozenset(worse if len(already | worse) > policy.allowed(len(nodes)) else ())
    steps = [step for node in more if node.id not in braked for step in wanted[node.id]]
    steps += [
        Step(node.id, Action.NOTHING)
        for node in nodes
        if node.done is not Action.NOTHING and node.heard and recovered(node, policy, now)
    ]
    return Decision(steps, braked)


def acts(node: NodeHealth, seen: Seen, rule: Rule, now: datetime) -> bool:
    """Whether a finding has held, or come, for long or often enough."""
    if seen.ended_at is not None or seen.acknowledged or not _severe(seen, rule):
        return False
    if now - seen.since >= timedelta(seconds=rule.hold_s):
        return True
    from_then = now - timedelta(seconds=rule.within_s)
    times = sum(
        one.check == seen.check
        and one.device == seen.device
        and _severe(one, rule)
        and not one.acknowledged
        and one.since > from_then
        for one in node.findings
    )
    return times >= rule.recurs


def recovered(node: NodeHealth, policy: Policy, now: datetime) -> bool:
    """Whether nothing that takes a node out of service was there for as long as its rule asks."""
    for seen in node.findings:
        rule = policy.rule(seen.check)
        if _action(seen, rule) not in (Action.CORDON, Action.DRAIN) or not _severe(seen, rule):
            continue
        if seen.acknowledged:
            continue
        if seen.ended_at is None or now - seen.ended_at < timedelta(seconds=rule.recover_s):
            return False
    return True


def _wanted(node: NodeHealth, policy: Policy, now: datetime) -> Iterable[Step]:
    """What goes beyond how the node stands already."""
    worst: Step | None = None
    for seen in node.findings:
        rule = policy.rule(seen.check)
        action = _action(seen, rule)
        if action is Action.NOTHING or not acts(node, seen, rule, now):
            continue
        if action is Action.REPLACE:
            if seen.device not in node.retiring:
                yield Step(node.id, Action.REPLACE, seen.check, seen.device)
            continue
        if worst is None or _RANK.index(action) > _RANK.index(worst.action):
            worst = Step(node.id, action, seen.check)
    if worst is not None and _RANK.index(worst.action) > _RANK.index(node.stands):
        yield worst


def _action(seen: Seen, rule: Rule) -> Action:
    """A device that nobody can name cannot be replaced: its node is drained."""
    nameless = rule.action is Action.REPLACE and seen.device is None
    return Action.DRAIN if nameless else rule.action


def _severe(seen: Seen, rule: Rule) -> bool:
    return _SEVERITY.index(seen.severity) >= _SEVERITY.index(rule.at)
