"""What the audit log says of nodes that go quiet and come back."""

from datetime import datetime, timedelta

from django.conf import settings

from compliance import audit
from compliance.models import AuditEvent
from controlplane.fleet import services, silence
from controlplane.fleet.models import Node
from tests.fleet.machine import Join, report


def _beat(node: Node, seq: int, at: datetime) -> None:
    assert services.heartbeat(node=node, report=report(seq=seq), signed_at=at, now=at)


def _told() -> list[str]:
    about = AuditEvent.objects.filter(action__in=("node.unreachable", "node.return"))
    return list(about.order_by("id").values_list("action", flat=True))


def test_each_silence_and_each_return_is_told_once(join: Join, now: datetime) -> None:
    lease = timedelta(seconds=settings.NODE_LEASE_S)
    long_ago = now - timedelta(days=1)
    node, _ = join()
    assert silence.note(now=now + lease, listening_since=long_ago) == 0  # it never spoke
    _beat(node, 1, now)
    assert silence.note(now=now + lease / 2, listening_since=long_ago) == 0
    for _ in range(2):
        silence.note(now=now + lease, listening_since=long_ago)
    assert _told() == ["node.unreachable"]
    _beat(node, 2, now + 2 * lease)
    for _ in range(2):
        silence.note(now=now + 2 * lease, listening_since=None)  # who speaks is heard
    assert _told() == ["node.unreachable", "node.return"]
    event = AuditEvent.objects.latest("id")
    assert (event.log_id, event.region, event.target_id) == (audit.PLATFORM, "eu-de-1", node.id)
    silence.note(now=now + 3 * lease, listening_since=long_ago)
    assert _told() == ["node.unreachable", "node.return", "node.unreachable"]


def test_our_own_outage_is_nobodys_silence(join: Join, now: datetime) -> None:
    lease = timedelta(seconds=settings.NODE_LEASE_S)
    node, _ = join()
    _beat(node, 1, now)
    later = now + timedelta(hours=3)
    assert silence.note(now=later, listening_since=None) == 0
    assert silence.note(now=later, listening_since=later - lease / 2) == 0
    assert silence.note(now=later, listening_since=later - lease) == 1


def test_a_removed_node_is_silent_for_good(join: Join, now: datetime) -> None:
    node, _ = join()
    _beat(node, 1, now)
    services.remove_node(node=node, actor=audit.SYSTEM, now=now)
    later = now + timedelta(hours=1)
    assert silence.note(now=later, listening_since=now) == 0
