"""Audit events, exports, usage, costs and the schema over HTTP."""

import io
import json
import zipfile
from datetime import timedelta
from hashlib import sha256
from typing import Any

from django.utils import timezone

from billing.meters import usage
from billing.models import Meter
from compliance import exports
from tests.api.house import House, post, signed_in, with_key


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
    exports.build(export["id"], timezone.now())
    assert client.get(path).json()["status"] == "complete"
    file: Any = client.get(f"{path}/file")
    bundle = zipfile.ZipFile(io.BytesIO(b"".join(file.streaming_content)))
    file.close()
    manifest = json.loads(bundle.read("manifest.json"))
    for entry in manifest["files"]:
        assert sha256(bundle.read(entry["path"])).hexdigest() == entry["sha256"]
    assert "audit_events" in " ".join(bundle.namelist())
    assert "usage" in " ".join(bundle.namelist())


def test_an_export_needs_a_reason_and_the_permission(alice: House) -> None:
    body = {
        "organization": alice.organization.id,
        "reason": " ",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-11-02T00:00:00Z",
    }
    assert post(signed_in(alice.owner), "/exports", body).status_code == 422
    body["reason"] = "curious"
    assert post(signed_in(alice.billing), "/exports", body).status_code == 403
    assert post(with_key(alice.secret), "/exports", body).status_code == 403


def test_audit_events_show_bodies_and_filter(alice: House) -> None:
    client = signed_in(alice.owner)
    query = {"organization": alice.organization.id, "action": "endpoint.create"}
    events = client.get("/api/v1/audit-events", query).json()["data"]
    assert [event["target_id"] for event in events] == [alice.endpoint.id]
    assert events[0]["body"]["action"] == "endpoint.create"


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
