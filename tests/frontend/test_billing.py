"""Billing in the console: invoices, the profile, and the operator's page."""

import pytest
from django.test import Client
from django.utils import timezone

from billing.invoices import invoicing
from compliance import audit
from tests.api.house import House, signed_in
from tests.api.test_invoices import drafted
from tests.billing import invoices


@pytest.fixture
def issuer(db: None) -> None:
    invoices.entity()


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def test_from_no_profile_to_a_credited_invoice(
    alice: House, issuer: None, operator: Client
) -> None:
    client = signed_in(alice.billing)
    made = drafted(alice)
    invoicing.finalise(made.id, audit.SYSTEM, timezone.now())
    assert "No billing profile yet" in page(client, "/billing")
    held = page(client, f"/invoices/{made.id}")
    assert "Not final yet" in held and "has to fill in its billing profile" in held
    assert "no billing profile" in page(operator, "/billing/operator")

    refused = client.post("/billing/profile", {**invoices.BUYER, "kind": "business"})
    assert refused.status_code == 422
    wish = {**invoices.BUYER, "kind": "business", "collection": "transfer"}
    wrong = client.post("/billing/profile", {**wish, "vat_id": "DE1"})
    assert wrong.status_code == 422 and "is no VAT number" in wrong.content.decode()
    assert client.post("/billing/profile", wish).status_code == 302
    assert "Ada&#x27;s agents GmbH" in page(client, "/billing/profile")

    assert operator.post(f"/invoices/{made.id}/finalise").status_code == 302
    made.refresh_from_db()
    listed = page(client, "/billing")
    assert made.label in listed and "€1.43" in listed
    shown = page(client, f"/invoices/{made.id}")
    assert alice.endpoint.name in shown and "per 3,600 s" in shown and "egress" in shown
    assert client.get(f"/invoices/{made.id}/files/pdf").content.startswith(b"%PDF")
    assert client.get(f"/invoices/{made.id}/files/exe").status_code == 404
    assert client.get(f"/invoices/{made.id}/files/xrechnung").status_code == 302  # and says why
    assert "Credit it whole" not in shown
    assert client.post(f"/invoices/{made.id}/credit", {"reason": "x"}).status_code == 404

    assert operator.post(f"/invoices/{made.id}/credit", {"reason": ""}).status_code == 302
    answer = operator.post(f"/invoices/{made.id}/credit", {"reason": "Our mistake"}, follow=True)
    assert "takes back" in answer.content.decode()


def test_the_operator_fills_in_who_issues(operator: Client) -> None:
    assert "Nobody issues invoices yet" in page(operator, "/billing/operator")
    wish = {**invoices.ISSUER, "currency": "EUR", "invoice_issuer": "platform"}
    wrong = operator.post("/billing/operator", {**wish, "payment_terms_days": 14, "iban": "DE0"})
    assert wrong.status_code == 422 and "is no IBAN" in wrong.content.decode()
    assert operator.post("/billing/operator", {**wish, "payment_terms_days": 14}).status_code == 302
    assert "Nobody issues" not in page(operator, "/billing/operator")
