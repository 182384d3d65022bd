"""What an organization's containers may reach, over the API: who may say so, and who may see it."""

import json
from typing import Any

from tests.api.house import House, signed_in, with_key


def put(client: Any, organization: str, allow: list[str]) -> Any:
    body = json.dumps({"allow": allow})
    path = f"/api/v1/organizations/{organization}/egress"
    return client.put(path, data=body, content_type="application/json")


def test_a_list_is_put_whole_and_read_back(alice: House) -> None:
    client, id = signed_in(alice.owner), alice.organization.id
    path = f"/api/v1/organizations/{id}/egress"
    assert client.get(path).json() == {
        "object": "egress",
        "organization": id,
        "allow": [],
        "reached": [],
    }
    done = put(client, id, ["API.example.com:443", "*.example.org:8443"])
    assert done.status_code == 200, done.content
    assert done.json()["allow"] == ["*.example.org:8443", "api.example.com:443"]
    assert client.get(path).json()["allow"] == done.json()["allow"]
    assert put(client, id, []).json()["allow"] == []


def test_what_is_none_is_said_by_name(alice: House) -> None:
    answer = put(signed_in(alice.owner), alice.organization.id, ["*:443"])
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid_destination"
    assert "*:443" in problem["detail"]


def test_who_may_not(alice: House, mallory: House) -> None:
    id = alice.organization.id
    assert put(signed_in(alice.billing), id, ["a.example:443"]).status_code == 403
    assert put(with_key(alice.secret), id, ["a.example:443"]).status_code == 403
    assert put(signed_in(mallory.owner), id, ["a.example:443"]).status_code == 404
    path = f"/api/v1/organizations/{id}/egress"
    assert signed_in(alice.billing).get(path).json()["allow"] == []
    assert signed_in(mallory.owner).get(path).status_code == 404
