"""What findings lead to: held against the rules with any history that hypothesis can think of."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.fleet import errors, health_policy
from controlplane.fleet.health_decide import NodeHealth, Seen, Step, decide, recovered
from controlplane.fleet.health_policy import DEFAULT, Action, Policy, Rule
from controlplane.fleet.wire import Severity

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
CHECKS = sorted(DEFAULT)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def seen(check: str = "gpu_lost", since_s: float = 600, **facts: Any) -> Seen:
    facts.setdefault("severity", Severity.CRITICAL)
    return Seen(check=check, since=ago(since_s), **facts)


@st.composite
def sightings(draw: st.DrawFn) -> Seen:
    since = draw(st.floats(0, 7200))
    ended = draw(st.none() | st.floats(0, since))
    return Seen(
        check=draw(st.sampled_from(CHECKS)),
        severity=draw(st.sampled_from(list(Severity))),
        since=ago(since),
        ended_at=None if ended is None else ago(ended),
        device=draw(st.none() | st.integers(0, 3)),
        acknowledged=draw(st.booleans()),
    )


@st.composite
def nodes(draw: st.DrawFn, id: str) -> NodeHealth:
    draining = draw(st.booleans())
    cordoned = draining or draw(st.booleans())
    ours = [Action.NOTHING]
    if cordoned:
        ours.append(Action.DRAIN if draining else Action.CORDON)
    return NodeHealth(
        id=id,
        findings=draw(st.lists(sightings(), max_size=5)),
        heard=draw(st.booleans()),
        cordoned=cordoned,
        draining=draining,
        done=draw(st.sampled_from(ours)),
        retiring=draw(st.frozensets(st.integers(0, 3), max_size=2)),
    )


@st.composite
def pools(draw: st.DrawFn) -> list[NodeHealth]:
    return [draw(nodes(f"n{number}")) for number in range(draw(st.integers(1, 8)))]


def applied(node: NodeHealth, steps: list[Step]) -> NodeHealth:
    """The node as it is after the steps, as `health` takes them."""
    facts = {name: getattr(node, name) for name in node.__dataclass_fields__}
    for step in (one for one in steps if one.node_id == node.id):
        if step.action is Action.REPLACE and step.device is not None:
            facts["retiring"] |= {step.device}
        elif step.action is Action.NOTHING:
            facts |= {"cordoned": False, "draining": False, "done": Action.NOTHING}
        else:
            if not facts["cordoned"] or facts["done"] is not Action.NOTHING:
                facts["done"] = step.action
            facts |= {"cordoned": True, "draining": step.action is Action.DRAIN}
    return NodeHealth(**facts)


@given(pool=pools(), share=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_what_was_done_once_is_done_and_never_to_too_many(
    pool: list[NodeHealth], share: float
) -> None:
    policy = Policy(max_share=share)
    before = {n.id for n in pool if n.done is not Action.NOTHING or n.retiring}
    made = decide(pool, policy, NOW)
    touched = {s.node_id for s in made.steps if s.action is not Action.NOTHING}
    fresh = touched - before
    assert not fresh or len(before | fresh) <= policy.allowed(len(pool))
    assert not touched & made.braked
    after = [applied(node, made.steps) for node in pool]
    again = [s for s in decide(after, policy, NOW).steps if s.action is not Action.NOTHING]
    assert [s for s in again if s.node_id in touched] == []
    back = {s.node_id for s in made.steps if s.action is Action.NOTHING}
    out = {s.node_id for s in made.steps if s.action in (Action.CORDON, Action.DRAIN)}
    assert not back & out


@given(pool=pools())
@settings(max_examples=300, deadline=None)
def test_each_step_has_a_finding_that_held_or_recurred(pool: list[NodeHealth]) -> None:
    policy = Policy(max_share=1.0)
    by_id = {node.id: node for node in pool}
    for step in decide(pool, policy, NOW).steps:
        node = by_id[step.node_id]
        assert node.heard
        if step.action is Action.NOTHING:
            assert node.done is not Action.NOTHING and recovered(node, policy, NOW)
            continue
        rule = policy.rule(step.check)
        same = [s for s in node.findings if s.check == step.check and not s.acknowledged]
        held = any(s.ended_at is None and s.since <= ago(rule.hold_s) for s in same)
        often = len([s for s in same if s.since > ago(rule.within_s)]) >= rule.recurs
        assert held or often
        assert step.action is rule.action or rule.action is Action.REPLACE


@given(node=nodes("n0"))
@settings(max_examples=300, deadline=None)
def test_recovery_waits_longer_than_the_finding_took(node: NodeHealth) -> None:
    policy = Policy()
    if recovered(node, policy, NOW):
        for one in node.findings:
            rule = policy.rule(one.check)
            nameless = rule.action is Action.REPLACE and one.device is None
            takes_out = rule.action in (Action.CORDON, Action.DRAIN) or nameless
            if takes_out and one.severity is Severity.CRITICAL and not one.acknowledged:
                assert one.ended_at is not None
                assert one.ended_at <= ago(rule.recover_s)


def test_a_finding_that_flaps_acts_when_it_came_often_enough() -> None:
    rule = DEFAULT["gpu_lost"]
    past = [seen(since_s=600 * n, ended_at=ago(600 * n - 5)) for n in range(1, rule.recurs)]
    now = seen(since_s=1)
    quiet = NodeHealth("n", [*past[1:], now])
    assert decide([quiet], Policy(), NOW).steps == []
    loud = NodeHealth("n", [*past, now])
    assert decide([loud], Policy(), NOW).steps == [Step("n", Action.DRAIN, "gpu_lost")]


def test_a_warning_or_one_that_was_acknowledged_moves_nothing() -> None:
    for one in (seen(severity=Severity.WARNING), seen(acknowledged=True), seen(ended_at=ago(1))):
        assert decide([NodeHealth("n", [one])], Policy(), NOW).steps == []


def test_the_worst_of_a_nodes_findings_counts_and_only_what_goes_further() -> None:
    both = [seen("disk_free"), seen("gpu_ecc", device=1)]
    assert decide([NodeHealth("n", both)], Policy(), NOW).steps == [
        Step("n", Action.DRAIN, "gpu_ecc")
    ]
    cordoned = NodeHealth("n", both, cordoned=True)
    assert decide([cordoned], Policy(), NOW).steps == [Step("n", Action.DRAIN, "gpu_ecc")]
    drained = NodeHealth("n", both, cordoned=True, draining=True)
    assert decide([drained], Policy(), NOW).steps == []


def test_replacing_takes_the_device_and_not_the_node() -> None:
    broken = NodeHealth("n", [seen("gpu_row_remap", device=2)])
    assert decide([broken], Policy(), NOW).steps == [Step("n", Action.REPLACE, "gpu_row_remap", 2)]
    nameless = NodeHealth("n", [seen("gpu_xid_replace")])
    assert decide([nameless], Policy(), NOW).steps == [Step("n", Action.DRAIN, "gpu_xid_replace")]
    ours = NodeHealth("n", nameless.findings, cordoned=True, draining=True, done=Action.DRAIN)
    assert decide([ours], Policy(), NOW).steps == []


@pytest.mark.parametrize(("ailing", "out"), [(2, 2), (3, 0), (10, 0)])
def test_where_too_many_ail_at_once_something_else_is_wrong(ailing: int, out: int) -> None:
    pool = [NodeHealth(f"n{n}", [seen("clock_offset")] if n < ailing else []) for n in range(10)]
    made = decide(pool, Policy(), NOW)
    assert len(made.steps) == out
    assert len(made.braked) == ailing - out


def test_a_pool_of_one_may_lose_it_and_a_silent_node_is_left_alone() -> None:
    assert decide([NodeHealth("n", [seen()])], Policy(), NOW).steps != []
    assert decide([NodeHealth("n", [seen()], heard=False)], Policy(), NOW).steps == []
    away = NodeHealth("n", heard=False, cordoned=True, done=Action.CORDON)
    assert decide([away], Policy(), NOW).steps == []


def test_a_pools_policy_is_laid_over_the_default() -> None:
    policy = health_policy.parse({"rules": {"gpu_ecc": {"hold_s": 30}}, "max_share": 0.5})
    assert policy.rule("gpu_ecc") == Rule(action=Action.DRAIN, hold_s=30)
    assert policy.rule("gpu_lost") == DEFAULT["gpu_lost"]
    assert (policy.allowed(9), policy.allowed(1), Policy().allowed(4)) == (4, 1, 1)
    assert health_policy.parse({}) == Policy()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rules": {"gpu_mood": {}}}, "gpu_mood"),
        ({"rules": {"gpu_ecc": {"action": "explode"}}}, "explode"),
        ({"rules": {"gpu_ecc": {"hold": 3}}}, "hold"),
        ({"rules": {"gpu_ecc": {"hold_s": -1}}}, "hold_s"),
        ({"rules": {"gpu_ecc": {"recurs": 0}}}, "recurs"),
        ({"rules": {"gpu_ecc": []}}, "not as expected"),
        ({"rules": {"disk_free": {"action": "replace"}}}, "disk_free"),
        ({"max_share": 1.5}, "max_share"),
        ({"share": 1}, "share"),
        ([], "an object"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_by_name(changes: Any, says: str) -> None:
    with pytest.raises(errors.InvalidPolicy, match=says):
        health_policy.parse(changes)
