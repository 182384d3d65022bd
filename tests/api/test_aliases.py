"""Aliases over HTTP: they name what is there, shadow nothing, and are edited and deleted."""

import json
from typing import Any

import pytest

from compliance.models import AuditEvent
from controlplane.endpoints.models import Alias
from tests.api.house import House, post, signed_in, with_key

ENDPOINT = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "device_kind": "cpu", "min_replicas": 0}


def create(alice: House, **changed: Any) -> Any:
    body = {"project": alice.project.id, "name": "openai/gpt-4.1", "targets": ["chat"], **changed}
    return post(with_key(alice.secret), "/aliases", body)


def test_an_alias_is_made_looked_at_edited_and_deleted(alice: House) -> None:
    client = with_key(alice.secret)
    made = create(alice)
    assert made.status_code == 201, made.content
    assert made.json()["fallback_on"] == ["no_capacity"]
    adapter = [{"name": "poet", "path": "org/poet"}]
    second = {"project": alice.project.id, "name": "small", **ENDPOINT, "adapters": adapter}
    assert post(client, "/endpoints", second).status_code == 201
    path = f"/api/v1/aliases/{made.json()['id']}"
    wish = {"targets": ["small:poet", "chat"], "fallback_on": ["context_overflow"]}
    for _ in range(2):  # the second time changes nothing
        changed = client.patch(path, json.dumps(wish), content_type="application/json")
        assert changed.status_code == 200, changed.content
    assert {name: changed.json()[name] for name in wish} == wish
    listed = client.get("/api/v1/aliases", {"project": alice.project.id}).json()["data"]
    assert [one["name"] for one in listed] == ["openai/gpt-4.1", "gpt-4o"]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    events = AuditEvent.objects.filter(target_id=made.json()["id"]).order_by("id")
    assert [event.action for event in events] == ["alias.create", "alias.update", "alias.delete"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a:b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "ep_01k00000000000000000000000"}, "name"),
        ({"targets": []}, "targets"),
        ({"targets": ["chat", "chat"]}, "targets"),
        ({"targets": ["nothing"]}, "targets"),
        ({"targets": ["chat:nothing"]}, "targets"),
        ({"targets": ["gpt-4o"]}, "targets"),  # an alias of an alias
        ({"fallback_on": ["bad_mood"]}, "fallback_on"),
    ],
)
def test_what_cannot_be_an_alias_is_refused(
    alice: House, wrong: dict[str, Any], field: str
) -> None:
    answer = create(alice, **wrong)
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert field in (problem.get("field"), *(one["field"] for one in problem.get("errors", ())))
    assert Alias.objects.count() == 1


def test_a_name_is_an_endpoints_or_an_aliass(alice: House) -> None:
    for name in ("chat", "gpt-4o"):
        answer = create(alice, name=name)
        assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")
    assert create(alice, name="taken").status_code == 201
    wish = {"project": alice.project.id, "name": "taken", **ENDPOINT}
    answer = post(with_key(alice.secret), "/endpoints", wish)
    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")


def test_another_projects_endpoint_is_no_target(alice: House, mallory: House) -> None:
    post(with_key(mallory.secret), "/endpoints", {"project": mallory.project.id, "name": "theirs"})
    assert create(alice, targets=["theirs"]).status_code == 422
    assert create(alice, targets=[mallory.endpoint.id]).status_code == 422


def test_who_may_only_look_changes_nothing(alice: House) -> None:
    path = f"/api/v1/aliases/{alice.alias.id}"
    for client in (with_key(alice.reader), signed_in(alice.billing)):
        assert client.get(path).status_code == 200
        assert client.delete(path).status_code == 403
        body = {"project": alice.project.id, "name": "x", "targets": ["chat"]}
        assert post(client, "/aliases", body).status_code == 403
