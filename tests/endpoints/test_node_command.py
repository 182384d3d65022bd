"""`stoa node`: one node, by a shell."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import decommissioning
from controlplane.fleet import records, services
from controlplane.fleet.models import Decommission, Maintenance, Node, Region
from tests.endpoints.world import World


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("node", *words, stdout=out)
    return out.getvalue()


def said(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "--json"))
    return found


def test_it_is_taken_out_and_back(node: Node) -> None:
    for verb, cordoned, draining in (
        ("cordon", True, False),
        ("drain", True, True),
        ("uncordon", False, False),
    ):
        assert run(verb, node.name).startswith(f"{node.name}  ")
        node.refresh_from_db()
        held = node.cordoned_at is not None, node.drain_requested_at is not None
        assert held == (cordoned, draining)
    assert said("show", node.id)["id"] == node.id


def test_maintenance_is_planned_and_called_off(node: Node) -> None:
    run("maintenance", node.name, "--hours", "2", "--message", "New disks.", "--stay-out")
    row = Maintenance.objects.get()
    assert (row.message, row.take_back) == ("New disks.", False)
    assert (row.ends_at - row.starts_at).total_seconds() == 7200
    (shown,) = said("show", node.name)["maintenances"]
    assert (shown["id"], shown["state"]) == (row.id, "planned")
    (shown,) = said("cancel", node.name, row.id)["maintenances"]
    assert shown["state"] == "cancelled"


def test_it_leaves_and_its_record_is_kept(node: Node) -> None:
    with pytest.raises(CommandError, match="no record"):
        run("record", node.name)
    (shown,) = said("decommission", node.name, "--reason", "old", "--unconfirmed")["decommissions"]
    row = Decommission.objects.get()
    assert (shown["id"], shown["device"], shown["unconfirmed"]) == (row.id, None, True)
    decommissioning.tend(now=timezone.now())
    key = Region.objects.get().record_public_key
    assert records.verify(json.loads(run("record", node.name)), key)["id"] == row.id
    assert said("show", node.name)["state"] == "removed"
    with pytest.raises(CommandError, match="no node"):
        run("drain", node.name)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("drain", "nope"), "no node 'nope'"),
        (("drain", "n1", "--pool", "nope"), "no pool 'nope'"),
        (("maintenance", "n1"), "after it begins"),
        (("maintenance", "n1", "--from", "tomorrow", "--hours", "1"), "--from is a time"),
        (("maintenance", "n1", "--hours", "nan"), "--hours a number"),
        (("maintenance", "n1", "--hours", "1e300"), "--hours a number"),
        (("decommission", "n1"), "--reason is missing"),
        (("decommission", "n1", "--reason", "x", "--device", "77"), "no device 77"),
        (("decommission", "n1", "--reason", "x", "--device", "0"), "no device that could be"),
        (("cancel", "n1"), "no maintenance or decommission ''"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    node: Node, words: tuple[str, ...], says: str
) -> None:
    with pytest.raises(CommandError, match=says):
        run(*words)
    node.refresh_from_db()
    assert node.drain_requested_at is None and not Decommission.objects.exists()


def test_a_name_of_two_needs_the_id(world: World, node: Node) -> None:
    other = world.node("n2")
    Node.objects.filter(pk=other.pk).update(name=node.name)
    with pytest.raises(CommandError, match="give the id"):
        run("drain", node.name)
    services.remove_node(node=node, actor=audit.SYSTEM, now=world.now)
    run("drain", node.name)
    other.refresh_from_db()
    assert other.drain_requested_at is not None
