"""Webhooks at the door: what is genuine is kept once, and everything else has a clear answer."""

import json
import random
from typing import Any

import pytest
import stripe
from django.test import Client as Browser

from billing.payments.stripe import webhooks
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import StripeEvent
from tests.billing.stripe.payer import SECRET, Clock
from tests.stripe_server.server import FakeStripe
from tests.stripe_server.store import DAY_S, Obj
from tests.stripe_server.webhooks import Webhooks, signature

pytestmark = pytest.mark.django_db
URL = "/api/v1/stripe/webhook"


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """The door's clock is the test's."""
    monkeypatch.setattr("django.utils.timezone.now", clock)


def post(body: bytes, header: str) -> int:
    answer = Browser().post(
        URL, body, content_type="application/json", headers={"stripe-signature": header}
    )
    return int(answer.status_code)


@pytest.fixture
def hooks(fake: FakeStripe, client: Client) -> Webhooks:
    return Webhooks(fake.store, post)


@pytest.fixture
def event(fake: FakeStripe, client: Client) -> Obj:
    client.create_customer({"name": "Ada"}, "c")
    (made,) = fake.store.objects["event"].values()
    return dict(made)


def kept() -> list[tuple[Any, ...]]:
    return list(StripeEvent.objects.values_list("event_id", "type", "object_id", "state"))


def test_a_genuine_one_is_kept_and_one_that_comes_twice_once(hooks: Webhooks, event: Obj) -> None:
    assert [hooks.one(event), hooks.one(event)] == [200, 200]
    about = event["data"]["object"]["id"]
    assert kept() == [(event["id"], "customer.created", about, "waiting")]


def test_stripes_own_package_signs_as_we_verify(hooks: Webhooks, event: Obj, clock: Clock) -> None:
    body = hooks.body(event)
    at = int(clock.now.timestamp())
    made = stripe.WebhookSignature.generate_signature_header(body.decode(), SECRET, at)
    assert post(body, made) == 200
    stripe.WebhookSignature.verify_header(body, signature(body, at, SECRET), SECRET)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=,v1=",
        "v1=abc",
        "t=abc,v1=abc",
        "t=1,t=2,v1=abc",
        "t=99999999999999999999,v1=abc",
        "t=1776672000",
        "t=1776672000,v0=abc",
        "t=\u0661\u0662,v1=\u00e9",
    ],
)
def test_a_header_of_another_form_is_refused(hooks: Webhooks, event: Obj, header: str) -> None:
    with pytest.raises(webhooks.NotGenuine):
        webhooks.verify(hooks.body(event), header, [SECRET], hooks.store.clock())
    assert post(hooks.body(event), header) == 400
    assert kept() == []


def test_a_forged_one_is_refused(hooks: Webhooks, event: Obj) -> None:
    hooks.secrets = ["whsec_stolen_elsewhere"]
    assert hooks.one(event) == 400
    hooks.secrets = [SECRET]
    body = hooks.body(event)
    header = signature(body, hooks.store.now(), SECRET)
    assert post(body.replace(b"Ada", b"Eve"), header) == 400
    assert kept() == []


def test_one_that_was_parsed_and_written_anew_is_refused(hooks: Webhooks, event: Obj) -> None:
    body = hooks.body(event)
    anew = json.dumps(json.loads(body)).encode()
    assert json.loads(anew) == json.loads(body)
    assert post(anew, signature(body, hooks.store.now(), SECRET)) == 400
    assert kept() == []


@pytest.mark.parametrize(("age", "status"), [(300, 200), (301, 400), (-300, 200), (-301, 400)])
def test_the_tolerance_is_300_seconds(hooks: Webhooks, event: Obj, age: int, status: int) -> None:
    assert hooks.one(event, at=hooks.store.now() - age) == status


def test_a_year_old_signature_is_refused_and_a_year_old_event_is_not(
    hooks: Webhooks, event: Obj
) -> None:
    """Somebody who kept a webhook cannot use it; Stripe may send an old event anew."""
    year = 365 * DAY_S
    assert hooks.one(event, at=hooks.store.now() - year) == 400
    old = event | {"created": event["created"] - year}
    assert hooks.one(old) == 200
    assert StripeEvent.objects.get().made_at.year == 2025


def test_secrets_are_rotated_without_a_gap(hooks: Webhooks, event: Obj, settings: Any) -> None:
    hooks.secrets = ["whsec_old", "whsec_new"]  # Stripe signs with both for a day
    for ours in (["whsec_old"], ["whsec_old", "whsec_new"], ["whsec_new"]):
        settings.STRIPE_WEBHOOK_SECRETS = ours
        assert hooks.one(event) == 200
    settings.STRIPE_WEBHOOK_SECRETS = []
    assert hooks.one(event) == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 7}', b"\xff", b'{"id": "evt_1"'])
def test_what_is_signed_and_no_event_is_refused(hooks: Webhooks, body: bytes) -> None:
    assert post(body, signature(body, hooks.store.now(), SECRET)) == 400
    assert kept() == []


def test_an_event_that_only_names_its_object_is_kept(hooks: Webhooks) -> None:
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-04-20T08:00:00.000Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter"},
    }
    assert hooks.one(thin) == 200
    assert kept() == [("evt_thin", thin["type"], "mtr_1", "waiting")]


def test_too_large_a_body_is_not_read(hooks: Webhooks) -> None:
    assert post(b" " * (webhooks.BODY_MAX + 1), "t=1,v1=1") == 413


def test_only_post_is_heard_and_only_where_stripe_is_on(
    hooks: Webhooks, event: Obj, settings: Any
) -> None:
    assert Browser().get(URL).status_code == 405
    settings.STRIPE_API_KEY = ""
    assert hooks.one(event) == 404


def test_needs_no_login_and_no_token(hooks: Webhooks, event: Obj) -> None:
    body = hooks.body(event)
    browser = Browser(enforce_csrf_checks=True)
    answer = browser.post(
        URL,
        body,
        content_type="application/json",
        headers={"stripe-signature": signature(body, hooks.store.now(), SECRET)},
    )
    assert answer.status_code == 200


def test_all_of_a_day_in_any_order(hooks: Webhooks, client: Client) -> None:
    for number in range(5):
        client.create_customer({"name": str(number)}, str(number))
    sent = len(hooks.store.undelivered)
    statuses = hooks.deliver(chance=random.Random(7), repeat=0.5)
    assert set(statuses) == {200} and len(statuses) > sent
    assert len(kept()) == sent
    assert hooks.store.undelivered == []
