"""Keys and limits over HTTP: edited, rotated under one id, and refused by the field."""

import json
from typing import Any

import pytest
from django.test import Client

from controlplane.tenancy.models import ApiKey
from tests.api.house import House, post, signed_in, with_key

RATES = {
    "requests_per_minute": 600,
    "input_tokens_per_minute": 100_000,
    "output_tokens_per_minute": 20_000,
    "concurrency": 32,
}


def patch(client: Client, path: str, body: Any) -> Any:
    return client.patch(f"/api/v1{path}", json.dumps(body), content_type="application/json")


def test_a_key_is_made_with_limits_and_edited(alice: House) -> None:
    client = with_key(alice.secret)
    wish = {"project": alice.project.id, "name": "n", "networks": ["10.1.2.3"], **RATES}
    made = post(client, "/api-keys", wish).json()
    assert made["networks"] == ["10.1.2.3/32"]
    assert {name: made[name] for name in RATES} == RATES
    path = f"/api-keys/{made['id']}"
    edited = patch(client, path, {"concurrency": None, "priority": 7, "allowed_models": ["chat"]})
    assert edited.status_code == 200, edited.content
    shown = client.get(f"/api/v1{path}").json()
    assert shown == edited.json()
    assert (shown["concurrency"], shown["priority"]) == (None, 7)
    assert shown["requests_per_minute"] == 600  # absent in the body: it stays
    assert shown["allowed_models"] == ["chat"]


def test_a_key_rotates_under_one_id_and_shows_the_use_of_each_secret(alice: House) -> None:
    client = signed_in(alice.owner)
    path = f"/api-keys/{alice.key_id}"
    rotated = post(client, f"{path}/rotate", {"overlap_s": 3600})
    assert rotated.status_code == 201, rotated.content
    body = rotated.json()
    assert body["id"] == alice.key_id
    assert body["secret"].startswith(f"{body['prefix']}-")
    for secret in (alice.secret, body["secret"]):
        assert with_key(secret).get("/api/v1/projects").status_code == 200
    shown = client.get(f"/api/v1{path}").json()
    assert "secret" not in shown
    newest, oldest = shown["secrets"]
    assert [newest["prefix"], oldest["prefix"]] == [body["prefix"], alice.secret[:16]]
    assert newest["expires_at"] is None
    assert oldest["expires_at"] is not None
    assert newest["last_used_at"]
    assert oldest["last_used_at"]
    assert post(client, f"{path}/rotate", {"overlap_s": 0}).status_code == 201
    assert with_key(body["secret"]).get("/api/v1/projects").status_code == 401


def test_a_rotation_that_is_repeated_happens_once(alice: House) -> None:
    client, path = signed_in(alice.owner), f"/api-keys/{alice.key_id}/rotate"
    first, again = (post(client, path, {}, **{"idempotency-key": "k"}) for _ in range(2))
    assert first.json()["secret"] == again.json()["secret"]
    assert len(again.json()["secrets"]) == 2


def test_projects_and_organizations_are_limited_by_who_runs_them(alice: House) -> None:
    owner = signed_in(alice.owner)
    paths = (f"/projects/{alice.project.id}", f"/organizations/{alice.organization.id}")
    for path in paths:
        changed = patch(owner, path, RATES)
        assert changed.status_code == 200, changed.content
        assert {name: changed.json()[name] for name in RATES} == RATES
        # A key that manages its project does not lift the limits that others set for it.
        for client in (with_key(alice.secret), signed_in(alice.billing)):
            assert patch(client, path, {"concurrency": None}).status_code == 403
        assert owner.get(f"/api/v1{path}").json()["concurrency"] == 32


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"concurrency": "many"}, "concurrency"),
        ({"networks": ["10.0.0.1/8"]}, "networks"),
        ({"networks": "10.0.0.0/8"}, "networks"),
        ({"priority": None}, "priority"),
        ({"priority": 1000}, "priority"),
    ],
)
def test_a_wrong_limit_is_refused_by_its_field(
    alice: House, wrong: dict[str, Any], field: str
) -> None:
    answer = patch(with_key(alice.secret), f"/api-keys/{alice.key_id}", wrong)
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert field in (problem.get("field"), *(one["field"] for one in problem.get("errors", ())))


def test_a_revoked_key_is_neither_edited_nor_rotated(alice: House) -> None:
    client, path = signed_in(alice.owner), f"/api-keys/{alice.key_id}"
    assert client.delete(f"/api/v1{path}").status_code == 200
    assert patch(client, path, {"priority": 1}).json()["code"] == "key_revoked"
    assert post(client, f"{path}/rotate", {}).json()["code"] == "key_ended"


def test_only_who_manages_keys_rotates_them(alice: House) -> None:
    path = f"/api-keys/{alice.key_id}"
    for client in (with_key(alice.reader), signed_in(alice.billing)):
        assert post(client, f"{path}/rotate", {}).status_code == 403
        assert patch(client, path, {"priority": 1}).status_code == 403
    assert ApiKey.objects.get(id=alice.key_id).secrets.count() == 1
