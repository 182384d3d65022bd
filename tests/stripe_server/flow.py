"""`make stripe-test-mode`: the calls of the adapter, against Stripe's real test mode.

With STRIPE_TEST_KEY=sk_test_… of an account of your own it makes one customer, one page, two
payments and a refund there, says what Stripe answered to each, and compares it with what our own
fake answers, which the tests rest on. Nothing is charged in test mode. A SEPA debit is left out:
its mandate is given by a person on the page.
"""

import os
import secrets
import sys
from typing import Any

import stripe

from billing.payments.stripe.client import Client
from billing.payments.stripe.configuration import Configuration
from billing.payments.stripe.problems import Declined, Refused

# What each step shows; the fake answers exactly this (tests/billing/stripe/test_fake.py).
EXPECTED = (
    ("api version", stripe.api_version),
    ("customer", "customer"),
    ("the same key again", "the same customer"),
    ("the same key, other parameters", "idempotency_error"),
    ("an unknown parameter", "parameter_unknown"),
    ("a page that stores a means of payment", "open"),
    ("payment by card", "succeeded 1190 eur"),
    ("found by its mark", "1"),
    ("refund", "succeeded 190"),
    ("a card that is declined", "card_declined"),
    ("what it left", "requires_payment_method"),
    ("canceled", "canceled"),
    ("movements of the balance", "payment and refund"),
)


def run(key: str, base: str = "") -> list[tuple[str, str]]:
    """The steps and what was answered; raises what the adapter raises."""
    client = Client(Configuration(key, base=base))
    mark = f"flow-{secrets.token_hex(8)}"
    said = [("api version", stripe.api_version)]
    named = {"name": "Stoa's test flow", "metadata": {"stoa_call": mark}}
    customer = client.create_customer(named, f"{mark}-c")
    said.append(("customer", customer["object"]))
    again = client.create_customer(named, f"{mark}-c")["id"] == customer["id"]
    said.append(("the same key again", "the same customer" if again else "another customer"))
    said.append(
        (
            "the same key, other parameters",
            _refusal(lambda: client.create_customer({"name": "other"}, f"{mark}-c")),
        )
    )
    odd = {"name": "x", "colour": "red"}
    said.append(
        ("an unknown parameter", _refusal(lambda: client.create_customer(odd, f"{mark}-x")))
    )
    page = client.create_checkout(
        {
            "mode": "setup",
            "customer": customer["id"],
            "allowed_payment_method_types": ["card", "sepa_debit"],
            "success_url": "https://stoa.example/done",
            "cancel_url": "https://stoa.example/back",
        },
        f"{mark}-s",
    )
    said.append(("a page that stores a means of payment", page["status"]))
    return [*said, *_paid(client, mark, customer["id"])]


def _paid(client: Client, mark: str, customer: str) -> list[tuple[str, str]]:
    """A payment that goes well and is given back in part, and one that does not."""
    said = []
    charge: dict[str, Any] = {
        "amount": 1190,
        "currency": "eur",
        "customer": customer,
        "confirm": True,
        "off_session": True,
        "metadata": {"stoa_call": mark},
    }
    card = _attach(client, "pm_card_visa", customer)
    paid = client.create_payment(charge | {"payment_method": card}, f"{mark}-p")
    shown = f"{paid['status']} {paid['amount_received']} {paid['currency']}"
    said.append(("payment by card", shown))
    found = [
        one
        for one in client.payments(customer=customer)
        if one["metadata"].get("stoa_call") == mark
    ]
    said.append(("found by its mark", str(len(found))))
    refund = client.create_refund({"payment_intent": paid["id"], "amount": 190}, f"{mark}-r")
    said.append(("refund", f"{refund['status']} {refund['amount']}"))
    said += _declined(client, mark, charge)
    kinds = {one["type"] for one in client.balance_transactions(source=paid["latest_charge"])}
    kinds |= {one["type"] for one in client.balance_transactions(source=refund["id"])}
    complete = kinds & {"charge", "payment"} and kinds & {"refund", "payment_refund"}
    said.append(("movements of the balance", "payment and refund" if complete else str(kinds)))
    return said


def _declined(client: Client, mark: str, charge: dict[str, Any]) -> list[tuple[str, str]]:
    said = []
    bad = _attach(client, "pm_card_chargeCustomerFail", charge["customer"])
    try:
        client.create_payment(charge | {"payment_method": bad}, f"{mark}-d")
    except Declined as declined:
        said.append(("a card that is declined", declined.reason))
        said.append(("what it left", client.payment(declined.intent["id"])["status"]))
        left = client.cancel_payment(declined.intent["id"], f"{mark}-k")
        said.append(("canceled", left["status"]))
    return said


def _attach(client: Client, token: str, customer: str) -> str:
    return str(client._v1.payment_methods.attach(token, {"customer": customer}).id)


def _refusal(call: Any) -> str:
    try:
        call()
    except Refused as refused:
        return refused.reason
    return "accepted"


def main() -> int:
    key = os.environ.get("STRIPE_TEST_KEY", "")
    if not key:
        print("skipped: set STRIPE_TEST_KEY to a test key (sk_test_…) of your Stripe account")
        return 0
    if "_test_" not in key:
        print("STRIPE_TEST_KEY is no test key: nothing was done", file=sys.stderr)
        return 2
    said = run(key)
    for (step, answer), (_, expected) in zip(said, EXPECTED, strict=False):
        print(f"{'ok  ' if answer == expected else 'BAD '} {step}: {answer} (expected {expected})")
    return 0 if tuple(said) == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
