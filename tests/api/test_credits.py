"""Credit, balance and payments over HTTP, and the operator's bank account."""

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from django.test import Client
from django.utils import timezone

from billing.credit import credits, vouchers
from billing.models import Budget, Payment
from compliance import audit
from tests.api.house import House, post, signed_in
from tests.billing import invoices
from tests.billing.sepa.bank import Movement, document
from tests.billing.sepa.bank import Payment as Paid
from tests.billing.test_receipts import bill
from workers import funds


def get(client: Client, path: str, status: int = 200) -> Any:
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == status, answer.content
    return answer.json()


def test_a_voucher_is_redeemed_and_shown(alice: House, mallory: House) -> None:
    client, mine = signed_in(alice.owner), alice.organization.id
    _, code = vouchers.create(2500, actor=audit.SYSTEM, now=timezone.now(), note="welcome")
    wrong = post(client, "/credits/redeem", {"organization": mine, "code": "AAAAA"})
    assert wrong.status_code == 422
    strange = post(
        client, "/credits/redeem", {"organization": mallory.organization.id, "code": code}
    )
    assert strange.status_code == 404
    made = post(client, "/credits/redeem", {"organization": mine, "code": code}).json()
    assert (made["amount"], made["left"], made["kind"]) == ("25.00", "25.00", "voucher")
    assert [one["id"] for one in get(client, f"/credits?organization={mine}")["data"]] == [
        made["id"]
    ]
    get(client, f"/credits?organization={mallory.organization.id}", 404)
    get(client, "/credits", 422)
    shown = get(client, f"/credits/balance?organization={mine}")
    assert (shown["free"], shown["mode"], shown["available"]) == ("25.00", "none", None)
    invoices.customer(alice.organization.account, invoices.entity(), mode="prepaid")
    shown = get(client, f"/credits/balance?organization={mine}")
    assert (shown["available"], shown["used_percent"]) == ("25.00", 0)


def test_what_billing_sets_is_seen_and_not_changed(alice: House) -> None:
    client = signed_in(alice.owner)
    invoices.customer(alice.organization.account, invoices.entity(), mode="prepaid")
    funds.tend(timezone.now())
    (one,) = get(client, f"/budgets?organization={alice.organization.id}")["data"]
    assert (one["managed"], one["hard"], one["amount"]) == (True, True, "0.00")
    for answer in (
        client.patch(f"/api/v1/budgets/{one['id']}", '{"amount": "9"}', "application/json"),
        client.delete(f"/api/v1/budgets/{one['id']}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "budget_of_billing")
    assert Budget.objects.get().amount == 0


def test_the_operator_reads_statements_and_decides(alice: House, operator: Client) -> None:
    account, entity = alice.organization.account, invoices.entity()
    owed = bill(account, entity, 1000)
    file = document(
        [Movement("10.00", [Paid("10.00", owed.label)], "B1"), Movement("-4.90", [], "B2")]
    )
    body = {"content": b64encode(file).decode()}
    assert post(signed_in(alice.owner), "/bank-statements", body).status_code == 404
    assert post(operator, "/bank-statements", {"content": "!"}).status_code == 422
    bad = post(operator, "/bank-statements", {"content": b64encode(b"<x/>").decode()})
    assert (bad.status_code, "content" in bad.content.decode()) == (422, True), bad.content
    (read,) = post(operator, "/bank-statements", body).json()
    assert (read["closing"], read["entries"]) == ("1005.10", 2)
    (entry,) = get(operator, "/bank-entries")["data"]
    assert (entry["rest"], entry["outcome"]) == ("-4.90", "outgoing")
    decide = f"/bank-entries/{entry['id']}/decide"
    assert post(operator, decide, {}).status_code == 422
    assert post(operator, decide, {"what": "payout"}).status_code == 422
    assert post(operator, decide, {"what": "fee"}).json()["outcome"] == "fee"
    assert get(operator, "/bank-entries")["data"] == []
    path = f"/payments?organization={alice.organization.id}"
    (payment,) = get(signed_in(alice.owner), path)["data"]
    assert payment["allocations"] == [
        {"purpose": "invoice", "invoice": owed.label, "amount": "10.00"}
    ]
    assert Payment.objects.count() == 1
    assert post(operator, "/collection-files", {}).json() == []
    assert credits.balance(account.id, datetime.now(UTC)).total == 0
