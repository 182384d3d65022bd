"""The operator's page: nodes, and the command with which one joins."""

import re

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import decommissioning
from controlplane.endpoints.models import Replica
from controlplane.fleet import joining, node_events, wire
from controlplane.fleet import services as fleet
from controlplane.fleet.models import AgentRollout, EnrollmentToken, Node
from tests.api import house
from tests.api.house import House, signed_in
from tests.fleet.machine import Machine


def test_nodes_say_how_they_are(alice: House, operator: Client) -> None:
    Node.objects.filter(id=alice.node.id).update(
        inventory={"walls": ["socket"], "missing_walls": {"network": "no rights for it"}}
    )
    text = operator.get("/nodes").content.decode()
    for part in ("unreachable", "0 of 2 cpu in use", "network", "no rights for it", "never"):
        assert part in text, part
    fragment = operator.get("/nodes", headers={"hx-request": "true"}).content.decode()
    assert fragment.lstrip().startswith('<div id="nodes"')


@pytest.mark.parametrize(
    ("verb", "cordoned", "draining"),
    [("cordon", True, False), ("drain", True, True), ("uncordon", False, False)],
)
def test_verbs(alice: House, operator: Client, verb: str, cordoned: bool, draining: bool) -> None:
    if verb == "uncordon":
        operator.post(f"/nodes/{alice.node.id}/drain")
    answer = operator.post(f"/nodes/{alice.node.id}/{verb}", follow=True)
    assert answer.status_code == 200
    node = Node.objects.get(id=alice.node.id)
    assert (node.cordoned_at is not None, node.drain_requested_at is not None) == (
        cordoned,
        draining,
    )
    assert b'class="note success"' in answer.content


def test_other_verbs_do_not_exist(alice: House, operator: Client) -> None:
    assert operator.post(f"/nodes/{alice.node.id}/explode").status_code == 404
    assert operator.post("/nodes/node_nothing/drain").status_code == 404


def test_the_command_is_shown_once_and_lets_one_machine_join(
    alice: House, operator: Client
) -> None:
    answer = operator.post("/nodes/enrol", {"pool": alice.pool.id})
    command = r"--url (\S+) --pin (\S+) --token ([\w-]+)"
    found = re.search(command, answer.content.decode())
    assert found is not None
    assert found.group(1, 2) == (settings.AGENTS_URL, joining.pin(alice.pool.region))
    assert found[3] not in operator.get("/nodes").content.decode()
    token = EnrollmentToken.objects.get()
    node, _ = fleet.enroll(
        token=found[3],
        csr_pem=Machine().csr,
        name="gpu-7",
        agent_version="0.1.0",
        now=token.created_at,
    )
    assert node.pool_id == alice.pool.id
    assert "gpu-7" in operator.get("/nodes").content.decode()


def test_to_others_the_page_does_not_exist(alice: House) -> None:
    client = signed_in(alice.owner)
    assert b">Fleet<" not in client.get("/endpoints").content
    assert client.get("/nodes").status_code == 404
    assert client.post("/nodes/enrol", {"pool": alice.pool.id}).status_code == 404
    assert not EnrollmentToken.objects.exists()


def test_an_operator_without_an_organization_reaches_the_nodes(region: None) -> None:
    client = signed_in(house.user("ops@stoa.example", operator=True))
    assert client.get("/nodes").status_code == 200
    assert b">Fleet<" in client.get("/endpoints").content


def test_what_a_node_did_is_the_operators_to_see(alice: House, operator: Client) -> None:
    event = wire.NodeEvent(
        id="1",
        at="2026-03-04T11:59:58+00:00",
        kind="device_clean",
        detail={
            **{"device": 3, "memory_bytes": 7, "from_organization": "org_before"},
            "to_organization": alice.organization.id,
        },
    )
    node_events.note(node=alice.node, events=[event], now=timezone.now())
    text = operator.get(f"/nodes/{alice.node.id}/events").content.decode()
    for part in ("device clean", "org_before", alice.organization.name, "memory_bytes=7", "2026"):
        assert part in text, part
    assert operator.get("/nodes/node_nothing/events").status_code == 404
    (said,) = operator.get(f"/api/v1/nodes/{alice.node.id}/events").json()["data"]
    assert (said["device"], said["detail"]) == (3, {"memory_bytes": 7})
    none = operator.get(f"/api/v1/nodes/{alice.node.id}/events?kind=device_dirty").json()
    assert none["data"] == []


def test_what_a_node_did_is_nobody_elses(alice: House) -> None:
    for path in (f"/nodes/{alice.node.id}/events", f"/api/v1/nodes/{alice.node.id}/events"):
        assert signed_in(alice.owner).get(path).status_code == 404


def test_a_release_of_the_agent_is_brought_to_a_pool(alice: House, operator: Client) -> None:
    answer = operator.post("/nodes/rollouts", {"pool": alice.pool.id}, follow=True)
    rollout = AgentRollout.objects.get()
    text = answer.content.decode()
    assert f"{rollout.release.version} goes to {alice.pool.name}" in text and "Abort" in text
    AgentRollout.objects.update(state="halted", halt_reason="gpu-1: it hung")
    text = operator.get("/nodes").content.decode()
    assert "gpu-1: it hung" in text and "Resume" in text
    for verb, state in (("resume", "running"), ("abort", "aborted")):
        operator.post(f"/nodes/rollouts/{rollout.id}/{verb}")
        rollout.refresh_from_db()
        assert rollout.state == state
    answer = operator.post(f"/nodes/rollouts/{rollout.id}/resume", follow=True)
    assert b"Only a rollout that was halted" in answer.content
    assert operator.post(f"/nodes/rollouts/{rollout.id}/explode").status_code == 404
    assert operator.post("/nodes/rollouts", {"pool": "pool_nothing"}).status_code == 404
    client = signed_in(alice.owner)
    assert client.post("/nodes/rollouts", {"pool": alice.pool.id}).status_code == 404


def test_one_that_has_left_is_listed_with_its_record(alice: House, operator: Client) -> None:
    now = timezone.now()
    assert "Left the fleet" not in operator.get("/nodes").content.decode()
    row = decommissioning.begin(
        node=alice.node, reason="old", unconfirmed=True, actor=audit.SYSTEM, now=now
    )
    Replica.objects.filter(node=alice.node).update(state="failed", released_at=now)
    decommissioning.tend(now=now)
    text = operator.get("/nodes").content.decode()
    assert "Left the fleet" in text and f"/nodes/{alice.node.id}/record/{row.id}" in text
