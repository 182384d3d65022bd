"""Versions and rollouts over HTTP."""

from typing import Any

from django.test import Client

from tests.api.house import House, with_key


def send(client: Client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, body, content_type="application/json")


def test_change_list_compare_and_go_back(alice: House) -> None:
    client = with_key(alice.secret)
    path = f"/api/v1/endpoints/{alice.endpoint.id}"
    body = {"engine_args": {"max_num_seqs": 8}, "note": "fewer", "rollout": {"for_s": 5}}
    made = send(client, f"{path}/versions", body)
    assert made.status_code == 201, made.content
    version = made.json()
    assert (version["number"], version["note"]) == (2, "fewer")
    assert version["spec"]["engine_args"] == {"max_num_seqs": 8}
    assert version["created_by"] == alice.key_id
    listed = client.get(f"{path}/versions").json()["data"]
    assert [one["number"] for one in listed] == [2, 1]
    (first,) = client.get(f"{path}/versions", {"number": "1"}).json()["data"]
    assert client.get(f"/api/v1/versions/{first['id']}").json() == first
    diff = client.get(f"/api/v1/versions/{version['id']}/diff", {"against": "1"}).json()
    assert diff["differences"] == [
        {"field": "engine_args.max_num_seqs", "before": None, "after": 8}
    ]
    shown = client.get(path).json()
    assert shown["version"] == 2
    rollout = shown["rollout"]
    assert (rollout["state"], rollout["reason"]) == ("progressing", "starting")
    assert rollout["plan"]["for_s"] == 5
    assert "Progressing" in {one["type"] for one in shown["conditions"]}
    assert send(client, f"{path}/promote", {}).status_code == 422
    back = send(client, f"{path}/rollback", {"note": "no"})
    assert (back.status_code, back.json()["number"]) == (200, 1)
    (rollout,) = client.get(f"{path}/rollouts").json()["data"]
    assert (rollout["state"], rollout["reason"]) == ("aborted", "rolled_back")
    assert send(client, f"{path}/abort", {}).status_code == 422


def test_what_cannot_be_is_refused_with_its_field(alice: House) -> None:
    client = with_key(alice.secret)
    path = f"/api/v1/endpoints/{alice.endpoint.id}/versions"
    for body, field in (
        ({"device_count": 99}, "device_count"),
        ({"rollout": {"strategy": "sudden"}}, "rollout.strategy"),
        ({"rollout": {"share": 10}}, "rollout.strategy"),
        ({"rollout": {"strategy": "canary", "share": 0}}, "rollout.share"),
        ({"rollout": {"strategy": "canary", "for_s": -1}}, "rollout.for_s"),
        ({"rollout": {"max_latency_ratio": 0.5}}, "rollout.max_latency_ratio"),
        ({"note": "two\nlines"}, "note"),
    ):
        refused = send(client, path, body)
        assert refused.status_code == 422, body
        problem = refused.json()
        named = problem.get("field") or problem["errors"][0]["field"]
        assert named == field
    assert send(with_key(alice.reader), path, {"revision": "x"}).status_code == 403
