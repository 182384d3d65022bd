"""Secrets by the API: what goes in, and that no answer gives it out again."""

import json
from typing import Any

from compliance.models import AuditEvent
from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import ProjectSecret
from tests.api.house import House, post, signed_in, with_key

TOKEN = "hf_canary_456"


def test_a_secret_goes_in_and_never_comes_out(alice: House) -> None:
    client = with_key(alice.secret)
    body = {"project": alice.project.id, "kind": "hub", "value": {"token": TOKEN}}
    made = post(client, "/secrets", body, **{"idempotency-key": "one"})
    assert made.status_code == 201, made.content
    again = post(client, "/secrets", body, **{"idempotency-key": "one"})
    assert again.json() == made.json()
    id = made.json()["id"]
    path = f"/api/v1/secrets/{id}"
    changed = client.put(
        path, data=json.dumps({"value": {"token": f"{TOKEN}b"}}), content_type="application/json"
    )
    assert changed.status_code == 200
    answers = [made, changed, client.get(path), client.get("/api/v1/secrets")]
    assert not [one for one in answers if TOKEN in one.content.decode()]
    assert answers[2].json()["name"] == "default"
    found = ProjectSecret.objects.select_related("project").get(pk=id)
    assert project_secrets.unsealed(found) == {"token": f"{TOKEN}b"}
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert not [e for e in AuditEvent.objects.all() if TOKEN.encode() in bytes(e.body)]


def test_a_bad_value_is_not_repeated(alice: House) -> None:
    body: dict[str, Any] = {"project": alice.project.id, "kind": "s3"}
    body["value"] = {"endpoint_url": "http://10.0.0.1", "access_key_id": TOKEN}
    answer = post(with_key(alice.secret), "/secrets", body)
    assert answer.status_code == 422
    assert TOKEN not in answer.content.decode()


def test_who_may_not_manage_them(alice: House, mallory: House) -> None:
    body = {"project": alice.project.id, "kind": "hub", "value": {"token": TOKEN}}
    assert post(with_key(alice.reader), "/secrets", body).status_code == 403
    assert post(signed_in(alice.billing), "/secrets", body).status_code == 403
    assert post(with_key(mallory.secret), "/secrets", body).status_code == 404
    assert not ProjectSecret.objects.exists()


def test_an_endpoint_names_its_source_and_secret(alice: House) -> None:
    client = with_key(alice.secret)
    body = {"project": alice.project.id, "name": "gated", "model": "org/m", "device_kind": "cpu"}
    refused = post(client, "/endpoints", {**body, "secret": "mine"})
    assert (refused.status_code, refused.json()["field"]) == (422, "secret")
    secret = {"kind": "hub", "name": "mine", "value": {"token": TOKEN}}
    assert post(client, "/secrets", {"project": alice.project.id, **secret}).status_code == 201
    made = post(client, "/endpoints", {**body, "secret": "mine"})
    assert made.status_code == 201, made.content
    assert (made.json()["source"], made.json()["secret"]) == ("hub", "mine")
    refused = post(client, "/endpoints", {**body, "name": "x", "source": "ftp"})
    assert refused.json()["field"] == "source"
