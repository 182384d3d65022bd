"""The fake itself: what it refuses is what the tests of the adapter rest on."""

import threading
from typing import Any, cast

import pytest
import stripe
from stripe.params import PaymentIntentCreateParams

from billing.payments.stripe.client import Client
from billing.payments.stripe.problems import Declined, Refused, Stuck, Unavailable
from tests.billing.stripe.payer import Clock
from tests.stripe_server import checkout, flow, payments
from tests.stripe_server.server import KEY, FakeStripe


@pytest.fixture
def plain(fake: FakeStripe) -> stripe.StripeClient:
    """The package as anybody uses it."""
    base = fake.url
    return stripe.StripeClient(
        KEY,
        base_addresses={"api": base, "files": base, "connect": base, "meter_events": base},
        max_network_retries=0,
    )


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": 1190}, "parameter_missing", "currency"),
        ({"amount": "11.90", "currency": "eur"}, "parameter_invalid_integer", "amount"),
        ({"amount": 1, "currency": "eur", "colour": "red"}, "parameter_unknown", "colour"),
        (
            {"amount": 1190, "currency": "eur", "payment_method_types": ["card"]},
            "parameter_unknown",
            "payment_method_types",
        ),
        (
            {"amount": 1190, "currency": "eur", "shipping": {"name": "Ada"}},
            "parameter_missing",
            "shipping[address]",
        ),
        ({"amount": 1190, "currency": "eur", "confirm": "perhaps"}, None, "confirm"),
        ({"amount": 49, "currency": "eur"}, "amount_too_small", "amount"),
        ({"amount": 1190, "currency": "EUR"}, None, "currency"),
    ],
)
def test_parameters_are_those_of_stripes_own_types(
    plain: stripe.StripeClient, params: dict[str, Any], code: str | None, param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        plain.v1.payment_intents.create(cast(PaymentIntentCreateParams, params))
    assert (refusal.value.code, refusal.value.param) == (code, param)


def test_a_key_keeps_its_first_result_for_a_day(
    fake: FakeStripe, client: Client, clock: Clock
) -> None:
    first = client.create_customer({"name": "Ada"}, "key")
    assert client.create_customer({"name": "Ada"}, "key")["id"] == first["id"]
    with pytest.raises(Refused, match="same parameters"):
        client.create_customer({"name": "Bob"}, "key")
    clock.pass_by(hours=24)
    assert client.create_customer({"name": "Ada"}, "key")["id"] != first["id"]
    assert [one["name"] for one in client.customers()] == ["Ada", "Ada"]


def test_it_breaks_as_it_is_told(fake: FakeStripe, client: Client) -> None:
    faults = iter(["500_after", "", "cut_after", "", "cut_before", "429", "500_before"])
    fake.fault = lambda method, path: next(faults)
    with pytest.raises(Unavailable) as broken:
        client.create_customer({"name": "Ada"}, "one")
    assert not isinstance(broken.value, Stuck)
    with pytest.raises(Stuck):  # the 500 is what it keeps, and it had done it
        client.create_customer({"name": "Ada"}, "one")
    with pytest.raises(Unavailable):
        client.create_customer({"name": "Bob"}, "two")
    client.create_customer({"name": "Bob"}, "two")
    for key in ("three", "four", "five"):
        with pytest.raises(Unavailable):
            client.create_customer({"name": "Eve"}, key)
    fake.fault = lambda method, path: ""
    assert [one["name"] for one in client.customers()] == ["Bob", "Ada"]


def test_a_key_in_use_is_a_conflict(fake: FakeStripe, client: Client) -> None:
    begun = threading.Event()
    faults = iter(["hang_after", ""])

    def fault(method: str, path: str) -> str:
        found = next(faults)
        begun.set()
        return found

    fake.fault = fault
    failed: list[Exception] = []

    def hang() -> None:
        try:
            client.create_customer({"name": "Ada"}, "one")
        except Unavailable as problem:
            failed.append(problem)

    thread = threading.Thread(target=hang)
    thread.start()
    assert begun.wait(30)
    fake.resume.set()
    thread.join(30)
    assert len(failed) == 1
    assert client.create_customer({"name": "Ada"}, "one")["name"] == "Ada"


def test_lists_come_in_pages_newest_first(client: Client, clock: Clock) -> None:
    for number in range(7):
        clock.pass_by(seconds=1)
        client.create_customer({"name": str(number)}, str(number))
    pages = client._v1.customers.list({"limit": 3})
    assert (len(pages.data), pages.has_more) == (3, True)
    assert [one["name"] for one in client.customers(limit=3)] == list("6543210")
    after = int(clock.now.timestamp()) - 2
    assert [one["name"] for one in client.customers(created={"gte": after})] == list("654")


def test_money_and_states_agree(fake: FakeStripe, client: Client, clock: Clock) -> None:
    customer = client.create_customer({"name": "Ada"}, "c")["id"]
    opened = client.create_checkout(
        {
            "mode": "setup",
            "customer": customer,
            "allowed_payment_method_types": ["card", "sepa_debit"],
            "success_url": "https://stoa.example/done",
        },
        "s",
    )
    debit = checkout.complete(fake.store, opened["id"], "sepa_debit")
    charge = {
        "amount": 1190,
        "currency": "eur",
        "customer": customer,
        "payment_method": debit["id"],
        "confirm": True,
        "off_session": True,
    }
    intent = client.create_payment(charge, "p")
    assert intent["status"] == "processing"
    with pytest.raises(Refused):  # the bank has it
        client.cancel_payment(intent["id"], "x")
    with pytest.raises(Refused):
        client.create_refund({"payment_intent": intent["id"]}, "too early")
    payments.settle(fake.store, intent["id"])
    assert client.payment(intent["id"])["amount_received"] == 1190
    assert fake.store.balance() == 1190 - 35
    refund = client.create_refund({"payment_intent": intent["id"], "amount": 190}, "r")
    with pytest.raises(Refused, match="greater"):
        client.create_refund({"payment_intent": intent["id"], "amount": 1001}, "r2")
    dispute = payments.dispute(fake.store, intent["id"])
    assert (refund["status"], dispute["amount"], dispute["status"]) == ("succeeded", 1000, "lost")
    assert fake.store.balance() == -35 - payments.DISPUTE_FEE
    assert client.balance()["available"] == [{"amount": -2035, "currency": "eur"}]
    moved = list(client.balance_transactions())
    assert sum(one["net"] for one in moved) == -2035


def test_a_declined_card_says_so_with_its_intent(fake: FakeStripe, client: Client) -> None:
    customer = client.create_customer({"name": "Ada"}, "c")["id"]
    opened = client.create_checkout(
        {"mode": "setup", "customer": customer, "currency": "eur", "success_url": "https://x"}, "s"
    )
    card = checkout.complete(fake.store, opened["id"], "card", "declined")
    charge = {"amount": 1190, "currency": "eur", "customer": customer, "confirm": True}
    with pytest.raises(Declined) as declined:
        client.create_payment(charge | {"payment_method": card["id"]}, "p")
    assert declined.value.reason == "card_declined"
    assert client.payment(declined.value.intent["id"])["status"] == "requires_payment_method"
    assert fake.store.balance() == 0


def test_the_flow_for_stripes_test_mode_fits_the_fake(
    fake: FakeStripe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuple(flow.run(KEY, fake.url)) == flow.EXPECTED
    monkeypatch.delenv("STRIPE_TEST_KEY", raising=False)
    assert flow.main() == 0
    assert capsys.readouterr().out.startswith("skipped: set STRIPE_TEST_KEY")
    monkeypatch.setenv("STRIPE_TEST_KEY", "sk_live_1")
    assert flow.main() == 2
