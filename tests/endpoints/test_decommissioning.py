"""A node, or a device of it, leaves for good: what is waited for, closed and signed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import assignments, decommission_record, decommissioning
from controlplane.endpoints.models import Replica, ServingInterval
from controlplane.endpoints.states import State
from controlplane.fleet import (
    authority,
    errors,
    inventory,
    issuance,
    records,
    replacing,
    services,
    wire,
)
from controlplane.fleet.models import Decommission, Device, Node, Region
from tests.endpoints.world import World, said
from tests.fleet.machine import inventory as surveyed

OPS = audit.Actor("user", "usr_ops", "session")


def begin(world: World, node: Node, **facts: Any) -> Decommission:
    return decommissioning.begin(node=node, reason="too old", actor=OPS, now=world.now, **facts)


def again(row: Decommission) -> Decommission:
    row.refresh_from_db()
    return row


def tend(world: World) -> int:
    return decommissioning.tend(now=world.now)


def erased(row: Decommission, *, credential: bool = False, done: bool = True) -> wire.Erased:
    items = [
        wire.ErasedItem(what="weights", path="/c/weights", files=3, bytes=99, sha256="a", done=done)
    ]
    if credential:
        items.append(wire.ErasedItem(what="credential", path="/d", files=2, done=True))
    return wire.Erased(id=row.id, items=items)


def actions(node: Node) -> list[str]:
    rows = AuditEvent.objects.filter(target_id=node.id).order_by("id")
    return list(rows.values_list("action", flat=True))


def verified(world: World, row: Decommission) -> dict[str, Any]:
    """The record of one that is done, held against the region's key."""
    key = Region.objects.get().record_public_key
    return records.verify(decommission_record.document(row), key)


def test_a_node_serves_until_its_work_is_elsewhere_then_erases_and_is_recorded(
    world: World, node: Node
) -> None:
    Node.objects.filter(pk=node.pk).update(
        inventory={"serial": "MX-17", "hostname": "gpu-1", "walls": ["uid", "socket"]}
    )
    endpoint = world.endpoint()
    old = world.replica(endpoint, node, State.READY)
    other = world.node("n2")
    row = begin(world, node)
    assert tend(world) == 0 and again(row).moved == [old.id]

    # Make before break: the successor serves first.
    world.reconcile(endpoint)
    successor = Replica.objects.exclude(id=old.id).get()
    assert (successor.node_id, again(row).state) == (other.id, "draining")
    world.report(other, said(successor.id, wire.Phase.READY))
    world.reconcile(endpoint)
    assert Replica.objects.get(id=old.id).state == State.DRAINING
    assert assignments.desired(node, world.now).erase is None
    before = Node.objects.get(pk=node.pk).desired_version
    world.report(node, said(old.id, wire.Phase.STOPPED))

    assert tend(world) == 1 and again(row).state == "erasing"
    assert Node.objects.get(pk=node.pk).desired_version > before
    node.refresh_from_db()
    assert assignments.desired(node, world.now).erase == wire.Erase(id=row.id)
    with pytest.raises(errors.Leaving):
        services.uncordon(node=node, actor=OPS, now=world.now)

    world.later(5)
    assert decommissioning.confirm(node=node, erased=erased(row), now=world.now)
    assert tend(world) == 0 and again(row).state == "closing"
    world.later(1)
    last = erased(row, credential=True)
    assert decommissioning.confirm(node=node, erased=last, now=world.now)
    assert tend(world) == 2 and tend(world) == 0
    record = verified(world, again(row))
    assert row.state == "done" and Node.objects.get(pk=node.pk).removed_at == world.now
    assert record["node"]["serial"] == "MX-17"
    assert (record["confirmed"], record["moved_replicas"]) == (True, [old.id])
    assert [item["what"] for item in record["erased"]] == ["weights", "credential"]
    assert record["erased_sha256"] == records.digest(row.erased)
    assert record["credential_erased_at"] == record["revoked_at"] == audit.stamp(world.now)
    assert record["metering"]["intervals"] == 1
    assert actions(node)[-6:] == [
        "node.drain",
        "node.decommission",
        "node.erase",
        "node.erased",
        "node.delete",
        "node.decommissioned",
    ]


def test_a_last_word_that_never_comes_is_not_waited_for(world: World, node: Node) -> None:
    row = begin(world, node)
    tend(world)
    decommissioning.confirm(node=node, erased=erased(row), now=world.now)
    world.later(decommissioning.LAST_WORD.total_seconds() - 1)
    assert tend(world) == 0
    world.later(1)
    assert tend(world) == 2
    assert verified(world, again(row))["credential_erased_at"] is None


def test_what_is_not_wholly_erased_is_waited_for(world: World, node: Node) -> None:
    row = begin(world, node)
    tend(world)
    half = erased(row, done=False)
    assert not decommissioning.confirm(node=node, erased=half, now=world.now)
    world.later(3600)
    assert tend(world) == 0 and again(row).state == "erasing"
    assert decommissioning.confirm(node=node, erased=erased(row), now=world.now)
    assert again(row).state == "closing"


def test_a_node_that_never_answers_again_leaves_without_a_word(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    replica = world.replica(endpoint, node, State.READY)
    row = begin(world, node)
    world.later(60)
    assert begin(world, node).pk == row.pk
    assert begin(world, node, unconfirmed=True).pk == row.pk
    assert tend(world) == 2 and again(row).state == "closing"
    assert ServingInterval.objects.filter(replica=replica, ended_at=None).exists()
    world.reconcile(endpoint)  # the node is no more: what was on it is given up
    world.reconcile(endpoint)
    assert not ServingInterval.objects.filter(replica=replica, ended_at=None).exists()
    assert tend(world) == 1
    record = verified(world, again(row))
    assert (record["confirmed"], record["erased"]) == (False, None)
    assert "did not confirm" in record["erasure"]
    with pytest.raises(errors.RemovedNode):
        decommissioning.confirm(node=node, erased=erased(row), now=world.now)


@pytest.mark.parametrize("told", [False, True])
def test_one_that_is_removed_in_the_middle_ends_without_its_word(
    world: World, node: Node, told: bool
) -> None:
    row = begin(world, node)
    if told:
        assert tend(world) == 1 and again(row).state == "erasing"
    world.later(5)
    removed_at = world.now
    services.remove_node(node=node, actor=OPS, now=removed_at)
    world.later(5)
    assert tend(world) >= 2 and tend(world) == 0
    record = verified(world, again(row))
    assert (row.state, row.unconfirmed, record["confirmed"]) == ("done", True, False)
    assert record["revoked_at"] == audit.stamp(removed_at)


def test_who_erased_nothing_by_its_own_word_has_confirmed_nothing(world: World, node: Node) -> None:
    row = begin(world, node)
    tend(world)
    nothing = wire.Erased(id=row.id, items=[])
    assert not decommissioning.confirm(node=node, erased=nothing, now=world.now)
    world.later(3600)
    assert tend(world) == 0 and again(row).state == "erasing"


@pytest.mark.parametrize("unconfirmed", [False, True])
def test_killed_between_any_two_steps_it_ends_the_same(
    world: World, node: Node, unconfirmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is one transaction: the process dies before its commit, or after it."""
    row = begin(world, node, unconfirmed=unconfirmed)
    steps = dict(decommissioning._STEPS)
    deaths = 0

    def dying(step: Callable[..., bool]) -> Callable[..., bool]:
        tried: list[int] = []

        def take(row: Decommission, now: Any) -> bool:
            nonlocal deaths
            took = step(row, now)
            if took and len(tried) < 2:
                tried.append(1)
                deaths += 1
                raise RuntimeError("killed")
            return took

        return take

    for key, step in steps.items():
        monkeypatch.setitem(decommissioning._STEPS, key, dying(step))
    for _ in range(20):
        world.later(30)
        tend(world)
        if again(row).state == "erasing":
            decommissioning.confirm(node=node, erased=erased(row), now=world.now)
    assert again(row).state == "done" and deaths >= 4
    told = actions(node)
    assert len(told) == len(set(told)), told
    verified(world, row)


def test_it_may_be_called_off_until_something_is_erased(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    world.replica(endpoint, node, State.READY)
    row = begin(world, node)
    tend(world)
    assert decommissioning.cancel(decommission=row, actor=OPS, now=world.now).state == "cancelled"
    assert decommissioning.cancel(decommission=row, actor=OPS, now=world.now).state == "cancelled"
    services.uncordon(node=node, actor=OPS, now=world.now)
    assert tend(world) == 0

    empty = world.node("n2")
    other = begin(world, empty)
    tend(world)
    with pytest.raises(errors.NotCancellable):
        decommissioning.cancel(decommission=other, actor=OPS, now=world.now)


def test_a_strangers_confirmation_is_nothing(world: World, node: Node) -> None:
    row = begin(world, node)
    assert not decommissioning.confirm(node=node, erased=erased(row), now=world.now)
    tend(world)
    other = world.node("n2")
    assert not decommissioning.confirm(node=other, erased=erased(row), now=world.now)
    assert again(row).erased is None
    bad = wire.Erased(id=row.id, items=[wire.ErasedItem(what="a\0", path="", bytes=1)])
    huge = wire.Erased(id=row.id, items=[wire.ErasedItem(what="a", path="", bytes=1 << 60)])
    for wrong in (bad, huge):
        with pytest.raises(errors.InvalidReport):
            decommissioning.confirm(node=node, erased=wrong, now=world.now)


# --- one device ---------------------------------------------------------------------------------


def gpu(index: int, uuid: str, **facts: Any) -> wire.DeviceInfo:
    return wire.DeviceInfo(
        index=index,
        kind="nvidia-h200",
        name="NVIDIA H200",
        memory_bytes=1 << 30,
        uuid=uuid,
        serial=f"SN-{uuid}",
        **facts,
    )


def test_a_gpu_is_replaced_and_the_new_one_takes_its_index(world: World) -> None:
    node = world.node("g1", devices=0)
    inventory.record(node, surveyed(gpu(0, "A"), gpu(1, "B")))
    endpoint = world.endpoint(device_kind="nvidia-h200")
    replica = world.replica(endpoint, node, State.READY)
    old = replica.claims.get().device
    row = replacing.begin(device=old, reason="rows", actor=OPS, now=world.now)
    assert replacing.begin(device=old, reason="rows", actor=OPS, now=world.now).pk == row.pk
    assert tend(world) == 0

    # The other GPU of the same node takes the work: the node itself serves on.
    world.reconcile(endpoint)
    successor = Replica.objects.exclude(id=replica.id).get()
    assert successor.claims.get().device.uuid == "B"
    world.report(node, said(replica.id, wire.Phase.READY), said(successor.id, wire.Phase.READY))
    world.reconcile(endpoint)
    assert Replica.objects.get(id=replica.id).state == State.DRAINING
    world.report(node, said(successor.id, wire.Phase.READY), said(replica.id, wire.Phase.STOPPED))
    assert tend(world) == 1 and again(row).state == "awaiting"

    inventory.record(node, surveyed(gpu(1, "B")))  # it was taken out
    assert tend(world) == 0
    inventory.record(node, surveyed(gpu(0, "C", healthy=False), gpu(1, "B")))
    assert tend(world) == 0
    inventory.record(node, surveyed(gpu(0, "C"), gpu(1, "B")))
    world.later(60)
    assert tend(world) == 1
    record = verified(world, again(row))
    assert (record["kind"], record["device"]["serial"], record["successor"]["serial"]) == (
        "device",
        "SN-A",
        "SN-C",
    )
    assert record["moved_replicas"] == [replica.id]
    device = Device.objects.get(node=node, index=0)
    assert (device.uuid, device.retiring_at, device.healthy) == ("C", None, True)
    assert AuditEvent.objects.filter(action="device.replaced").count() == 1


def test_a_device_whose_node_leaves_is_replaced_by_none(world: World) -> None:
    node = world.node("g1", devices=0)
    inventory.record(node, surveyed(gpu(0, "A")))
    row = replacing.begin(device=node.devices.get(), reason="ECC", actor=OPS, now=world.now)
    assert tend(world) == 1 and again(row).state == "awaiting"
    services.remove_node(node=node, actor=OPS, now=world.now)
    assert tend(world) == 1 and tend(world) == 0
    assert again(row).state == "cancelled"


def test_a_device_that_is_to_be_replaced_takes_nothing_new(world: World) -> None:
    node = world.node("g1", devices=0)
    inventory.record(node, surveyed(gpu(0, "A")))
    device = node.devices.get()
    row = replacing.begin(device=device, reason="", actor=OPS, now=world.now)
    endpoint = world.endpoint(device_kind="nvidia-h200")
    world.reconcile(endpoint)
    assert Replica.objects.get().state == State.REQUESTED
    decommissioning.cancel(decommission=row, actor=OPS, now=world.now)
    world.reconcile(endpoint)
    assert Replica.objects.get().state == State.PLACED
    assert again(row).state == "cancelled"


def test_a_share_of_a_cpu_is_no_device_to_replace(world: World, node: Node) -> None:
    device = node.devices.first()
    assert device is not None
    with pytest.raises(errors.NotReplaceable):
        replacing.begin(device=device, reason="", actor=OPS, now=world.now)


# --- the record -----------------------------------------------------------------------------


def test_a_record_is_verified_without_us_and_an_altered_one_is_not(
    world: World, node: Node, tmp_path: Path
) -> None:
    row = begin(world, node, unconfirmed=True)
    tend(world)
    document = decommission_record.document(again(row))
    record, key = tmp_path / "record.json", tmp_path / "key.pem"
    key.write_text(Region.objects.get().record_public_key)

    def ask() -> tuple[int, str]:
        command = [sys.executable, "-m", "controlplane.fleet.records", str(record), str(key)]
        done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
        return done.returncode, done.stdout + done.stderr

    record.write_text(json.dumps(document, indent=2))
    assert ask() == (0, f"verified: node {row.id}, signed {audit.stamp(world.now)}\n")
    document["record"]["confirmed"] = True
    record.write_text(json.dumps(document))
    status, words = ask()
    assert status == 1 and "altered" in words
    record.write_text("[]")
    assert ask()[0] == 1
    other = authority.create("eu-x-1", now=world.now)
    with pytest.raises(records.NotAsSigned, match="key"):
        records.verify(document, other.certificate_pem)


def test_a_region_has_one_key_for_its_records(world: World) -> None:
    code = world.pool.region_id
    with transaction.atomic():
        first, public = issuance.record_key(code)
        again, same = issuance.record_key(code)
    assert first.private_bytes_raw() == again.private_bytes_raw() and public == same
