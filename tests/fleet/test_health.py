"""Findings as they are kept, and what the policy does with nodes because of them."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.conf import settings

from compliance import audit
from compliance.models import AuditEvent
from compliance.privacy import retention
from controlplane.fleet import findings, health, services
from controlplane.fleet.models import Decommission, Device, Node, NodeFinding, Pool
from controlplane.fleet.wire import Finding, Severity
from tests.fleet.machine import Join

pytestmark = pytest.mark.django_db
WHO = audit.Actor("user", "usr_ops", "session")
LOST = Finding(check="gpu_lost", severity=Severity.CRITICAL, device=1, text="gone", cure="look")
LOW = Finding(check="disk_free", severity=Severity.WARNING, text="9 GiB")


class Fleet:
    """Nodes that report, and a clock."""

    def __init__(self, pool: Pool, join: Join, now: datetime) -> None:
        self.pool, self._join, self.now = pool, join, now

    def nodes(self, count: int) -> list[Node]:
        return [self._join(f"gpu-{n}")[0] for n in range(count)]

    def say(self, node: Node, *found: Finding) -> bool:
        lease = self.now + timedelta(seconds=settings.NODE_LEASE_S)
        Node.objects.filter(pk=node.pk).update(heartbeat_at=self.now, lease_until=lease)
        node.refresh_from_db()
        return findings.note(node, found, self.now)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def tend(self) -> int:
        return health.tend(now=self.now)

    def state(self, node: Node) -> tuple[bool, bool, str]:
        node.refresh_from_db()
        return (
            node.cordoned_at is not None,
            node.drain_requested_at is not None,
            node.health_action,
        )


@pytest.fixture
def fleet(pool: Pool, join: Join, now: datetime) -> Fleet:
    return Fleet(pool, join, now)


def actions(target: str) -> list[str]:
    rows = AuditEvent.objects.filter(target_id=target).order_by("id")
    return list(rows.values_list("action", flat=True))


# --- what is kept ---------------------------------------------------------------------------


def test_a_finding_is_a_row_from_when_it_comes_to_when_it_goes(fleet: Fleet) -> None:
    (node,) = fleet.nodes(1)
    assert not fleet.say(node)
    assert fleet.say(node, LOST, LOW)
    first = fleet.now
    fleet.later(10)
    assert not fleet.say(node, LOST, LOW)
    fleet.later(10)
    assert fleet.say(node, LOW)
    rows = list(findings.history(node).order_by("check_name"))
    assert [(row.check_name, row.since, row.ended_at) for row in rows] == [
        ("disk_free", first, None),
        ("gpu_lost", first, fleet.now),
    ]
    assert (rows[1].device, rows[1].text, rows[1].cure) == (1, "gone", "look")
    fleet.later(5)
    assert fleet.say(node) and not Node.objects.get(pk=node.pk).has_findings
    assert not NodeFinding.objects.filter(ended_at=None).exists()


def test_one_that_gets_worse_is_another(fleet: Fleet) -> None:
    (node,) = fleet.nodes(1)
    fleet.say(node, LOW)
    fleet.later(60)
    fleet.say(node, Finding(check="disk_free", severity=Severity.CRITICAL, text="1 GiB"))
    worse, mild = findings.history(node)
    assert (mild.severity, mild.ended_at) == ("warning", fleet.now)
    assert (worse.severity, worse.since, worse.ended_at) == ("critical", fleet.now, None)


def test_a_strangers_words_are_cut_and_counted(fleet: Fleet) -> None:
    (node,) = fleet.nodes(1)
    wild = [Finding(check=f"c{n}", severity=Severity.INFO, text="x" * 9999) for n in range(900)]
    bad = Finding(check="a\0b", severity=Severity.INFO, text="\0", device=-4)
    fleet.say(node, Finding(check="", severity=Severity.INFO), bad, *wild)
    rows = NodeFinding.objects.filter(node=node)
    assert rows.count() == findings.MOST
    assert {len(row.text) for row in rows} == {500}


def test_old_ones_are_forgotten_and_open_ones_never(fleet: Fleet) -> None:
    (node,) = fleet.nodes(1)
    fleet.say(node, LOST, LOW)
    fleet.say(node, LOST)
    fleet.now += timedelta(days=90, seconds=1)
    assert retention.carry_out("node_finding", fleet.now) == 1
    assert [row.check_name for row in NodeFinding.objects.all()] == ["gpu_lost"]


# --- what is done ---------------------------------------------------------------------------


def test_a_finding_that_holds_drains_the_node_and_recovery_takes_it_back(fleet: Fleet) -> None:
    node, *_ = fleet.nodes(2)
    fleet.say(node, LOST)
    assert fleet.tend() == 0
    fleet.later(61)
    fleet.say(node, LOST)
    assert fleet.tend() == 1 and fleet.tend() == 0
    assert fleet.state(node) == (True, True, "drain")
    fleet.later(30)
    fleet.say(node)
    fleet.later(899)
    fleet.say(node)
    assert fleet.tend() == 0
    fleet.later(2)
    fleet.say(node)
    assert fleet.tend() == 1
    assert fleet.state(node) == (False, False, "")
    assert actions(node.id)[-2:] == ["node.drain", "node.uncordon"]
    last = AuditEvent.objects.filter(action="node.drain").get()
    assert last.actor_type == "system"


def test_what_an_operator_cordoned_stays_so(fleet: Fleet) -> None:
    node, *_ = fleet.nodes(2)
    services.cordon(node=node, actor=WHO, now=fleet.now)
    fleet.say(node, LOST)
    fleet.later(61)
    fleet.say(node, LOST)
    assert fleet.tend() == 1  # drained on top of it
    assert fleet.state(node) == (True, True, "")
    fleet.say(node)
    fleet.later(5000)
    fleet.say(node)
    assert fleet.tend() == 0
    assert fleet.state(node) == (True, True, "")


@pytest.mark.parametrize(
    ("verb", "after"),
    [
        (services.uncordon, (False, False, "")),
        (services.cordon, (True, True, "")),
        (services.drain, (True, True, "")),
    ],
)
def test_an_operator_takes_over(
    fleet: Fleet, verb: Callable[..., Node], after: tuple[bool, bool, str]
) -> None:
    """Against an uncordon the same finding does nothing more; one that comes anew does."""
    node, *_ = fleet.nodes(2)
    fleet.say(node, LOST)
    fleet.later(61)
    fleet.say(node, LOST)
    fleet.tend()
    verb(node=node, actor=WHO, now=fleet.now)
    fleet.later(3600)
    fleet.say(node, LOST)
    fleet.tend()
    assert fleet.state(node) == after
    if verb is services.uncordon:
        fleet.say(node)
        fleet.say(node, LOST)
        fleet.later(61)
        fleet.say(node, LOST)
        assert fleet.tend() == 1


def test_too_many_at_once_are_left_in_service_and_told_once(fleet: Fleet) -> None:
    nodes = fleet.nodes(4)
    for node in nodes[:2]:
        fleet.say(node, LOST)
    fleet.later(61)
    for node in nodes[:2]:
        fleet.say(node, LOST)
    assert fleet.tend() == 1 and fleet.tend() == 0
    assert {fleet.state(node) for node in nodes} == {(False, False, "")}
    assert actions(fleet.pool.id)[-1:] == ["pool.health_brake"]
    changes = {"max_share": 0.5}
    health.set_policy(pool=fleet.pool, changes=changes, actor=WHO, now=fleet.now)
    assert fleet.tend() == 3
    assert [fleet.state(node)[2] for node in nodes] == ["drain", "drain", "", ""]
    assert actions(fleet.pool.id)[-2:] == ["pool.update", "pool.health_release"]


def test_a_policy_of_a_pool_may_say_nothing(fleet: Fleet) -> None:
    (node,) = fleet.nodes(1)
    rules = {"rules": {"gpu_lost": {"action": "nothing"}}}
    health.set_policy(pool=fleet.pool, changes=rules, actor=WHO, now=fleet.now)
    fleet.say(node, LOST)
    fleet.later(500)
    fleet.say(node, LOST)
    assert fleet.tend() == 0
    before = AuditEvent.objects.count()
    health.set_policy(pool=fleet.pool, changes=rules, actor=WHO, now=fleet.now)
    assert AuditEvent.objects.count() == before


def test_a_broken_gpu_is_marked_and_its_node_serves_on(fleet: Fleet) -> None:
    (node,) = fleet.nodes(1)
    device = Device.objects.create(
        node=node, index=1, kind="nvidia-h200", name="NVIDIA H200", memory_bytes=1, uuid="GPU-1"
    )
    broken = Finding(check="gpu_row_remap", severity=Severity.CRITICAL, device=1)
    fleet.say(node, broken)
    fleet.later(61)
    fleet.say(node, broken)
    assert fleet.tend() == 1 and fleet.tend() == 0
    device.refresh_from_db()
    assert device.retiring_at == fleet.now
    assert fleet.state(node) == (False, False, "")
    row = Decommission.objects.get()
    assert (row.state, row.was["uuid"], row.reason) == (
        "draining",
        "GPU-1",
        "the health policy: gpu_row_remap",
    )


def test_a_node_that_has_nothing_wrong_costs_no_query(
    fleet: Fleet, django_assert_num_queries: Callable[..., object]
) -> None:
    (node,) = fleet.nodes(1)
    fleet.say(node)
    with django_assert_num_queries(0):  # type: ignore[attr-defined]
        findings.note(node, [], fleet.now)
    with django_assert_num_queries(1):  # type: ignore[attr-defined]
        fleet.tend()
