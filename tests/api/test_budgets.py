"""Budgets over HTTP: euro as text, exactly; who may set them; and what runs used."""

import json
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from billing.models import Budget
from gateway.runs import Runs
from tests.api.house import House, delivered, post, signed_in, with_key

WISH = {"unit": "eur", "amount": "12.50", "window": "month", "time_zone": "Europe/Berlin"}


def patch(client: Client, path: str, body: Any) -> Any:
    return client.patch(f"/api/v1{path}", json.dumps(body), content_type="application/json")


def make(client: Client, **place: Any) -> Any:
    answer = post(client, "/budgets", {**WISH, **place})
    assert answer.status_code == 201, answer.content
    return answer.json()


def spend(house: House, budget_id: str, window: str, amount: int, **fields: Any) -> None:
    delivered(
        house,
        input_tokens=100,
        cached_tokens=40,
        output_tokens=7,
        nano_eur=amount,
        charges=[[budget_id, window, 0, "nano_eur", amount]] if budget_id else [],
        **fields,
    )


def test_a_budget_is_set_spent_changed_and_taken_away(alice: House) -> None:
    client = signed_in(alice.owner)
    made = make(client, organization=alice.organization.id, allowance="0.000000001")
    assert (made["amount"], made["allowance"], made["hard"]) == ("12.50", "0.000000001", True)
    assert (made["subject"], made["subject_id"]) == ("organization", alice.organization.id)
    window = made["status"]["window"]
    assert made["status"] == {
        "window": window,
        "spent": "0.00",
        "outstanding": "0.00",
        "remaining": "12.50",
        "calls": 0,
    }
    spend(alice, made["id"], window, 2_500_000_001)
    path = f"/budgets/{made['id']}"
    status = client.get(f"/api/v1{path}").json()["status"]
    assert (status["spent"], status["remaining"]) == ("2.500000001", "9.999999999")
    assert status["calls"] == 1
    changed = patch(client, path, {"amount": "2", "allowance": "0", "hard": False}).json()
    assert (changed["amount"], changed["hard"]) == ("2.00", False)
    assert changed["status"]["remaining"] == "0.00"
    (counter,) = client.get(f"/api/v1{path}/counters").json()["data"]
    assert (counter["window"], counter["of"], counter["spent"]) == (window, "", "2.500000001")
    assert client.delete(f"/api/v1{path}").status_code == 204
    assert client.get(f"/api/v1{path}").status_code == 404
    assert client.get("/api/v1/budgets").json()["data"] == []


def test_budgets_of_agents_and_runs_belong_to_a_project(alice: House) -> None:
    client = signed_in(alice.owner)
    runs = make(client, project=alice.project.id, each="run", window="total")
    agent = make(client, project=alice.project.id, each="agent", agent="planner")
    make(client, key=alice.key_id)
    assert (runs["subject"], runs["subject_id"]) == ("run", alice.project.id)
    assert runs["status"] is None
    asked = {"project": alice.project.id, "run": "night", "agent": "planner"}
    known = post(client, "/run-usage/references", asked).json()
    assert agent["agent"] == known["agent"]
    headers = {b"x-stoa-run": b"night"}
    assert known["run"] == Runs(settings.KEY_PEPPER).of(alice.project.id, headers, None).refs[0]
    for number in range(3):
        spend(alice, runs["id"], f"total/run_{number}", 10**7)
    path = f"/api/v1/budgets/{runs['id']}/counters"
    first = client.get(path, {"limit": "2"}).json()
    rest = client.get(path, {"after": first["data"][-1]["id"]}).json()
    found = [each["of"] for each in first["data"] + rest["data"]]
    assert found == ["run_2", "run_1", "run_0"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert client.get(path, {"after": "x"}).status_code == 422
    of_project = client.get("/api/v1/budgets", {"project": alice.project.id}).json()["data"]
    assert [each["id"] for each in of_project] == [agent["id"], runs["id"]]
    of_key = client.get("/api/v1/budgets", {"key": alice.key_id}).json()["data"]
    assert [each["subject"] for each in of_key] == ["key"]


def test_a_budget_that_is_repeated_is_made_once(alice: House) -> None:
    client, wish = signed_in(alice.owner), {**WISH, "project": alice.project.id}
    first, again = (post(client, "/budgets", wish, **{"idempotency-key": "k"}) for _ in range(2))
    assert first.json() == again.json()
    assert Budget.objects.count() == 1
    second = post(client, "/budgets", wish)
    assert (second.status_code, second.json()["code"]) == (409, "budget_exists")


def test_owners_and_admins_set_what_others_see(alice: House) -> None:
    made = make(signed_in(alice.owner), project=alice.project.id)
    whole = make(signed_in(alice.owner), organization=alice.organization.id)
    path = f"/budgets/{made['id']}"
    for client in (with_key(alice.secret), with_key(alice.reader), signed_in(alice.billing)):
        assert client.get(f"/api/v1{path}").status_code == 200
        assert patch(client, path, {"amount": "99"}).status_code == 403
        assert client.delete(f"/api/v1{path}").status_code == 403
        assert post(client, "/budgets", {**WISH, "project": alice.project.id}).status_code == 403
    # A key sees what is its project's, and no more.
    key = with_key(alice.secret)
    assert [each["id"] for each in key.get("/api/v1/budgets").json()["data"]] == [made["id"]]
    assert key.get(f"/api/v1/budgets/{whole['id']}").status_code == 404
    assert Budget.objects.get(id=made["id"]).amount == 12_500_000_000


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"amount": "-1"}, "amount"),
        ({"amount": "0.0000000001"}, "amount"),
        ({"amount": "1e30"}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "1000000000.000000001"}, "amount"),
        ({"unit": "tokens", "amount": "1.5"}, "amount"),
        ({"unit": "nano_eur"}, "unit"),
        ({"time_zone": "Mars"}, "time_zone"),
        ({"window": "year"}, "window"),
        ({"hard": False, "allowance": "1"}, "allowance"),
        ({"each": "user"}, "each"),
        ({"agent": "planner"}, "agent"),
        ({"each": "agent", "agent": "the planner"}, "agent"),
        ({"key": "key_01k00000000000000000000000"}, "organization"),
        ({"project": ""}, "project"),
    ],
)
def test_a_wrong_budget_is_refused_by_its_field(
    alice: House, wrong: dict[str, Any], field: str
) -> None:
    wish = {**WISH, "project": alice.project.id, **wrong}
    answer = post(signed_in(alice.owner), "/budgets", wish)
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert field in (problem.get("field"), *(one["field"] for one in problem.get("errors", ())))
    assert not Budget.objects.exists()


def test_what_runs_and_agents_used_is_summed(alice: House) -> None:
    root, child, other = (f"run_{letter * 20}" for letter in "abc")
    agent = f"agt_{'d' * 20}"
    spend(alice, "", "", 5, run=root)
    spend(alice, "", "", 10, run=f"{root}/{child}", agent=agent)
    spend(alice, "", "", 20, run=f"{root}/{child}", agent=agent)
    spend(alice, "", "", 7, run=other)
    spend(alice, "", "", 100)  # of no run
    client = with_key(alice.reader)

    def used(**query: str) -> list[tuple[str, str, int]]:
        answer = client.get("/api/v1/run-usage", query)
        assert answer.status_code == 200, answer.content
        rows = answer.json()["data"]
        assert all(row["input_tokens"] == 100 * row["calls"] for row in rows)
        return [(row["key"], row["eur"], row["calls"]) for row in rows]

    assert used() == [
        (f"{root}/{child}", "0.00000003", 2),
        (other, "0.000000007", 1),
        (root, "0.000000005", 1),
    ]
    assert used(by="root") == [(root, "0.000000035", 3), (other, "0.000000007", 1)]
    assert used(by="agent", project=alice.project.id) == [(agent, "0.00000003", 2)]
    assert used(of=root, by="root") == [(root, "0.000000035", 3)]
    assert used(of=agent) == [(f"{root}/{child}", "0.00000003", 2)]
    assert used(to="2026-01-01T00:00:00Z") == []
    assert used(skip="2") == [(root, "0.000000005", 1)]
    for wrong in ({"by": "user"}, {"skip": "-1"}, {"from": "yesterday"}):
        assert client.get("/api/v1/run-usage", wrong).status_code == 422


def test_a_run_is_found_by_its_name_and_summed_by_agent(alice: House) -> None:
    client = with_key(alice.reader)
    names = {"run": "nightly-42", "agent": "planner", "project": alice.project.id}
    known = post(client, "/run-usage/references", names).json()
    run, agent, below = known["run"], known["agent"], f"{known['run']}/run_{'b' * 20}"
    spend(alice, "", "", 5, run=run)
    spend(alice, "", "", 10, run=run, agent=agent)
    spend(alice, "", "", 20, run=below, agent=agent)
    spend(alice, "", "", 1, run=below, agent=f"agt_{'c' * 20}")
    spend(alice, "", "", 100, run=f"run_{'d' * 20}", agent=agent)  # another one's

    def ask(run: str, **more: Any) -> Any:
        return post(client, "/run-usage/summary", {"run": run, **more})

    found = ask("nightly-42", agents=["writer", "planner"]).json()
    assert (found["run"], found["eur"], found["calls"]) == (run, "0.000000036", 4)
    assert found["input_tokens"] == 400 and found["first_at"] <= found["last_at"]
    assert [(one["agent"], one["name"], one["eur"], one["calls"]) for one in found["agents"]] == [
        (agent, "planner", "0.00000003", 2),
        ("", "", "0.000000005", 1),
        (f"agt_{'c' * 20}", "", "0.000000001", 1),
    ]
    assert [(one["run"], one["calls"]) for one in found["runs"]] == [(below, 2), (run, 2)]
    assert ask(run).json() == {**found, "agents": [{**one, "name": ""} for one in found["agents"]]}
    assert ask("nightly-42", end="2026-01-01T00:00:00Z").status_code == 404
    assert ask("nightly-43").json()["code"] == "not_found"
    for wrong in ({"run": "a b"}, {"agents": ["a/b"]}, {"run": ""}, {"start": "yesterday"}):
        assert ask(**{"run": run, **wrong}).status_code == 422
