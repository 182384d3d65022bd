"""How nodes are, maintenance and leaving, by the API of the operator."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from compliance.models import AuditEvent
from controlplane.endpoints import decommissioning
from controlplane.endpoints.models import Replica
from controlplane.fleet import findings, records, wire
from controlplane.fleet.models import Device, Node, Pool
from tests.api import house
from tests.api.house import House, post, signed_in


@pytest.fixture
def operator(region: None) -> Client:
    return signed_in(house.user("ops@stoa.example", operator=True))


def put(client: Client, path: str, body: Any) -> Any:
    return client.put(f"/api/v1{path}", data=json.dumps(body), content_type="application/json")


def test_a_node_shows_its_conditions_and_what_was_found(alice: House, operator: Client) -> None:
    now = timezone.now()
    Node.objects.filter(pk=alice.node.id).update(lease_until=now + timedelta(minutes=5))
    bad = wire.Finding(check="disk_free", severity=wire.Severity.CRITICAL, text="no room")
    node = Node.objects.get(pk=alice.node.id)
    findings.note(node, [bad], now)
    shown = operator.get(f"/api/v1/nodes/{node.id}").json()
    conditions = {one["type"]: one for one in shown["conditions"]}
    assert conditions["Ready"]["status"] == "True"
    assert conditions["DiskPressure"]["status"] == "True"
    assert conditions["DiskPressure"]["message"] == "no room"
    assert operator.get("/api/v1/nodes").json()["data"][0]["conditions"] == shown["conditions"]
    (found,) = operator.get(f"/api/v1/nodes/{node.id}/findings").json()["data"]
    assert (found["check"], found["severity"], found["ended_at"]) == (
        "disk_free",
        "critical",
        None,
    )


def test_a_pools_policy_is_changed_and_taken_back(alice: House, operator: Client) -> None:
    path = f"/pools/{alice.pool.id}/health-policy"
    default = operator.get(f"/api/v1{path}").json()
    assert default["rules"]["gpu_ecc"]["action"] == "drain" and default["changes"] == {}
    changed = put(operator, path, {"rules": {"gpu_ecc": {"action": "nothing"}}, "max_share": 0.5})
    assert changed.status_code == 200, changed.content
    assert changed.json()["rules"]["gpu_ecc"]["action"] == "nothing"
    assert (changed.json()["max_share"], changed.json()["braked"]) == (0.5, [])
    wrong = put(operator, path, {"rules": {"gpu_ecc": {"action": "explode"}}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "policy_invalid")
    assert put(operator, path, {}).json() == default
    assert Pool.objects.get(pk=alice.pool.id).health_policy == {}


def test_maintenance_is_planned_once_and_called_off(alice: House, operator: Client) -> None:
    now = timezone.now()
    body = {
        "node": alice.node.id,
        "starts_at": (now + timedelta(hours=1)).isoformat(),
        "ends_at": (now + timedelta(hours=2)).isoformat(),
        "message": "New disks.",
    }
    key = {"idempotency-key": "one"}
    made = post(operator, "/maintenances", body, **key)
    assert made.status_code == 201, made.content
    assert post(operator, "/maintenances", body, **key).json() == made.json()
    assert post(operator, "/maintenances", body).status_code == 422
    told = made.json()["told"]
    assert told == [alice.organization.id]
    (notice,) = signed_in(alice.owner).get("/api/v1/notices").json()["data"]
    assert "New disks." in notice["text"]
    id = made.json()["id"]
    assert post(operator, f"/maintenances/{id}/cancel").json()["state"] == "cancelled"
    assert operator.get(f"/api/v1/maintenances/{id}").json()["state"] == "cancelled"
    assert post(operator, "/maintenances", body | {"node": "node_none"}).status_code == 404


def test_a_node_is_decommissioned_and_its_record_downloaded(alice: House, operator: Client) -> None:
    body = {"node": alice.node.id, "reason": "burnt down", "unconfirmed": True}
    made = post(operator, "/decommissions", body)
    assert made.status_code == 201, made.content
    id = made.json()["id"]
    assert operator.get(f"/api/v1/decommissions/{id}/record").status_code == 404
    Replica.objects.filter(node=alice.node).update(state="failed", released_at=timezone.now())
    decommissioning.tend(now=timezone.now())
    assert operator.get(f"/api/v1/decommissions/{id}").json()["state"] == "done"
    answer = operator.get(f"/api/v1/decommissions/{id}/record")
    assert answer["content-disposition"] == f'attachment; filename="{id}.json"'
    (region,) = operator.get("/api/v1/regions").json()["data"]
    record = records.verify(answer.json(), region["record_public_key"])
    assert (record["reason"], record["confirmed"]) == ("burnt down", False)
    assert operator.get(f"/api/v1/nodes/{alice.node.id}").json()["status"] == "removed"
    late = post(operator, "/decommissions", body)
    assert (late.status_code, late.json()["code"]) == (422, "node_removed")


def test_a_device_is_replaced_by_its_index(alice: House, operator: Client) -> None:
    Device.objects.create(
        node=alice.node, index=5, kind="nvidia-h200", name="H200", memory_bytes=1, uuid="GPU-5"
    )
    body = {"node": alice.node.id, "reason": "rows", "device": 5}
    made = post(operator, "/decommissions", body).json()
    assert (made["device"], made["was"]["uuid"], made["state"]) == (5, "GPU-5", "draining")
    assert post(operator, f"/decommissions/{made['id']}/cancel").json()["state"] == "cancelled"
    assert post(operator, "/decommissions", body | {"device": 99}).status_code == 404
    assert post(operator, "/decommissions", body | {"device": 0}).status_code == 422
    assert AuditEvent.objects.filter(action="device.keep").count() == 1


def test_what_is_no_id_of_ours_names_nothing(operator: Client) -> None:
    for path in ("nodes/%00/findings", "nodes/%00/events", "pools/%00/health-policy"):
        assert operator.get(f"/api/v1/{path}").status_code == 404, path
