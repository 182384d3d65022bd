"""Runs over HTTP: who may stop them, and what a project lets them do."""

import json
from typing import Any

import pytest
from django.test import Client

from billing.models import Budget, RunStop
from compliance.models import AuditEvent
from controlplane.tenancy import run_policies
from controlplane.tenancy.errors import Invalid
from gateway.brake import RunPolicy, Steps
from tests.api.house import House, post, signed_in, with_key


def patch(client: Client, house: House, policy: Any) -> Any:
    path = f"/api/v1/projects/{house.project.id}"
    body = json.dumps({"run_policy": policy})
    return client.patch(path, body, content_type="application/json")


def test_a_run_is_stopped_and_resumed_by_its_name_or_reference(alice: House) -> None:
    client = with_key(alice.secret)
    base = f"/projects/{alice.project.id}/runs"
    stopped = post(client, f"{base}/night%2Fone/stop").json()
    assert stopped["stopped"] is True and stopped["project"] == alice.project.id
    resumed = post(signed_in(alice.owner), f"{base}/{stopped['id']}/resume").json()
    assert resumed == {**stopped, "stopped": False}
    rows = RunStop.objects.order_by("id")
    assert [(row.run, row.stopped) for row in rows] == [
        (stopped["id"], True),
        (stopped["id"], False),
    ]
    told = AuditEvent.objects.filter(action__startswith="run.").order_by("id")
    assert [event.action for event in told] == ["run.stop", "run.resume"]
    assert all(b"night" not in bytes(event.body) for event in told)  # names are personal data


def test_who_may_not(alice: House, mallory: House) -> None:
    path = f"/projects/{alice.project.id}/runs/night/stop"
    assert post(signed_in(mallory.owner), path).status_code == 404
    assert post(with_key(mallory.secret), path).status_code == 404
    assert post(signed_in(alice.billing), path).status_code == 403
    assert post(with_key(alice.reader), path).status_code == 403
    bad = post(signed_in(alice.owner), path.replace("night", "a b"))
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_run")
    assert not RunStop.objects.exists()


def test_a_policy_is_set_told_and_taken_away(alice: House) -> None:
    client = signed_in(alice.owner)
    policy = {"max_depth": 3, "repeats": {"warn": 5, "stop": 50}}
    assert patch(client, alice, policy).json()["run_policy"] == policy
    event = AuditEvent.objects.get(action="project.update")
    assert json.loads(bytes(event.body))["change"] == [
        {"path": "run_policy", "from": None, "to": policy}
    ]
    assert patch(client, alice, None).json()["run_policy"] is None


def test_a_limit_of_calls_is_a_budget_that_the_policy_alone_sets(alice: House) -> None:
    client = signed_in(alice.owner)

    def limits() -> list[tuple[Any, ...]]:
        live = Budget.objects.filter(subject_id=alice.project.id, deleted_at=None)
        return list(live.values_list("subject", "unit", "window", "amount", "hard"))

    for calls in (500, 800):
        assert patch(client, alice, {"max_calls": calls}).json()["run_policy"]["max_calls"] == calls
        assert limits() == [("root", "calls", "total", calls, True)]
    one = Budget.objects.get(deleted_at=None)
    assert client.get("/api/v1/budgets").json()["data"] == []
    assert client.delete(f"/api/v1/budgets/{one.id}").status_code == 404
    assert patch(client, alice, {"max_depth": 2}).status_code == 200
    assert limits() == []
    assert patch(client, alice, {"max_calls": 5}).status_code == 200
    assert patch(client, alice, None).status_code == 200
    assert limits() == []


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"max_tokens": 3},
        {"max_calls": 0},
        {"max_calls": 2.5},
        {"max_depth": 0},
        {"max_depth": 1.5},
        {"max_seconds": "60"},
        {"slow_s": 31},
        {"repeats": 5},
        {"repeats": {"halt": 5}},
        {"repeats": {"warn": 0}},
        {"repeats": {"warn": True}},
        {"repeats": {"slow": 5, "stop": 4}},
    ],
)
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    with pytest.raises(Invalid) as caught:
        run_policies.checked(wrong)
    assert (caught.value.code, caught.value.field) == ("invalid_run_policy", "run_policy")


def test_gateway_and_house_mean_the_same() -> None:
    fields = {*run_policies.LIMITS, *run_policies.MEASURES}
    # Calls are counted by a budget.
    assert {*RunPolicy.__struct_fields__, "max_calls"} == fields
    assert Steps.__struct_fields__ == run_policies.STEPS
