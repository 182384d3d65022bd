"""Audit events, exports, usage, costs and the schema over HTTP."""

import io
import json
import zipfile
from base64 import b64decode
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import AsyncClient, Client
from django.utils import timezone

from billing.meters import usage
from billing.models import Meter
from compliance import audit, exports
from compliance.log import checkpoints, merkle, notes, sequencer
from compliance.models import AuditEvent, Export
from controlplane.tenancy import services
from tests.api.house import NOW, PASSWORD, House, post, signed_in, with_key
from tests.logs import settle
from tests.signers import running


def test_an_export_from_request_to_file(alice: House) -> None:
    client = signed_in(alice.owner)
    now = timezone.now()
    asked = post(
        client,
        "/exports",
        {
            "organization": alice.organization.id,
            "reason": "quarterly review",
            "period_start": (now - timedelta(days=60)).isoformat(),
            "period_end": (now + timedelta(days=1)).isoformat(),
        },
    )
    assert asked.status_code == 202, asked.content
    export = asked.json()
    path = f"/api/v1/exports/{export['id']}"
    assert client.get(path).json()["status"] == "building"
    assert client.get(f"{path}/file").status_code == 409
    with running():
        settle(timezone.now())
        exports.build(export["id"], timezone.now())
    assert client.get(path).json()["status"] == "complete"
    built = Export.objects.get().completed_at
    Export.objects.update(completed_at=now - exports.KEPT)
    assert client.get(f"{path}/file").status_code == 410
    assert client.get(path).json()["status"] == "expired"
    Export.objects.update(completed_at=built)
    file: Any = client.get(f"{path}/file")
    bundle = zipfile.ZipFile(io.BytesIO(b"".join(file.streaming_content)))
    file.close()
    manifest = json.loads(bundle.read("manifest.json"))
    for entry in manifest["files"]:
        assert sha256(bundle.read(entry["path"])).hexdigest() == entry["sha256"]
    assert "audit_events" in " ".join(bundle.namelist())
    assert "usage" in " ".join(bundle.namelist())


def test_a_bundle_comes_in_pieces_as_the_web_process_sends_it(alice: House) -> None:
    client = signed_in(alice.owner)
    now = timezone.now()
    body = {
        "organization": alice.organization.id,
        "reason": "quarterly review",
        "period_start": (now - timedelta(days=60)).isoformat(),
        "period_end": (now + timedelta(days=1)).isoformat(),
    }
    export = post(client, "/exports", body).json()["id"]
    with running():
        settle(timezone.now())
        whole = exports.archive(exports.build(export, timezone.now())).read_bytes()

    async def fetched(**headers: str) -> tuple[int, bytes]:
        browser = AsyncClient()
        browser.cookies = client.cookies
        answer: Any = await browser.get(f"/api/v1/exports/{export}/file", headers=headers)
        assert answer.is_async
        return answer.status_code, b"".join([piece async for piece in answer.streaming_content])

    assert async_to_sync(fetched)() == (200, whole)
    assert async_to_sync(fetched)(range="bytes=100-") == (206, whole[100:])


def test_an_export_needs_a_reason_and_the_permission(alice: House) -> None:
    body = {
        "organization": alice.organization.id,
        "reason": " ",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-11-02T00:00:00Z",
    }
    assert post(signed_in(alice.owner), "/exports", body).status_code == 422
    body["reason"] = "curious"
    for field, value in (("kind", "gossip"), ("profile", "some")):
        assert post(signed_in(alice.owner), "/exports", {**body, field: value}).status_code == 422
    assert post(signed_in(alice.billing), "/exports", body).status_code == 403
    assert post(with_key(alice.secret), "/exports", body).status_code == 403


def test_the_operators_own_log_is_exported_by_operators_alone(
    alice: House, operator: Client
) -> None:
    body = {
        "log": "platform",
        "kind": "audit_log",
        "reason": "yearly audit",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-11-02T00:00:00Z",
    }
    asked = post(operator, "/exports", body)
    assert asked.status_code == 202, asked.content
    path = f"/api/v1/exports/{asked.json()['id']}"
    assert asked.json()["organization"] == "platform"
    assert operator.get("/api/v1/exports?log=platform").json()["data"]
    assert post(signed_in(alice.owner), "/exports", body).status_code == 404
    for client in (signed_in(alice.owner), with_key(alice.secret)):
        assert client.get(path).status_code == 404
        assert client.get("/api/v1/exports?log=platform").status_code == 404


def test_audit_events_show_bodies_and_filter(alice: House) -> None:
    client = signed_in(alice.owner)
    query = {"organization": alice.organization.id, "action": "endpoint.create"}
    events = client.get("/api/v1/audit-events", query).json()["data"]
    assert [event["target_id"] for event in events] == [alice.endpoint.id]
    assert events[0]["body"]["action"] == "endpoint.create"

    client = signed_in(alice.owner)
    at = AuditEvent.objects.get(action="endpoint.create", target_id=alice.endpoint.id).recorded_at
    for wanted, there in (
        ({"action": "endpoint.*", "target": alice.endpoint.id}, True),
        ({"action": "endpoint.*", "outcome": "denied"}, False),
        ({**query, "since": at.isoformat()}, True),
        ({**query, "until": at.isoformat()}, False),
        ({**query, "actor": "usr_x"}, False),
    ):
        said = {"organization": alice.organization.id, **wanted}
        assert bool(client.get("/api/v1/audit-events", said).json()["data"]) is there, wanted
    assert client.get("/api/v1/audit-events", {**query, "since": "soon"}).status_code == 422


def test_what_the_operator_reads_of_his_own_log_is_an_event(alice: House, operator: Client) -> None:
    read = {"log": "platform"}
    assert signed_in(alice.owner).get("/api/v1/audit-events", read).status_code == 404
    assert operator.get("/api/v1/audit-events", read).json()["data"]
    assert AuditEvent.objects.filter(log_id="platform", action="log.read").count() == 1


def test_what_a_role_does_not_allow_is_an_event_although_nothing_happened(alice: House) -> None:
    for _ in range(3):
        client = signed_in(alice.billing)
        assert client.delete(f"/api/v1/endpoints/{alice.endpoint.id}").status_code == 403
        assert client.get("/evidence", {"organization": alice.organization.id}).status_code == 403
    denied = AuditEvent.objects.filter(action="access.deny", log_id=alice.organization.id)
    assert {one.actor_id for one in denied} == {alice.billing.id}
    reasons = sorted(json.loads(bytes(one.body))["outcome"]["reason_code"] for one in denied)
    assert reasons == ["needs_export", "needs_manage_endpoints"]


def test_what_broke_here_is_an_event_although_it_was_rolled_back(
    alice: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(**_: Any) -> None:
        with transaction.atomic():
            audit.record(
                actor=audit.SYSTEM,
                action="endpoint.stop",
                target=audit.Target("endpoint", alice.endpoint.id),
                log=alice.organization.id,
                now=NOW,
            )
            raise ZeroDivisionError

    monkeypatch.setattr("controlplane.endpoints.services.stop", break_down)
    client = signed_in(alice.owner)
    client.raise_request_exception = False
    for path in ("/api/v1/endpoints/{}/stop", "/endpoints/{}/stop"):
        assert client.post(path.format(alice.endpoint.id)).status_code == 500
    ours = AuditEvent.objects.filter(log_id=alice.organization.id)
    failed = ours.filter(action="request.fail", outcome="failure", actor_id=alice.owner.id)
    assert failed.count() == 2
    assert not ours.filter(action="endpoint.stop").exists()


def test_an_event_is_proved_over_http_to_its_own_alone(alice: House, mallory: House) -> None:
    client = signed_in(alice.owner)
    ours = {"organization": alice.organization.id}
    event = AuditEvent.objects.filter(log_id=alice.organization.id).latest("id")
    asked = {"event": event.id}
    assert client.get("/api/v1/audit/checkpoint", ours).status_code == 404
    assert client.get("/api/v1/audit/inclusion", asked).json()["code"] == "not_yet"
    with running():
        for _ in range(2):  # heads, and then the meta log's
            while sequencer.sequence(NOW):
                pass
            checkpoints.sign_due(NOW)
        head = client.get("/api/v1/audit/checkpoint", ours).json()
    key = notes.parse_vkey(head["vkey"])
    signed = notes.parse_checkpoint(notes.open_note(head["note"], [key]))
    assert (signed.origin, signed.size) == (head["origin"], head["size"])
    assert head["meta"]["index"] < head["meta"]["size"]
    found = client.get("/api/v1/audit/inclusion", asked).json()
    proof = [b64decode(one) for one in found["proof"]]
    leaf = merkle.leaf_hash(found["body"].encode())
    assert merkle.included(leaf, found["index"], found["size"], proof, signed.root)
    path = "/api/v1/audit/consistency"
    assert client.get(path, {**ours, "from": head["size"]}).json()["proof"] == []
    assert client.get(path, {**ours, "from": "-1"}).status_code == 422
    assert client.get(path, {**ours, "from": head["size"] + 1}).status_code == 422
    stranger = signed_in(mallory.owner)
    for where, query in (("checkpoint", ours), ("inclusion", asked), ("consistency", ours)):
        assert stranger.get(f"/api/v1/audit/{where}", query).status_code == 404
    theirs = AuditEvent.objects.filter(log_id="platform").latest("id")
    assert client.get("/api/v1/audit/inclusion", {"event": theirs.id}).status_code == 404


def test_a_log_is_sent_to_an_address_until_that_is_ended(alice: House) -> None:
    client = signed_in(alice.owner)
    body = {
        "organization": alice.organization.id,
        "kind": "events",
        "via": "webhook",
        "address": "https://siem.example.eu/in?token=hush",
    }
    made = post(client, "/log-subscriptions", body)
    assert made.status_code == 201, made.content
    assert made.json()["secret"].startswith("whsec_")
    path = f"/api/v1/log-subscriptions/{made.json()['subscription']['id']}"
    shown = client.get(path)
    assert shown.json()["host"] == "siem.example.eu"
    assert b"hush" not in shown.content and b"whsec_" not in shown.content
    refused = post(client, "/log-subscriptions", {**body, "address": "http://siem.example.eu"})
    assert (refused.status_code, refused.json()["field"]) == (422, "address")
    assert post(signed_in(alice.billing), "/log-subscriptions", body).status_code == 403
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    told = AuditEvent.objects.filter(action__startswith="log.", log_id=alice.organization.id)
    assert [one.action for one in told] == ["log.subscribe", "log.unsubscribe"]


def test_a_key_for_evidence_reaches_its_organization_s_log(alice: House, mallory: House) -> None:
    wish = {"project": alice.project.id, "name": "siem", "scopes": ["evidence"]}
    assert post(with_key(alice.secret), "/api-keys", wish).status_code == 403
    developer = services.create_user(
        actor=audit.SYSTEM, email="dev@example.eu", password=PASSWORD, now=timezone.now()
    )
    services.add_member(
        actor=audit.SYSTEM,
        organization=alice.organization,
        user=developer,
        role="developer",
        now=timezone.now(),
    )
    assert post(signed_in(developer), "/api-keys", wish).status_code == 403
    made = post(signed_in(alice.owner), "/api-keys", wish)
    assert made.status_code == 201, made.content
    again = f"/api-keys/{made.json()['id']}/rotate"
    assert post(signed_in(developer), again, {"overlap_s": 0}).status_code == 403

    client, ours = with_key(made.json()["secret"]), {"organization": alice.organization.id}
    theirs = {"organization": mallory.organization.id}
    for path in ("/audit-events", "/log-subscriptions", "/exports", "/controls"):
        assert client.get(f"/api/v1{path}", ours).status_code == 200
        assert client.get(f"/api/v1{path}", theirs).status_code == 404
        assert client.get(f"/api/v1{path}", {"log": "platform"}).status_code == 404
    body = {"kind": "events", "via": "webhook", "address": "https://siem.example.eu/in"}
    sent = post(client, "/log-subscriptions", {**ours, **body})
    assert sent.status_code == 201, sent.content
    told = AuditEvent.objects.get(action="log.subscribe", log_id=alice.organization.id)
    assert (told.actor_type, told.actor_id) == ("api_key", made.json()["id"])
    path = f"/api/v1/log-subscriptions/{sent.json()['subscription']['id']}"
    assert client.delete(path).status_code == 204
    # It does nothing else: no endpoint, no key, no member.
    wish = {"project": alice.project.id, "name": "more", "scopes": ["read"]}
    assert post(client, "/api-keys", wish).status_code == 403
    assert with_key(alice.secret).get("/api/v1/log-subscriptions", ours).status_code == 403


def test_usage_and_costs_of_a_project(alice: House, mallory: House) -> None:
    now = timezone.now()
    usage.record(
        usage.Event(
            id=f"{house.replica.id}:siv_x:0",
            at=now - timedelta(minutes=1),
            account_id=house.organization.account_id,
            project_id=house.project.id,
            endpoint_id=house.endpoint.id,
            replica_id=house.replica.id,
            region="eu-de-1",
            device_kind="cpu",
            meter=Meter.DEVICE_SECONDS,
            basis="charge",
            quantity=60,
        )
        for house in (alice, mallory)
    )
    client = with_key(alice.secret)
    query = {"from": (now - timedelta(hours=1)).isoformat()}
    events = client.get("/api/v1/usage", query).json()["data"]
    assert [event["endpoint"] for event in events] == [alice.endpoint.id]
    costs = client.get("/api/v1/costs", {**query, "by": "endpoint"}).json()
    assert costs["unpriced"] or costs["rows"]
    assert isinstance(costs["charge"], str)
    assert client.get("/api/v1/costs", {"by": "weather"}).status_code == 422
    leap = client.get("/api/v1/costs", {**query, "from": "2016-12-31T23:59:60Z"}).json()
    assert leap["start"] == "2017-01-01T00:00:00Z"
    for by in ("organization", "agent", "run"):
        (row,) = client.get("/api/v1/costs", {**query, "by": by}).json()["rows"]
        assert (row["key"], row["exact"]) == ("", costs["charge_exact"])
    assert client.get("/api/v1/usage", {"from": "yesterday"}).status_code == 422


def test_the_schema_is_complete(alice: House) -> None:
    answer = with_key(alice.secret).get("/api/v1/schema", headers={"accept": "application/json"})
    paths = json.loads(answer.content)["paths"]
    assert "/api/v1/endpoints" in paths
    assert "post" in paths["/api/v1/endpoints/{id}/stop"]
