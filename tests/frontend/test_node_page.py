"""One node's page: what is wrong with it, maintenance, and how it leaves."""

from datetime import timedelta

from django.test import Client
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import decommissioning
from controlplane.endpoints.models import Replica
from controlplane.fleet import findings, revoking, services, wire
from controlplane.fleet.models import Decommission, Device, Maintenance, Node
from controlplane.tenancy.models import Notice
from tests.api.house import House, signed_in


def page(alice: House) -> str:
    return f"/nodes/{alice.node.id}"


def test_it_says_what_is_wrong_with_its_cure(alice: House, operator: Client) -> None:
    now = timezone.now()
    Node.objects.filter(pk=alice.node.id).update(
        lease_until=now + timedelta(minutes=5),
        inventory={"serial": "MX-17", "devices": [{"kind": "nvidia-h200"}]},
    )
    Device.objects.create(
        **{"node": alice.node, "index": 4, "kind": "nvidia-h200", "name": "H200"},
        **{"memory_bytes": 1, "uuid": "GPU-4", "serial": "SN-4"},
    )
    bad = wire.Finding(
        check="gpu_ecc", severity=wire.Severity.CRITICAL, device=4, text="7 errors", cure="reset it"
    )
    findings.note(Node.objects.get(pk=alice.node.id), [bad], now)
    text = operator.get(page(alice)).content.decode()
    for part in ("GPUHealthy", "7 errors", "reset it", "MX-17", "SN-4", "GPU-4"):
        assert part in text, part
    assert "GPUHealthy" in operator.get("/nodes").content.decode()
    live = operator.get(page(alice), headers={"hx-request": "true"}).content.decode()
    assert live.lstrip().startswith('<div id="node-live"') and "Plan maintenance" not in live


def test_maintenance_is_planned_and_called_off(alice: House, operator: Client) -> None:
    now = timezone.now()
    form = {
        "starts_at": f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M}",
        "ends_at": f"{now + timedelta(hours=2):%Y-%m-%dT%H:%M}",
        "message": "New disks.",
        "take_back": "on",
    }
    answer = operator.post(f"{page(alice)}/maintenance", form, follow=True)
    assert b"New disks." in answer.content and b"1 organization" in answer.content
    planned = Maintenance.objects.get()
    assert planned.take_back and planned.starts_at > now
    assert Notice.objects.count() == 1
    again = operator.post(f"{page(alice)}/maintenance", form)
    assert again.status_code == 422 and b"at that time already" in again.content
    operator.post(f"{page(alice)}/cancel/{planned.id}")
    planned.refresh_from_db()
    assert planned.state == "cancelled"
    assert operator.post(f"{page(alice)}/cancel/mnt_nothing").status_code == 404


def test_a_node_leaves_when_its_name_is_typed(alice: House, operator: Client) -> None:
    form = {"reason": "old", "name": "another", "unconfirmed": "on"}
    refused = operator.post(f"{page(alice)}/decommission", form)
    assert refused.status_code == 422 and not Decommission.objects.exists()
    operator.post(f"{page(alice)}/decommission", form | {"name": alice.node.name})
    row = Decommission.objects.get()
    record = f"{page(alice)}/record/{row.id}"
    assert operator.get(record).status_code == 404
    Replica.objects.filter(node=alice.node).update(state="failed", released_at=timezone.now())
    decommissioning.tend(now=timezone.now())
    text = operator.get(page(alice)).content.decode()
    assert "Signed record" in text and "Decommission this node" not in text
    assert operator.get(record).json()["record"]["id"] == row.id


def test_one_that_does_not_answer_is_not_waited_for(alice: House, operator: Client) -> None:
    assert "Go on without its word" not in operator.get(page(alice)).content.decode()
    form = {"reason": "old", "name": alice.node.name}
    operator.post(f"{page(alice)}/decommission", form)
    text = operator.get(page(alice)).content.decode()
    assert "Go on without its word" in text and ">Uncordon<" not in text
    operator.post(f"{page(alice)}/decommission", form | {"unconfirmed": "on"})
    assert Decommission.objects.get().unconfirmed
    assert "Go on without its word" not in operator.get(page(alice)).content.decode()


def test_what_left_meanwhile_is_said_and_not_done(alice: House, operator: Client) -> None:
    services.remove_node(node=alice.node, actor=audit.SYSTEM, now=timezone.now())
    form = {"reason": "old", "name": alice.node.name}
    refused = operator.post(f"{page(alice)}/decommission", form, follow=True)
    assert b"was removed" in refused.content and not Decommission.objects.exists()
    for verb in ("cancel", "record"):
        ask = operator.post if verb == "cancel" else operator.get
        assert ask(f"{page(alice)}/{verb}/%00").status_code == 404


def test_it_is_cordoned_where_it_is_looked_at(alice: House, operator: Client) -> None:
    answer = operator.post(f"{page(alice)}/cordon", {"from": "node"})
    assert answer.headers["location"] == page(alice)
    assert ">Uncordon<" in operator.get(page(alice)).content.decode()


def test_a_device_is_replaced(alice: House, operator: Client) -> None:
    Device.objects.create(
        node=alice.node, index=4, kind="nvidia-h200", name="H200", memory_bytes=1, uuid="GPU-4"
    )
    answer = operator.post(f"{page(alice)}/devices/4/replace", follow=True)
    assert b"to be replaced" in answer.content
    row = Decommission.objects.get()
    operator.post(f"{page(alice)}/cancel/{row.id}")
    assert Device.objects.get(uuid="GPU-4").retiring_at is None
    refused = operator.post(f"{page(alice)}/devices/0/replace", follow=True)
    assert b"no device that could be replaced" in refused.content


def test_to_others_it_does_not_exist(alice: House) -> None:
    client = signed_in(alice.owner)
    assert client.get(page(alice)).status_code == 404
    for verb in ("maintenance", "decommission", "devices/0/replace", "cancel/mnt_x"):
        assert client.post(f"{page(alice)}/{verb}").status_code == 404
    assert not Decommission.objects.exists() and not Maintenance.objects.exists()


def test_its_certificate_is_revoked(alice: House, operator: Client) -> None:
    assert "Revoke its certificate" in operator.get(page(alice)).content.decode()
    answer = operator.post(f"{page(alice)}/revoke", follow=True)
    assert b"is cut off until a token for it lets it in again" in answer.content
    assert revoking.is_revoked(Node.objects.get(pk=alice.node.id).certificate_sha256)
    stranger = signed_in(alice.owner)
    assert stranger.post(f"{page(alice)}/revoke").status_code == 404
