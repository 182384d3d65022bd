"""Budgets on their page: set, seen, deleted."""

from typing import Any

from billing.models import Budget, BudgetWindow
from compliance.models import AuditEvent
from tests.api.house import House, signed_in

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
    assert 'value="84"' in text
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
    assert "/delete" not in text
    assert billing.post("/budgets", {**WISH, "project": alice.project.id}).status_code == 403
    assert billing.post(f"/budgets/{Budget.objects.get().id}/delete").status_code == 403
