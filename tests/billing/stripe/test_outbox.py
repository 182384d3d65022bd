"""The outbox: once, whatever breaks between us and Stripe, and wherever we die."""

from datetime import datetime

import pytest
from django.db import transaction

from billing.models import Account
from billing.payments.stripe import configuration, customers, outbox, setup
from billing.payments.stripe.client import Client
from billing.payments.stripe.configuration import Configuration
from billing.payments.stripe.models import CallState, StripeCall, StripeCustomer
from billing.payments.stripe.problems import NotConfigured, Unavailable
from compliance import audit
from tests.billing.stripe.payer import Clock
from tests.stripe_server import checkout
from tests.stripe_server.server import FakeStripe

pytestmark = pytest.mark.django_db


def ask(account: Account, now: datetime) -> StripeCall:
    customers.ensure(account.id, now=now)
    return StripeCall.objects.get(kind="customer", subject_id=account.id)


def made(fake: FakeStripe) -> int:
    return len(fake.store.objects["customer"])


def test_what_is_written_is_sent_once(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    call = ask(account, clock())
    customers.ensure(account.id, now=clock())  # asks for nothing further
    assert outbox.deliver(client, clock()) == 1
    assert outbox.deliver(client, clock()) == 0
    call.refresh_from_db()
    stored = StripeCustomer.objects.get(pk=account.id)
    (there,) = fake.store.objects["customer"].values()
    assert (call.state, call.result_id) == (CallState.DONE, stored.customer_id)
    assert there["metadata"] == {"account": account.id, "stoa_call": call.id}
    assert there["id"] == stored.customer_id


def test_what_is_rolled_back_is_never_sent(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    with transaction.atomic():
        ask(account, clock())
        transaction.set_rollback(True)
    assert outbox.deliver(client, clock()) == 0
    assert fake.requests == []


@pytest.mark.parametrize("fault", ["500_before", "500_after", "cut_before", "cut_after", "429"])
def test_after_a_fault_it_is_there_once(
    account: Account, fake: FakeStripe, client: Client, clock: Clock, fault: str
) -> None:
    ask(account, clock())
    faults = iter([fault])
    fake.fault = lambda method, path: next(faults, "")
    for _ in range(6):  # a kept 500 is found out, looked into, and asked anew
        outbox.deliver(client, clock())
        clock.pass_by(minutes=5)
    assert made(fake) == 1
    assert StripeCall.objects.get().state == CallState.DONE
    assert customers.of(account.id) in fake.store.objects["customer"]


def test_who_died_while_sending_is_followed(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    """The lease and the request are through; nobody is left to read the answer."""
    call = ask(account, clock())
    leased = outbox._lease(call.id, clock())
    assert leased is not None
    outbox._ask(client, leased, clock())
    assert outbox.deliver(client, clock()) == 0  # another worker leaves it alone meanwhile
    clock.pass_by(minutes=3)
    assert outbox.deliver(client, clock()) == 1
    assert made(fake) == 1


def test_after_a_day_it_looks_before_it_asks_again(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    """Stripe has forgotten the key by then: the same request would be done a second time."""
    ask(account, clock())
    fake.fault = lambda method, path: "cut_after"
    outbox.deliver(client, clock())
    fake.fault = lambda method, path: "cut_before"
    for _ in range(8):
        clock.pass_by(hours=6)
        outbox.deliver(client, clock())
    fake.fault = lambda method, path: ""
    clock.pass_by(hours=6)
    assert outbox.overdue(clock()) == 1
    assert outbox.deliver(client, clock()) == 1
    assert made(fake) == 1
    assert [method for method, _, _ in fake.requests] == ["POST", "GET"]


def test_after_a_day_what_was_never_done_is_done(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    ask(account, clock())
    fake.fault = lambda method, path: "cut_before"
    outbox.deliver(client, clock())
    fake.fault = lambda method, path: ""
    clock.pass_by(days=3)
    assert outbox.deliver(client, clock()) == 1
    assert made(fake) == 1


def test_back_off_grows_and_ends(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    call = ask(account, clock())
    fake.fault = lambda method, path: "cut_before"
    waits = []
    for _ in range(14):
        assert outbox.deliver(client, clock()) == 0
        call.refresh_from_db()
        waits.append((call.next_at - clock()).total_seconds())
        clock.now = call.next_at
    assert waits[0] <= 5 and waits[3] >= 20 and 1800 <= waits[-1] <= 3600
    assert call.attempts == 14 and call.problem


def test_a_means_of_payment_is_stored_without_its_number(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    addresses = {"success_url": "https://stoa.example/b", "cancel_url": "https://stoa.example/c"}
    page = setup.begin(client, account.id, **addresses, now=clock())
    assert page.url.startswith("https://checkout.stripe.com/")
    assert setup.observe(client, page.session_id, now=clock()) is None  # nobody filled it in yet
    given = checkout.complete(fake.store, page.session_id, "sepa_debit")
    method = setup.observe(client, page.session_id, now=clock())
    assert method is not None
    assert setup.observe(client, page.session_id, now=clock()) == method
    assert (method.kind, method.last4, method.country) == ("sepa_debit", "3000", "DE")
    assert method.mandate.startswith("STRIPE")
    assert setup.methods(account.id) == [method]
    (asked,) = (body for _, path, body in fake.requests if path == "/v1/checkout/sessions")
    assert "automatic_tax" not in asked and "tax_id_collection" not in asked
    outbox.deliver(client, clock())
    setup.detach(method, actor=audit.SYSTEM, now=clock())
    assert setup.methods(account.id) == []
    outbox.deliver(client, clock())
    assert fake.store.objects["payment_method"][given["id"]]["customer"] is None


def test_a_page_that_nobody_waits_for_is_dropped(
    account: Account, fake: FakeStripe, client: Client, clock: Clock
) -> None:
    addresses = {"success_url": "https://stoa.example/b", "cancel_url": "https://stoa.example/c"}
    fake.fault = lambda method, path: "cut_before"
    with pytest.raises(Unavailable):
        setup.begin(client, account.id, **addresses, now=clock())
    fake.fault = lambda method, path: ""
    clock.pass_by(hours=1)
    outbox.deliver(client, clock())
    clock.pass_by(hours=1)
    outbox.deliver(client, clock())
    assert fake.store.objects["checkout.session"] == {}
    assert made(fake) == 1
    assert not StripeCall.objects.filter(state="waiting").exists()


def test_off_says_what_to_set() -> None:
    assert configuration.current() is None
    with pytest.raises(NotConfigured, match="STOA_STRIPE_API_KEY"):
        configuration.required()
    assert not Configuration(key="sk_test_1").livemode
    assert Configuration(key="rk_live_1").livemode
