"""Budgets on their page: set, seen, deleted."""

from typing import Any

from billing.models import Budget, BudgetWindow, Lease
from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy import services
from tests.api.house import NOW, House, signed_in

WISH = {
    "whose": "project",
    "amount": "25",
    "unit": "eur",
    "window": "total",
    "time_zone": "UTC",
    "hard": "yes",
}


def test_a_budget_is_set_seen_and_deleted(alice: House) -> None:
    client = signed_in(alice.owner)
    answer = client.post("/budgets", {**WISH, "project": alice.project.id}, follow=True)
    text = answer.content.decode()
    assert "The budget is set." in text
    assert "€25.00" in text
    budget = Budget.objects.get()
    assert (budget.amount, budget.subject, budget.hard) == (25 * 10**9, "project", True)
    BudgetWindow.objects.create(budget=budget, window="total", spent=21 * 10**9)
    text = client.get("/budgets").content.decode()
    assert '<rect class="spent busy" x="0" y="0" width="840"' in text
    assert "€21.00" in text
    assert "€4.00" in text
    assert '<span class="state busy">84 %</span>' in text
    page = f"/budgets/{budget.id}/delete"
    assert "Delete this budget?" in client.get(page).content.decode()
    assert "The budget is deleted." in client.post(page, follow=True).content.decode()
    budget.refresh_from_db()
    assert budget.deleted_at is not None
    assert client.get(page).status_code == 404
    actions = AuditEvent.objects.filter(target_id=budget.id).order_by("id")
    assert list(actions.values_list("action", flat=True)) == ["budget.create", "budget.delete"]


def test_each_kind_of_subject_and_unit(alice: House) -> None:
    client = signed_in(alice.owner)
    for whose, unit in (("organization", "eur"), ("agent", "tokens"), ("run", "calls")):
        wish = {**WISH, "project": alice.project.id, "whose": whose, "unit": unit}
        assert client.post("/budgets", wish).status_code == 302
    text = client.get("/budgets").content.decode()
    for words in ("the whole organization", "each agent", "each run", "25 tokens", "25 calls"):
        assert words in text
    assert text.count("counted for each") == 2


def test_what_is_refused_says_why_at_its_field(alice: House) -> None:
    client = signed_in(alice.owner)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"amount": "many"}, 'id="id_amount_error"'),
        ({"amount": "-1"}, 'id="id_amount_error"'),
        ({"amount": "0.5", "unit": "calls"}, 'id="id_amount_error"'),
        ({"amount": "0.00000000001"}, 'id="id_amount_error"'),
        ({"amount": "99999999999"}, 'id="id_amount_error"'),
        ({"time_zone": "Mars"}, 'id="id_time_zone_error"'),
    ]
    for wrong, where in cases:
        answer = client.post("/budgets", {**WISH, "project": alice.project.id, **wrong})
        assert answer.status_code == 422, wrong
        assert where in answer.content.decode(), wrong
    assert not Budget.objects.exists()
    assert client.post("/budgets", {**WISH, "project": alice.project.id}).status_code == 302
    again = client.post("/budgets", {**WISH, "project": alice.project.id})
    assert again.status_code == 422
    assert b"change that one" in again.content


def test_who_may_only_look_is_offered_nothing(alice: House) -> None:
    owner, billing = signed_in(alice.owner), signed_in(alice.billing)
    owner.post("/budgets", {**WISH, "project": alice.project.id})
    text = billing.get("/budgets").content.decode()
    assert "€25.00" in text
    assert "Set a budget" not in text
    assert "Change</a>" not in text
    assert "/delete" not in billing.get(f"/budgets/{Budget.objects.get().id}").content.decode()
    assert billing.post("/budgets", {**WISH, "project": alice.project.id}).status_code == 403
    assert billing.post(f"/budgets/{Budget.objects.get().id}/delete").status_code == 403


def test_the_bar_shows_what_is_held_and_what_is_overrun(alice: House) -> None:
    client = signed_in(alice.owner)
    client.post("/budgets", {**WISH, "project": alice.project.id})
    budget = Budget.objects.get()
    window = BudgetWindow.objects.create(budget=budget, window="total", spent=5 * 10**9)
    Lease.objects.create(
        id=1,
        budget=budget,
        window="total",
        holder="gw-1",
        epoch="1",
        granted=10 * 10**9,
        settled=5 * 10**9,
    )
    text = client.get("/budgets").content.decode()
    assert '<rect class="spent good" x="0" y="0" width="200" height="20">' in text
    assert '<rect class="held" x="200" y="0" width="200" height="20">' in text
    assert "20 % of the budget of this project is spent, €5.00 held" in text
    window.spent = 30 * 10**9
    window.save()
    text = client.get("/budgets").content.decode()
    assert '<span class="state bad">120 %</span>' in text
    assert 'x="857" y="0" width="142"' in text  # 30 and 5 of 35: the bar does not burst


def test_a_budget_of_one_key_and_of_one_agent(alice: House) -> None:
    client = signed_in(alice.owner)
    wish = {**WISH, "project": alice.project.id}
    assert b'id="id_key_error"' in client.post("/budgets", {**wish, "whose": "key"}).content
    refused = client.post("/budgets", {**wish, "key": alice.key_id})
    assert b'id="id_key_error"' in refused.content
    refused = client.post("/budgets", {**wish, "agent": "writer"})
    assert b'id="id_agent_error"' in refused.content
    refused = client.post("/budgets", {**wish, "whose": "agent", "agent": "a b"})
    assert b'id="id_agent_error"' in refused.content
    assert not Budget.objects.exists()
    client.post("/budgets", {**wish, "whose": "key", "key": alice.key_id})
    client.post("/budgets", {**wish, "whose": "agent", "agent": "writer"})
    key, agent = Budget.objects.order_by("id")
    assert (key.subject, key.subject_id) == ("key", alice.key_id)
    assert agent.name.startswith("agt_")
    text = client.get("/budgets").content.decode()
    assert "key key" in text
    assert f"agent {agent.name}" in text
    assert "writer" not in text


def test_a_budget_is_changed(alice: House) -> None:
    client = signed_in(alice.owner)
    client.post("/budgets", {**WISH, "project": alice.project.id, "allowance": "0.5"})
    budget = Budget.objects.get()
    assert budget.allowance == 5 * 10**8
    page = f"/budgets/{budget.id}"
    shown = client.get(page).content.decode()
    assert 'name="amount" value="25"' in shown
    assert 'name="allowance" value="0.5"' in shown
    for wrong, field in (
        ({"amount": "-1", "hard": "yes"}, "amount"),
        ({"amount": "0.00000000001", "hard": "yes"}, "amount"),
        ({"amount": "1", "allowance": "x", "hard": "yes"}, "allowance"),
        ({"amount": "1", "allowance": "1", "hard": "no"}, "allowance"),
    ):
        answer = client.post(page, wrong)
        assert answer.status_code == 422, wrong
        assert f'id="id_{field}_error"' in answer.content.decode(), wrong
    assert client.post(page, {"amount": "30", "hard": "no"}).headers["location"] == page
    budget.refresh_from_db()
    assert (budget.amount, budget.allowance, budget.hard) == (30 * 10**9, 0, False)
    assert AuditEvent.objects.filter(action="budget.update").count() == 1
    assert signed_in(alice.billing).post(page, {"amount": "1", "hard": "no"}).status_code == 403
    assert "Save budget" not in signed_in(alice.billing).get(page).content.decode()


def test_a_budget_of_runs_lists_what_each_used(alice: House) -> None:
    client = signed_in(alice.owner)
    wish = {**WISH, "project": alice.project.id, "whose": "run", "unit": "calls"}
    client.post("/budgets", wish)
    budget = Budget.objects.get()
    for number, spent in ((1, 5), (2, 20)):
        BudgetWindow.objects.create(
            budget=budget, window=f"total/run_{number:020x}", spent=spent, calls=spent
        )
    text = client.get(f"/budgets/{budget.id}").content.decode()
    assert f"run_{1:020x}" in text
    assert '<span class="state busy">80 %</span>' in text
    assert "5 calls" in text


def test_a_budget_of_another_organization_brings_one_there(alice: House, mallory: House) -> None:
    services.add_member(
        actor=audit.SYSTEM,
        organization=mallory.organization,
        user=alice.owner,
        role="auditor",
        now=NOW,
    )
    signed_in(mallory.owner).post("/budgets", {**WISH, "project": mallory.project.id})
    client = signed_in(alice.owner)
    client.post("/switch", {"place": alice.project.id})
    page = f"/budgets/{Budget.objects.get().id}"
    text = client.get(page).content.decode()
    assert "€25.00" in text
    assert "Save budget" not in text  # she owns the place she came from, and not this one
    assert client.get("/keys").content.decode().count("mallory") > 0
