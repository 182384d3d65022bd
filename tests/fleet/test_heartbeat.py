"""Reports in any order, and the devices that they speak of."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from compliance import audit
from controlplane.fleet import errors, services, silence, wire
from controlplane.fleet.models import Device, Node
from tests.fleet.machine import Join, inventory, report

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
GIB = 1 << 30


def _beat(
    node: Node,
    boot: str = "boot-1",
    seq: int = 1,
    *,
    at: datetime = NOW,
    inventory: wire.Inventory | None = None,
) -> bool:
    message = report(boot, seq, inventory)
    return services.heartbeat(node=node, report=message, signed_at=at, now=at)


def test_report_extends_the_lease(join: Join) -> None:
    node, _ = join()
    assert _beat(node)
    node.refresh_from_db()
    lease = timedelta(seconds=settings.NODE_LEASE_S)
    assert (node.heartbeat_at, node.lease_until) == (NOW, NOW + lease)
    assert node.schedulable(NOW)
    assert not silence.unreachable(NOW).exists()
    assert list(silence.unreachable(NOW + lease)) == [node]
    assert not node.reachable(NOW + lease)


def test_stale_and_repeated_reports_change_nothing(join: Join) -> None:
    node, _ = join()
    later = NOW + timedelta(seconds=5)
    assert _beat(node, seq=5)
    for seq in (5, 4, 0):
        assert not _beat(node, seq=seq, at=later)
    node.refresh_from_db()
    assert (node.report_seq, node.heartbeat_at) == (5, NOW)


def test_new_boot_starts_over_and_its_dead_predecessor_is_not_heard(join: Join) -> None:
    node, _ = join()
    assert _beat(node, "boot-1", 900)
    assert _beat(node, "boot-2", 1, at=NOW + timedelta(seconds=2))
    # Signed before the new boot's first report, delivered after it.
    assert not _beat(node, "boot-1", 901, at=NOW + timedelta(seconds=1))
    assert not _beat(node, "boot-0", 7, at=NOW + timedelta(seconds=1))
    node.refresh_from_db()
    assert (node.boot_id, node.report_seq) == ("boot-2", 1)


def test_removed_node_is_not_heard(join: Join) -> None:
    node, _ = join()
    services.remove_node(node=node, actor=audit.SYSTEM, now=NOW)
    assert not _beat(node)
    node.refresh_from_db()
    assert not node.reachable(NOW)


@pytest.mark.parametrize(
    ("boot", "seq", "version"),
    [
        ("", 1, "1"),
        ("b" * 65, 1, "1"),
        ("b\0", 1, "1"),
        ("b", -1, "1"),
        ("b", 1 << 63, "1"),
        ("b", 1, "v" * 33),
        ("b", 1, ""),
    ],
)
def test_reports_that_cannot_be_kept_are_refused(
    join: Join, boot: str, seq: int, version: str
) -> None:
    node, _ = join()
    message = report(boot, seq)
    message.agent_version = version
    with pytest.raises(errors.InvalidReport):
        services.heartbeat(node=node, report=message, signed_at=NOW, now=NOW)
    node.refresh_from_db()
    assert node.heartbeat_at is None


# One node's whole history: how many reports each boot of its agent made, then any delivery.
BOOTS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@pytest.mark.django_db
@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(boots=BOOTS, data=st.data())
def test_any_delivery_takes_effect_in_the_order_of_making(
    join: Join, boots: list[int], data: st.DataObject
) -> None:
    made = [(boot, seq) for boot, count in enumerate(boots) for seq in range(1, count + 1)]
    born = {one: NOW + timedelta(seconds=number) for number, one in enumerate(made)}
    node, _ = join()
    newest: tuple[int, int] | None = None
    for boot, seq in data.draw(st.lists(st.sampled_from(made), max_size=12)):
        taken = _beat(node, f"boot-{boot}", seq, at=born[boot, seq])
        assert taken == (newest is None or (boot, seq) > newest)
        newest = (boot, seq) if taken else newest
    node.refresh_from_db()
    if newest is not None:
        assert (node.boot_id, node.report_seq) == (f"boot-{newest[0]}", newest[1])


# --- Devices --------------------------------------------------------------------------


def _device(index: int, **changes: object) -> wire.DeviceInfo:
    facts = {"kind": "nvidia-h200", "name": "NVIDIA H200", "memory_bytes": 141 * GIB, **changes}
    return wire.DeviceInfo(index=index, **facts)  # type: ignore[arg-type]


def _devices(node: Node) -> list[tuple[int, str, bool]]:
    return list(node.devices.values_list("index", "kind", "healthy"))


def test_inventory_becomes_devices(join: Join) -> None:
    node, _ = join()
    _beat(node, seq=1, inventory=inventory(_device(0), _device(1, kind="cpu")))
    assert _devices(node) == [(0, "nvidia-h200", True), (1, "cpu", True)]
    ids = list(node.devices.values_list("id", flat=True))

    _beat(node, seq=2)  # nothing changed: no inventory
    assert len(_devices(node)) == 2

    _beat(node, seq=3, inventory=inventory(_device(1, kind="cpu", memory_bytes=GIB)))
    assert _devices(node) == [(0, "nvidia-h200", False), (1, "cpu", True)]
    assert node.devices.get(index=1).memory_bytes == GIB

    _beat(node, seq=4, inventory=inventory(_device(0), _device(1, healthy=False)))
    assert _devices(node) == [(0, "nvidia-h200", True), (1, "nvidia-h200", False)]
    assert list(node.devices.values_list("id", flat=True)) == ids
    node.refresh_from_db()
    assert node.inventory["hostname"] == "gpu-1"


def test_stale_inventory_is_not_applied(join: Join) -> None:
    node, _ = join()
    _beat(node, seq=2, inventory=inventory(_device(0)))
    assert not _beat(node, seq=1, inventory=inventory())
    assert _devices(node) == [(0, "nvidia-h200", True)]


@pytest.mark.parametrize(
    "devices",
    [
        [_device(0), _device(0)],
        [_device(-1)],
        [_device(256)],
        [_device(index) for index in range(257)],
        [_device(0, kind="")],
        [_device(0, kind="k" * 65)],
        [_device(0, name="")],
        [_device(0, name="n" * 101)],
        [_device(0, name="NVIDIA\0")],
        [_device(0, uuid="u" * 101)],
        [_device(0, memory_bytes=-1)],
        [_device(0, memory_bytes=1 << 63)],
    ],
)
def test_inventory_that_cannot_be_kept_is_refused_whole(
    join: Join, devices: list[wire.DeviceInfo]
) -> None:
    node, _ = join()
    with pytest.raises(errors.InvalidReport):
        _beat(node, inventory=inventory(*devices))
    node.refresh_from_db()
    assert node.heartbeat_at is None
    assert not Device.objects.exists()


def test_a_backslash_is_no_nul(join: Join) -> None:
    node, _ = join()
    assert _beat(node, inventory=inventory(_device(0, name=r"C:\u0000 \\u0000")))
    assert node.devices.get().name == r"C:\u0000 \\u0000"
