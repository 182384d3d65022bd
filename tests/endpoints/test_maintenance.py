"""Maintenance: who is told, when a node goes out of service, and whether it comes back."""

from datetime import timedelta
from typing import Any

import pytest

from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import maintenance
from controlplane.endpoints.states import State
from controlplane.fleet import errors, findings, health, services, wire
from controlplane.fleet.models import Maintenance, Node
from controlplane.tenancy.models import Notice
from tests.endpoints.world import World, organization

OPS = audit.Actor("user", "usr_ops", "session")
HOUR = 3600.0


def plan(world: World, node: Node, begins_s: float = HOUR, **facts: Any) -> Maintenance:
    starts_at = world.now + timedelta(seconds=begins_s)
    facts.setdefault("ends_at", starts_at + timedelta(hours=2))
    return maintenance.plan(node=node, starts_at=starts_at, actor=OPS, now=world.now, **facts)


def later(world: World, node: Node, seconds: float) -> int:
    """The node goes on to report."""
    world.later(seconds)
    world.heartbeat(node)
    return maintenance.tend(now=world.now)


def actions(node: Node) -> list[str]:
    rows = AuditEvent.objects.filter(target_id=node.id).order_by("id")
    return list(rows.values_list("action", flat=True))


def test_a_node_is_drained_when_it_begins_and_taken_back_at_the_end(
    world: World, node: Node
) -> None:
    world.replica(world.endpoint(), node, State.READY)
    row = plan(world, node, message="New disks.")
    (notice,) = Notice.objects.all()
    assert notice.organization_id == world.project.organization_id
    assert "13:00 to 2026-03-04 15:00 UTC" in notice.text and "New disks." in notice.text
    assert node.name not in notice.text

    assert later(world, node, HOUR - 1) == 0
    assert later(world, node, 1) == 1 and maintenance.tend(now=world.now) == 0
    node.refresh_from_db()
    assert node.drain_requested_at == world.now
    row.refresh_from_db()
    assert (row.state, row.drained, row.told) == (
        "active",
        True,
        [world.project.organization_id],
    )
    assert later(world, node, 2 * HOUR - 1) == 0
    assert later(world, node, 1) == 1
    node.refresh_from_db()
    row.refresh_from_db()
    assert node.drain_requested_at is None and node.cordoned_at is None
    assert (row.state, row.result) == ("over", "taken back into service")
    notice.refresh_from_db()
    assert notice.closed_at == world.now
    assert actions(node) == [
        "maintenance.plan",
        "node.drain",
        "maintenance.start",
        "node.uncordon",
        "maintenance.end",
    ]


def test_who_comes_after_it_was_planned_is_told_when_it_begins(world: World, node: Node) -> None:
    plan(world, node)
    assert not Notice.objects.exists()
    world.replica(world.endpoint(), node, State.READY)
    later(world, node, HOUR)
    assert Notice.objects.count() == 1


def test_nobody_else_is_told(world: World, node: Node) -> None:
    stranger = organization("other")
    plan(world, node)
    assert maintenance.concerned(node) == []
    assert not Notice.objects.filter(organization=stranger.organization).exists()


def test_a_node_that_is_not_well_stays_out(world: World, node: Node) -> None:
    row = plan(world, node)
    later(world, node, HOUR)
    world.later(HOUR)
    bad = wire.Finding(check="disk_readonly", severity=wire.Severity.CRITICAL)
    findings.note(Node.objects.get(pk=node.pk), [bad], world.now)
    assert later(world, node, HOUR) == 1
    row.refresh_from_db()
    assert (row.state, row.result) == ("over", "kept out of service: DiskPressure")
    node.refresh_from_db()
    assert node.drain_requested_at is not None


def test_a_node_that_is_silent_at_the_end_stays_out(world: World, node: Node) -> None:
    row = plan(world, node)
    later(world, node, HOUR)
    world.later(2 * HOUR)
    maintenance.tend(now=world.now)
    row.refresh_from_db()
    assert row.result.startswith("kept out of service: Ready")


@pytest.mark.parametrize("take_back", [True, False])
def test_what_was_out_before_or_is_to_stay_out_is_not_taken_back(
    world: World, node: Node, take_back: bool
) -> None:
    if take_back:
        services.drain(node=node, actor=OPS, now=world.now)
    row = plan(world, node, take_back=take_back)
    later(world, node, HOUR)
    later(world, node, 2 * HOUR)
    row.refresh_from_db()
    node.refresh_from_db()
    assert row.state == "over" and node.drain_requested_at is not None


def test_the_health_policy_takes_no_node_back_in_the_middle(world: World, node: Node) -> None:
    Node.objects.filter(pk=node.pk).update(
        cordoned_at=world.now,
        drain_requested_at=world.now,
        health_action="drain",
        health_reason="gpu_lost",
        health_since=world.now,
    )
    row = plan(world, node)
    later(world, node, HOUR)
    world.later(HOUR)  # what was wrong is long over
    world.heartbeat(node)
    assert health.tend(now=world.now) == 0
    node.refresh_from_db()
    assert node.drain_requested_at is not None
    later(world, node, HOUR)
    row.refresh_from_db()
    assert row.result == "taken back into service"
    assert Node.objects.filter(pk=node.pk, drain_requested_at=None).exists()


@pytest.mark.parametrize("begun", [False, True])
def test_it_may_be_called_off(world: World, node: Node, begun: bool) -> None:
    world.replica(world.endpoint(), node, State.READY)
    row = plan(world, node)
    if begun:
        later(world, node, HOUR)
    for _ in range(2):
        row = maintenance.cancel(maintenance=row, actor=OPS, now=world.now)
        assert row.state == "cancelled"
    node.refresh_from_db()
    assert node.drain_requested_at is None
    subjects = set(Notice.objects.filter(closed_at=None).values_list("subject", flat=True))
    assert subjects == {"Maintenance was cancelled"}
    assert actions(node).count("maintenance.cancel") == 1
    assert later(world, node, 5 * HOUR) == 0


def test_one_that_is_over_cannot_be_called_off(world: World, node: Node) -> None:
    row = plan(world, node)
    later(world, node, HOUR)
    later(world, node, 2 * HOUR)
    with pytest.raises(errors.NotCancellable):
        maintenance.cancel(maintenance=row, actor=OPS, now=world.now)


def test_after_an_outage_of_ours_it_begins_and_ends_at_once(world: World, node: Node) -> None:
    row = plan(world, node)
    assert later(world, node, 10 * HOUR) == 2
    row.refresh_from_db()
    node.refresh_from_db()
    assert row.state == "over" and node.drain_requested_at is None


def test_a_node_that_left_meanwhile(world: World, node: Node) -> None:
    row = plan(world, node)
    services.remove_node(node=node, actor=OPS, now=world.now)
    assert later(world, node, HOUR) == 1
    row.refresh_from_db()
    assert (row.state, row.result) == ("over", "the node had left the fleet")


@pytest.mark.parametrize(
    ("begins_s", "lasts_s", "says"),
    [(60, 0, "after it begins"), (-600, 60, "future"), (0, 40 * 86_400, "30 days")],
)
def test_windows_that_cannot_be(
    world: World, node: Node, begins_s: float, lasts_s: float, says: str
) -> None:
    ends_at = world.now + timedelta(seconds=begins_s + lasts_s)
    with pytest.raises(errors.InvalidWindow, match=says):
        plan(world, node, begins_s, ends_at=ends_at)


def test_two_at_once_of_one_node_cannot_be(world: World, node: Node) -> None:
    plan(world, node)
    with pytest.raises(errors.InvalidWindow, match="already"):
        plan(world, node, 1.5 * HOUR)
    plan(world, node, 3 * HOUR)  # one after the other may
