"""Endpoints over HTTP: created as asked, refused with the field and the reason, nothing between."""

from typing import Any

import pytest
from django.utils import timezone

from compliance.models import AuditEvent
from controlplane.endpoints.models import Endpoint, ModelFacts
from controlplane.placement import devices
from tests.api.house import House, post, signed_in, with_key
from tests.benchmarks import predict as bench
from tests.benchmarks.memory import truth


def body(alice: House, **changed: Any) -> dict[str, Any]:
    asked = {
        "project": alice.project.id,
        "name": "answers",
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "device_kind": "cpu",
        "engine_args": {"max_model_len": 2048},
    }
    return {**asked, **changed}


def gpu(house: House) -> None:
    """Its node has an L4 each in place of its CPUs, and everybody knows a model of 8B."""
    memory = devices.find("l4").memory_bytes
    house.node.devices.update(kind="nvidia-l4", memory_bytes=memory)
    config = truth.configuration(bench.CONFIGS, "Llama-3.1-8B-Instruct")
    ModelFacts.objects.create(
        source="hub", model="org/large", config=config, seen_at=timezone.now()
    )


def test_create_look_scale_stop_start_delete(alice: House) -> None:
    client = with_key(alice.secret)
    made = post(client, "/endpoints", body(alice, min_replicas=0))
    assert made.status_code == 201, made.content
    shown = made.json()
    assert shown["id"].startswith("ep_")
    assert shown["status"] == "scaled_to_zero"
    assert shown["engine_args"] == {"max_model_len": 2048}
    assert shown["region"] == "eu-de-1"
    path = f"/api/v1/endpoints/{shown['id']}"
    assert client.get(path).json()["name"] == "answers"
    listed = client.get("/api/v1/endpoints", {"name": "answers"}).json()
    assert [one["id"] for one in listed["data"]] == [shown["id"]]
    scaled = client.patch(path, {"max_replicas": 3}, content_type="application/json")
    assert scaled.json()["max_replicas"] == 3
    assert (scaled.json()["queue_limit"], scaled.json()["queue_s"]) == (None, None)
    queue = {"queue_limit": 20, "queue_s": 0}
    queued = client.patch(path, queue, content_type="application/json").json()
    assert {name: queued[name] for name in queue} == queue
    assert shown["ttft_target_s"] == 1.0
    quicker = client.patch(path, {"ttft_target_s": 0.5}, content_type="application/json").json()
    assert (quicker["ttft_target_s"], quicker["version"]) == (0.5, shown["version"])
    for bad in (0, 61):
        refused = client.patch(path, {"ttft_target_s": bad}, content_type="application/json")
        assert (refused.status_code, refused.json()["field"]) == (422, "ttft_target_s")
    freed = client.patch(path, {"queue_s": None}, content_type="application/json").json()
    assert (freed["queue_limit"], freed["queue_s"]) == (20, None)
    assert client.post(f"{path}/stop").json()["status"] == "stopped"
    assert client.post(f"{path}/start").json()["status"] in ("pending", "scaled_to_zero")
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    actions = AuditEvent.objects.filter(target_id=shown["id"]).values_list("action", flat=True)
    wanted = ("create", "scale", "stop", "start", "delete")
    assert set(actions) == {f"endpoint.{verb}" for verb in wanted}


def test_what_cannot_fit_is_refused_with_the_numbers(alice: House) -> None:
    gpu(alice)
    client = with_key(alice.secret)
    asked = body(alice, model="org/large", device_kind="nvidia-l4", engine_args={})
    refused = post(client, "/endpoints", asked)
    told = refused.json()
    assert (refused.status_code, told["code"]) == (422, "does_not_fit")
    assert told["field"] == "engine_args.max_model_len"
    assert told["prediction"]["kv_bytes_per_request"] == 16 << 30
    (shorter,) = (
        one["value"] for one in told["prediction"]["advice"] if one["argument"] == "max_model_len"
    )
    made = post(client, "/endpoints", asked | {"engine_args": {"max_model_len": int(shorter)}})
    assert (made.status_code, made.json()["warnings"]) == (201, [])
    path = f"/endpoints/{made.json()['id']}/versions"
    changed = post(client, path, {"engine_args": {"max_model_len": 4096}})
    assert changed.json()["outlook"]["verdict"] == "fits"
    changed = post(client, path, {"engine_args": {"max_model_len": 131_072}})
    assert (changed.status_code, changed.json()["code"]) == (422, "does_not_fit")
    unseen = post(client, "/endpoints", asked | {"name": "unseen", "model": "org/unseen"})
    (said,) = unseen.json()["warnings"]
    assert "the config.json of org/unseen" in said


def test_how_it_follows_traffic_and_clock(alice: House) -> None:
    client = with_key(alice.secret)
    schedule = {"cron": "0 8 * * mon-fri", "time_zone": "Europe/Berlin", "duration_s": 36000}
    cap = {"seconds": 600, "euro": "2.50"}
    asked = body(alice, min_replicas=0, max_replicas=8, schedules=[schedule], keep_warm_cap=cap)
    shown = post(client, "/endpoints", asked).json()
    assert (shown["keep_alive"], shown["scale_to_zero_timeout_s"]) == ("predictable", 3600)
    assert shown["schedules"] == [schedule | {"replicas": 1}]
    assert shown["keep_warm_cap"] == cap | {"time_zone": "UTC"}
    path = f"/api/v1/endpoints/{shown['id']}"
    changed: dict[str, Any] = {"keep_alive": "automatic", "keep_warm_cap": None, "schedules": []}
    found = client.patch(path, changed, content_type="application/json").json()
    assert {name: found[name] for name in changed} == changed
    burst = {"workers": 20, "in_s": 180}
    declared = client.post(f"{path}/bursts", burst, content_type="application/json").json()
    (one,) = declared["bursts"]
    assert (one["workers"], one["sequences"]) == (20, 1)
    for bad, field in (({"workers": 20, "in_s": -1}, "in_s"), ({"workers": 0}, "bursts")):
        refused = client.post(f"{path}/bursts", bad, content_type="application/json")
        assert refused.status_code == 422
        assert refused.json()["field"] == field
    gone = client.patch(path, {"bursts": []}, content_type="application/json").json()
    assert gone["bursts"] == []
    actions = AuditEvent.objects.filter(target_id=shown["id"], action="endpoint.burst")
    assert actions.count() == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": "bad\x00name"}, "name"),
        ({"name": "bad\nname"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "Upper"}, "name"),
        ({"model": "../etc"}, "model"),
        ({"model": "/models/../etc"}, "model"),
        ({"engine_args": {"trust_remote_code": True}}, "engine_args"),
        ({"engine_args": {"max_modellen": 1}}, "engine_args"),
        ({"device_kind": "nvidia-h200"}, "device_kind"),
        ({"device_count": 3}, "device_count"),
        ({"device_count": 0}, "device_count"),
        ({"min_replicas": 2, "max_replicas": 1}, "min_replicas"),
        ({"engine": "magic"}, "engine"),
    ],
)
def test_bad_input_leaves_nothing(alice: House, changed: dict[str, Any], field: str) -> None:
    before = AuditEvent.objects.count()
    answer = post(with_key(alice.secret), "/endpoints", body(alice, **changed))
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert answer["content-type"] == "application/problem+json"
    named = problem.get("field") or problem["errors"][0]["field"]
    assert named.startswith(field), problem
    assert problem["request_id"]
    assert not Endpoint.objects.filter(name="answers").exists()
    assert AuditEvent.objects.count() == before


def test_a_device_count_that_no_node_has_says_the_numbers(alice: House) -> None:
    problem = post(with_key(alice.secret), "/endpoints", body(alice, device_count=3)).json()
    assert "3 devices" in problem["detail"]
    assert "largest node has 2" in problem["detail"]


def test_a_wrong_flag_names_its_neighbour(alice: House) -> None:
    asked = body(alice, engine_args={"max_modellen": 1})
    problem = post(with_key(alice.secret), "/endpoints", asked).json()
    assert "max_model_len" in problem["detail"]


def test_a_name_is_taken_once(alice: House) -> None:
    client = with_key(alice.secret)
    assert post(client, "/endpoints", body(alice)).status_code == 201
    again = post(client, "/endpoints", body(alice))
    assert (again.status_code, again.json()["code"]) == (409, "name_taken")


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "{}"])
def test_a_body_that_is_no_object_of_ours(alice: House, text: str) -> None:
    answer = with_key(alice.secret).post(
        "/api/v1/endpoints", data=text, content_type="application/json"
    )
    assert answer.status_code in (400, 422)
    assert answer["content-type"] == "application/problem+json"


def test_roles_and_scopes_bound_what_may_be_done(alice: House) -> None:
    path = f"/api/v1/endpoints/{alice.endpoint.id}"
    for client in (signed_in(alice.billing), with_key(alice.reader)):
        assert client.get(path).status_code == 200
        refused = post(client, "/endpoints", body(alice))
        assert refused.status_code == 403, refused.content
        assert refused.json()["code"] == "needs_manage_endpoints"
        assert client.delete(path).status_code == 403


@pytest.mark.parametrize("secret", ["", "nonsense", "sk-stoa-abcdefgh-" + "x" * 43])
def test_without_a_good_key_nothing_is_shown(alice: House, secret: str) -> None:
    answer = with_key(secret).get("/api/v1/endpoints")
    assert answer.status_code == 401
    assert answer["www-authenticate"].startswith("Bearer")
    assert answer["content-type"] == "application/problem+json"


def test_pages(alice: House) -> None:
    client = with_key(alice.secret)
    for number in range(5):
        post(client, "/endpoints", body(alice, name=f"page-{number}"))
    names: list[str] = []
    after = ""
    while True:
        page = client.get("/api/v1/endpoints", {"limit": 2} | ({"after": after} if after else {}))
        names += [one["name"] for one in page.json()["data"]]
        after = page.json()["last_id"]
        if not page.json()["has_more"]:
            break
    assert names == ["page-4", "page-3", "page-2", "page-1", "page-0", "chat"]
    second = client.get("/api/v1/endpoints", {"limit": 2, "before": after}).json()
    assert [one["name"] for one in second["data"]] == ["page-1", "page-0"]
    assert client.get("/api/v1/endpoints", {"limit": 0}).status_code == 422


def test_a_body_that_is_too_long_is_refused(alice: House) -> None:
    answer = post(with_key(alice.secret), "/endpoints", body(alice, model="x" * 2_000_000))
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


def test_an_operator_shares_an_endpoint_of_their_own(alice: House, mallory: House) -> None:
    client = signed_in(alice.owner)
    path = f"/api/v1/endpoints/{alice.endpoint.id}"
    assert post(client, f"/endpoints/{alice.endpoint.id}/share").status_code == 403
    type(alice.owner).objects.filter(id=alice.owner.id).update(is_operator=True)
    client = signed_in(alice.owner)
    shared = post(client, f"/endpoints/{alice.endpoint.id}/share")
    assert shared.status_code == 200 and shared.json()["shared"]
    # One of a name in a region.
    type(mallory.owner).objects.filter(id=mallory.owner.id).update(is_operator=True)
    taken = post(signed_in(mallory.owner), f"/endpoints/{mallory.endpoint.id}/share")
    assert taken.status_code == 409, taken.content
    # It gives no sight of it: others call it, and that is all.
    assert signed_in(mallory.owner).get(path).status_code == 404
    assert post(client, f"/endpoints/{alice.endpoint.id}/unshare").json()["shared"] is False
    events = AuditEvent.objects.filter(target_id=alice.endpoint.id)
    assert {"endpoint.share", "endpoint.unshare"} <= {event.action for event in events}
    free = post(signed_in(mallory.owner), f"/endpoints/{mallory.endpoint.id}/share")
    assert free.json()["shared"]
