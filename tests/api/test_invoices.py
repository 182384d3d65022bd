"""Invoices over HTTP: who sees them, their files, billing profiles, and what the operator may."""

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.invoices import invoicing, vault
from billing.meters import usage
from billing.models import Account, Invoice
from billing.pricing import prices
from compliance import audit
from compliance.subjects import ORGANIZATION, Subject
from tests.api.house import House, post, signed_in, with_key
from tests.billing import invoices
from tests.billing.events import seconds
from tests.signers import running


def put(client: Client, path: str, body: Any) -> Any:
    return client.put(f"/api/v1{path}", json.dumps(body), content_type="application/json")


@pytest.fixture
def issuer(db: None) -> None:
    invoices.entity()


def drafted(house: House) -> Invoice:
    """Of the month before last, with ten hours of a CPU."""
    now = timezone.now()
    month = invoicing.before(invoicing.before(invoicing.period(now)[0]))
    account = Account.objects.get(pk=house.organization.account_id)
    prices.publish_defaults(actor=audit.SYSTEM, now=month)
    named = {"project_id": house.project.id, "endpoint_id": house.endpoint.id}
    usage.record([seconds(account, month + timedelta(hours=3), 36_000, **named)])
    made = invoicing.draft(account.id, month, now)
    assert made is not None
    return made


def test_an_invoice_and_its_files(alice: House, issuer: None, operator: Client) -> None:
    client = signed_in(alice.billing)
    path = f"/organizations/{alice.organization.id}/billing-profile"
    assert client.get(f"/api/v1{path}").status_code == 404
    assert put(client, path, invoices.BUYER).json()["legal_name"] == "Ada's agents GmbH"

    made = drafted(alice)
    seen = client.get(f"/api/v1/invoices/{made.id}").json()
    assert (seen["state"], seen["net"], seen["vat"], seen["gross"]) == (
        "draft", "1.20", "0.23", "1.43",
    )  # fmt: skip
    assert client.get(f"/api/v1/invoices/{made.id}/pdf").status_code == 404
    assert post(client, f"/invoices/{made.id}/finalise").status_code == 404

    done = post(operator, f"/invoices/{made.id}/finalise").json()
    assert (done["state"], done["number"][:4]) == ("final", "INV-")
    (listed,) = client.get("/api/v1/invoices").json()["data"]
    assert listed["id"] == made.id
    for form, key in (("pdf", "pdf_sha256"), ("xml", "xml_sha256"), ("json", "json_sha256")):
        answer = client.get(f"/api/v1/invoices/{made.id}/{form}")
        assert hashlib.sha256(answer.content).hexdigest() == done[key]
        assert answer["content-disposition"].startswith("attachment; filename=")
    assert client.get(f"/api/v1/invoices/{made.id}/evidence").status_code == 503
    with running():
        evidence = client.get(f"/api/v1/invoices/{made.id}/evidence")
    assert b"".join(evidence.streaming_content)[:2] == b"PK"  # type: ignore[attr-defined]
    lines = client.get(f"/api/v1/invoices/{made.id}").json()["lines"]
    first = lines[0]
    assert (first["quantity"], first["unit_amount"], first["unit_size"]) == (36_000, "0.12", 3600)
    assert (first["project_name"], first["endpoint_name"]) == (
        alice.project.name, alice.endpoint.name,
    )  # fmt: skip

    missing = client.get(f"/api/v1/invoices/{made.id}/ubl")
    assert missing.status_code == 409 and "buyer_reference" in missing.json()["detail"]
    assert client.get(f"/api/v1/invoices/{made.id}/ubl?profile=x").status_code == 422
    assert post(operator, f"/invoices/{made.id}/credit", {}).status_code == 422
    note = post(operator, f"/invoices/{made.id}/credit", {"reason": "Our mistake"}).json()
    assert (note["kind"], note["corrects"], note["gross"]) == ("credit_note", made.id, "1.43")
    twice = post(operator, f"/invoices/{note['id']}/write-off", {"reason": "x"})
    assert twice.status_code == 409
    listed = client.get("/api/v1/invoices?kind=credit_note").json()["data"]
    assert [one["id"] for one in listed] == [note["id"]]
    assert client.get("/api/v1/archive/due").status_code in (403, 404)
    assert operator.get("/api/v1/archive/due").json() == {"data": []}

    # In the vault an operator alone reads it, and says why.
    wish = {"invoice": made.id, "form": "pdf", "reason": "an audit"}
    assert post(operator, "/archive/read", wish).status_code == 404
    subject = Subject(ORGANIZATION, alice.organization.id)
    vault.enclose(alice.organization.account_id, subject, timezone.now())
    assert client.get(f"/api/v1/invoices/{made.id}/pdf").status_code == 409
    assert post(client, "/archive/read", wish).status_code == 404
    assert post(operator, "/archive/read", wish | {"reason": " "}).status_code == 422
    answer = post(operator, "/archive/read", wish)
    assert hashlib.sha256(answer.content).hexdigest() == done["pdf_sha256"]


def test_who_may_see_and_who_may_set(alice: House, mallory: House, issuer: None) -> None:
    made = drafted(alice)
    path = f"/organizations/{alice.organization.id}/billing-profile"
    for client, found, may in (
        (signed_in(alice.owner), 200, 200),
        (signed_in(alice.billing), 200, 200),
        (signed_in(mallory.owner), 404, 404),
        (with_key(alice.secret), 404, 403),  # a key is of one project, an invoice of them all
    ):
        assert client.get(f"/api/v1/invoices/{made.id}").status_code == found
        answer = put(client, path, invoices.BUYER)
        assert answer.status_code in (may, 404) if may != 200 else answer.status_code == 200
    assert signed_in(mallory.owner).get("/api/v1/invoices").json()["data"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vat_id": "DE123456789"}, "vat_id"),
        ({"country": "XX"}, "country"),
        ({"legal_name": ""}, "legal_name"),
        ({"legal_name": "\u6f22\u5b57"}, "legal_name"),
        ({"legal_name": "x" * 201}, "legal_name"),
        ({"email": "nobody"}, "email"),
        ({"kind": "consumer"}, "kind"),
        ({"electronic_address": "04011000-1234"}, "electronic_scheme"),
        ({"proof": {"kind": "word", "reference": "x", "seen_on": "2026-01-01"}}, "proof"),
        ({"proof": {"kind": "certificate", "reference": "x", "seen_on": "soon"}}, "proof"),
        ({"credit_limit": "5"}, "credit_limit"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_its_field(
    alice: House, change: dict[str, Any], field: str
) -> None:
    path = f"/organizations/{alice.organization.id}/billing-profile"
    answer = put(signed_in(alice.owner), path, {**invoices.BUYER, **change})
    assert answer.status_code == 422 and answer.json()["field"] == field


def test_the_operator_says_who_issues(alice: House, operator: Client) -> None:
    assert operator.get("/api/v1/entity").json()["placeholder"] is True
    assert put(signed_in(alice.owner), "/entity", invoices.ISSUER).status_code == 404
    for change, field in (
        ({"country": "FR", "vat_id": "FR83404833048"}, "country"),  # clears its invoices
        ({"vat_id": "DE1"}, "vat_id"),
        ({"iban": "DE00"}, "iban"),
        ({"payment_terms_days": 400}, "payment_terms_days"),
    ):
        refused = put(operator, "/entity", {**invoices.ISSUER, **change})
        assert refused.status_code == 422 and refused.json()["field"] == field
    assert put(operator, "/entity", invoices.ISSUER).json()["placeholder"] is False
