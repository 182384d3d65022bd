"""Means of payment and paying, over the API and on the pages: who may, and what is shown."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client as Browser
from pytest_django import Settings

from billing.models import Invoice
from billing.payments.stripe import outbox
from billing.payments.stripe.client import connect
from billing.payments.stripe.models import StripeMethod, StripePayment
from compliance.models import AuditEvent
from controlplane.tenancy.models import Notice
from tests.api.house import House, signed_in, with_key
from tests.billing import invoices
from tests.billing.stripe import payer
from tests.stripe_server import checkout
from tests.stripe_server.server import KEY, FakeStripe, serving
from workers import unconfirmed


@pytest.fixture
def fake(settings: Settings) -> Iterator[FakeStripe]:
    with serving(FakeStripe(lambda: datetime.now(UTC))) as stripe:
        settings.STRIPE_API_KEY = KEY
        settings.STRIPE_API_BASE = stripe.url
        yield stripe


@pytest.fixture
def invoice(alice: House) -> Invoice:
    entity = invoices.entity()
    invoices.customer(alice.organization.account, entity, collection="stripe")
    return payer.final_invoice(alice.organization.account, entity)


def post(client: Browser, path: str, body: dict[str, Any] | None = None) -> Any:
    return client.post(path, data=json.dumps(body or {}), content_type="application/json")


def given(fake: FakeStripe, client: Browser, alice: House, kind: str = "card") -> str:
    """Opens the page, fills it in, comes back: the id of what is stored then."""
    opened = post(client, "/api/v1/payment-methods", {"organization": alice.organization.id})
    assert opened.status_code == 201, opened.content
    session = opened.json()["url"].rpartition("/")[2]
    checkout.complete(fake.store, session, kind)
    back = client.get(f"/payment-methods?session={session}", follow=True)
    assert "is stored" in back.content.decode()
    return StripeMethod.objects.latest("id").id


def test_given_shown_used_and_taken_away(fake: FakeStripe, alice: House, invoice: Invoice) -> None:
    client = signed_in(alice.billing)
    id = given(fake, client, alice)
    (shown,) = client.get("/api/v1/payment-methods").json()["data"]
    assert {name: shown[name] for name in ("id", "kind", "brand", "last4", "expires")} == {
        "id": id,
        "kind": "card",
        "brand": "visa",
        "last4": "4242",
        "expires": "2031-04",
    }
    paid = post(client, f"/api/v1/invoices/{invoice.id}/collections")
    assert paid.status_code == 202, paid.content
    assert (paid.json()["amount"], paid.json()["state"]) == ("11.90", "asked")
    again = post(client, f"/api/v1/invoices/{invoice.id}/collections")
    assert (again.status_code, again.json()["code"]) == (409, "nothing_to_pay")
    listed = client.get(f"/api/v1/invoices/{invoice.id}/collections").json()["data"]
    assert [one["id"] for one in listed] == [paid.json()["id"]]
    event = AuditEvent.objects.get(action="payment.ask")
    assert event.actor_id == alice.billing.id
    assert client.delete(f"/api/v1/payment-methods/{id}").status_code == 204
    assert client.get("/api/v1/payment-methods").json()["data"] == []
    assert client.delete(f"/api/v1/payment-methods/{id}").status_code == 404


def test_who_may_not(fake: FakeStripe, alice: House, mallory: House, invoice: Invoice) -> None:
    id = given(fake, signed_in(alice.owner), alice)
    body = {"organization": alice.organization.id}
    collections = f"/api/v1/invoices/{invoice.id}/collections"
    for stranger in (signed_in(mallory.owner), with_key(alice.secret)):
        assert stranger.get("/api/v1/payment-methods").json()["data"] == []
        assert post(stranger, "/api/v1/payment-methods", body).status_code == 404
        assert stranger.delete(f"/api/v1/payment-methods/{id}").status_code == 404
        assert post(stranger, collections).status_code == 404
        assert stranger.get(collections).status_code == 404
    assert not StripePayment.objects.exists()


def test_off_and_away_are_said(alice: House, invoice: Invoice, settings: Settings) -> None:
    client, body = signed_in(alice.owner), {"organization": alice.organization.id}
    refused = post(client, "/api/v1/payment-methods", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "stripe_not_configured")
    assert "STOA_STRIPE_API_KEY" in refused.json()["detail"]
    refused = post(client, f"/api/v1/invoices/{invoice.id}/collections")
    assert refused.json()["code"] == "stripe_not_configured"
    assert "Stripe is off here" in client.get("/payment-methods").content.decode()
    settings.STRIPE_API_KEY = KEY
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"  # nobody is there
    away = post(client, "/api/v1/payment-methods", body)
    assert (away.status_code, away.json()["code"]) == (503, "stripe_unavailable")


def test_the_page(fake: FakeStripe, alice: House, mallory: House, invoice: Invoice) -> None:
    client = signed_in(alice.owner)
    body = {"organization": alice.organization.id}
    page = client.post("/payment-methods", body).content.decode()
    assert 'href="https://checkout.stripe.com/c/pay/' in page
    id = given(fake, client, alice, "sepa_debit")
    page = client.get("/payment-methods").content.decode()
    assert "SEPA direct debit" in page and "… 3000" in page and "€11.90" in page
    assert (
        "is being collected"
        in client.post(f"/invoices/{invoice.id}/pay", follow=True).content.decode()
    )
    page = client.post(f"/invoices/{invoice.id}/pay", follow=True).content.decode()
    assert "is under way" in page and "Asked" in page
    stranger = signed_in(mallory.owner)
    assert stranger.post(f"/invoices/{invoice.id}/pay").status_code == 404
    assert stranger.get(f"/payment-methods/{id}/delete").status_code == 404
    assert stranger.post("/payment-methods", body).status_code == 404
    assert "3000?" in client.get(f"/payment-methods/{id}/delete").content.decode()
    page = client.post(f"/payment-methods/{id}/delete", follow=True).content.decode()
    assert "It is used no more." in page and "… 3000" not in page


def test_what_the_bank_wants_confirmed_is_told_and_paid_on_stripes_page(
    fake: FakeStripe, alice: House, mallory: House, invoice: Invoice
) -> None:
    client = signed_in(alice.owner)
    opened = post(client, "/api/v1/payment-methods", {"organization": alice.organization.id})
    session = opened.json()["url"].rpartition("/")[2]
    checkout.complete(fake.store, session, "card", "authentication")
    client.get(f"/payment-methods?session={session}")
    client.post(f"/invoices/{invoice.id}/pay")
    outbox.deliver(connect(), datetime.now(UTC))
    assert StripePayment.objects.get().reason == "authentication_required"
    now = datetime.now(UTC)
    assert unconfirmed.tell(now) == unconfirmed.tell(now) == 1
    page = client.get("/endpoints").content.decode()
    assert f"{invoice.label} is not paid: your bank asks" in page
    assert f'href="/invoices/{invoice.id}"' in page  # and there is the button:
    detail = client.get(f"/invoices/{invoice.id}").content.decode()
    assert f'action="/invoices/{invoice.id}/pay-at-stripe"' in detail
    path = f"/api/v1/invoices/{invoice.id}/payment-page"
    for stranger in (signed_in(mallory.owner), with_key(alice.secret)):
        assert post(stranger, path).status_code == 404
    assert signed_in(mallory.owner).post(f"/invoices/{invoice.id}/pay-at-stripe").status_code == 404
    first = post(client, path)
    assert (first.status_code, first.json()["object"]) == (201, "payment_page")
    shown = client.post(f"/invoices/{invoice.id}/pay-at-stripe").content.decode()
    assert f'href="{first.json()["url"]}"' in shown and "Pay on Stripe" in detail
    session = first.json()["url"].rpartition("/")[2]
    checkout.complete(fake.store, session, "card", "authentication")
    back = client.get(f"/payment-methods?paid={session}", follow=True).content.decode()
    assert "under way" in back and invoice.label in back
    checkout.authenticated(fake.store, session)
    back = client.get(f"/payment-methods?paid={session}", follow=True).content.decode()
    assert "The invoice is paid." in back
    invoice.refresh_from_db()
    assert invoice.state == "paid"
    assert unconfirmed.tell(datetime.now(UTC)) == 0
    assert not Notice.objects.filter(closed_at=None).exists()
    assert (
        "not open"
        in client.post(f"/invoices/{invoice.id}/pay-at-stripe", follow=True).content.decode()
    )
