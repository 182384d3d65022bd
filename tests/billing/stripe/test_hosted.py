"""An invoice that is paid on Stripe's own page, since a card's bank asks its holder to confirm."""

from contextlib import suppress
from random import Random

import pytest

from billing.models import Account, Entity, Invoice
from billing.payments import receipts
from billing.payments.models import Payment
from billing.payments.stripe import checking, configuration, hosted, outbox, paying, setup
from billing.payments.stripe.models import StripeCall, StripePayment
from billing.payments.stripe.problems import Refused, Unavailable
from billing.payments.stripe.setup import Page
from compliance import audit
from tests.billing.stripe import payer
from tests.billing.stripe.payer import House
from tests.stripe_server import checkout, payments
from tests.stripe_server.store import Obj

pytestmark = pytest.mark.django_db


def begin(house: House, invoice: Invoice) -> Page:
    return hosted.begin(
        house.client, invoice.id, **payer.PAGES, actor=audit.SYSTEM, now=house.clock()
    )


def transfers(invoice: Invoice, amount: int, house: House) -> None:
    receipts.receive(
        key=f"camt:{amount}",
        entity_id=invoice.entity_id,
        account_id=invoice.account_id,
        amount=amount,
        currency="EUR",
        method="transfer",
        received_at=house.clock(),
        invoice_ids=(invoice.id,),
        now=house.clock(),
        actor=audit.SYSTEM,
    )


def sessions(house: House) -> list[Obj]:
    return [one for one in house.fake.store.all("checkout.session") if one["mode"] == "payment"]


@pytest.mark.parametrize("behaviour", ["authentication", "action"])
def test_what_off_session_failed_for_is_confirmed_on_the_page(
    house: House, invoice: Invoice, account: Account, entity: Entity, behaviour: str
) -> None:
    payer.gives(house.fake, house.client, account, "card", behaviour, now=house.clock())
    failed = house.pay(invoice)
    assert (failed.state, failed.reason) == ("failed", "authentication_required")
    assert invoice.state == "final"
    found = configuration.current()
    assert found is not None
    assert paying.collect(found, house.clock.pass_by(days=4)) == 0  # it would fail again
    page = begin(house, invoice)
    (session,) = sessions(house)
    assert page == Page(session["url"], session["id"])
    assert session["customer"] == house.client.customers().__next__()["id"]
    assert (session["amount_total"], session["currency"]) == (1190, "eur")
    assert session["client_reference_id"] == session["metadata"]["invoice"] == invoice.id
    assert begin(house, invoice) == page and len(sessions(house)) == 1
    checkout.complete(house.fake.store, page.session_id, "card", "authentication")
    house.work()
    payment = StripePayment.objects.get(session_id=page.session_id)
    assert payment.state == "offered"  # the bank asks, and its holder is there
    checkout.authenticated(house.fake.store, page.session_id)
    house.work()
    payment.refresh_from_db()
    invoice.refresh_from_db()
    assert (payment.state, invoice.state, invoice.settled) == ("succeeded", "paid", 1190)
    assert Payment.objects.get().key == f"stripe:{payment.intent_id}"
    with pytest.raises(paying.NothingToPay, match="not open"):
        begin(house, invoice)
    assert checking.run(house.client, house.clock()).differences == []
    assert house.clearing(entity) == house.fake.store.balance()
    dispute = payments.dispute(house.fake.store, payment.intent_id)
    house.work()
    invoice.refresh_from_db()
    assert (dispute["status"], invoice.state) == ("needs_response", "final")
    assert [one.reason for one in Payment.objects.get().given_back.all()] == ["dispute"]


@pytest.mark.parametrize("first", ["payment_intent.", "checkout.session.", "neither", "any"])
@pytest.mark.parametrize("kind", ["card", "sepa_debit"])
def test_it_is_settled_once_whichever_is_heard_of_first(
    house: House, invoice: Invoice, kind: str, first: str
) -> None:
    page = begin(house, invoice)
    store = house.fake.store
    checkout.complete(store, page.session_id, kind)
    if kind == "sepa_debit":
        house.work()
        assert StripePayment.objects.get().state == "processing"
        with pytest.raises(paying.NothingToPay, match="under way"):
            begin(house, invoice)
        checkout.debited(store, page.session_id)
    if first == "any":
        chance = Random(5)
        for _ in range(6):
            house.hooks.deliver(chance=chance, repeat=0.5, hold=0.5)
            house.work()
    elif first == "neither":
        store.undelivered.clear()
        assert hosted.look(house.client, house.clock.pass_by(hours=2)) == 1
    else:
        events = [store.objects["event"][id] for id in store.undelivered]
        store.undelivered.sort(key=lambda id: not _is(first, events, id))
        for event in [one for one in events if one["type"].startswith(first)]:
            house.hooks.one(event)
        house.work()
        for event in events:  # all of them again
            house.hooks.one(event)
    house.work()
    payment = StripePayment.objects.get()
    invoice.refresh_from_db()
    assert (payment.state, invoice.state, invoice.settled) == ("succeeded", "paid", 1190)
    assert Payment.objects.count() == 1


def _is(prefix: str, events: list[Obj], id: str) -> bool:
    return any(one["id"] == id and one["type"].startswith(prefix) for one in events)


def test_a_declined_card_is_followed_by_another(house: House, invoice: Invoice) -> None:
    page = begin(house, invoice)
    store = house.fake.store
    checkout.complete(store, page.session_id, "card", "declined")
    checkout.complete(store, page.session_id, "card", "authentication")
    house.work()
    checkout.authenticated(store, page.session_id, passed=False)
    house.work()
    payment = StripePayment.objects.get()
    assert (payment.state, payment.payment_id) == ("offered", "")
    checkout.complete(store, page.session_id, "card")
    house.work()
    payment.refresh_from_db()
    invoice.refresh_from_db()
    assert (payment.state, invoice.state) == ("succeeded", "paid")
    assert len(list(store.all("payment_intent"))) == 1
    assert not StripeCall.objects.filter(kind="cancel").exists()


def test_a_debit_that_fails_frees_the_invoice(house: House, invoice: Invoice) -> None:
    page = begin(house, invoice)
    checkout.complete(house.fake.store, page.session_id, "sepa_debit", "fails")
    house.work()
    checkout.debited(house.fake.store, page.session_id)
    house.work()
    payment = StripePayment.objects.get()
    assert (payment.state, payment.reason) == ("failed", "payment_method_insufficient_funds")
    again = begin(house, invoice)
    assert again.session_id != page.session_id
    checkout.complete(house.fake.store, again.session_id, "card")
    house.work()
    invoice.refresh_from_db()
    assert invoice.state == "paid"


def test_a_page_that_nobody_uses_expires_and_counts_as_no_try(
    house: House, invoice: Invoice, account: Account
) -> None:
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    page = begin(house, invoice)
    found = configuration.current()
    assert found is not None
    assert paying.collect(found, house.clock()) == 0  # somebody may be paying it now
    with pytest.raises(paying.NothingToPay, match="on stripe's page"):
        paying.pay(invoice.id, actor=audit.SYSTEM, now=house.clock())
    house.clock.pass_by(hours=1)
    checkout.lapse(house.fake.store)
    house.work()
    payment = StripePayment.objects.get(session_id=page.session_id)
    assert (payment.state, payment.reason) == ("canceled", "page_expired")
    assert paying.collect(found, house.clock()) == 1
    house.work()
    invoice.refresh_from_db()
    assert invoice.state == "paid"


@pytest.mark.parametrize("asked", [True, False])
def test_a_page_for_what_is_no_longer_owed_is_closed(
    house: House, invoice: Invoice, asked: bool
) -> None:
    page = begin(house, invoice)
    assert hosted.tidy(house.clock()) == 0
    transfers(invoice, 190, house)
    if asked:
        another = begin(house, invoice)
        assert another.session_id != page.session_id
        assert [one["amount_total"] for one in sessions(house)] == [1190, 1000]
    else:
        assert hosted.tidy(house.clock()) == 1
    house.work()
    old = StripePayment.objects.get(session_id=page.session_id)
    assert (old.state, sessions(house)[0]["status"]) == ("canceled", "expired")


def test_one_that_was_paid_before_it_could_be_closed_counts(house: House, invoice: Invoice) -> None:
    page = begin(house, invoice)
    checkout.complete(house.fake.store, page.session_id, "card")
    transfers(invoice, 1190, house)
    assert hosted.tidy(house.clock()) == 1
    house.work()
    payment = StripePayment.objects.get()
    assert (payment.state, Payment.objects.count()) == ("succeeded", 2)  # too much: known


@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "500_after"])
def test_one_page_is_made_whatever_breaks(house: House, invoice: Invoice, fault: str) -> None:
    setup.customer_of(house.client, invoice.account_id, now=house.clock())

    def breaks(method: str, path: str) -> str:
        return fault if method == "POST" and path.endswith("/sessions") else ""

    house.fake.fault = breaks
    with pytest.raises(Unavailable):
        begin(house, invoice)
    house.fake.fault = lambda method, path: ""
    with pytest.raises(Unavailable, match="has not opened"):
        begin(house, invoice)  # the call pauses
    house.clock.pass_by(minutes=5)
    with suppress(Unavailable):  # the answer that Stripe keeps is its 500: it is looked into
        begin(house, invoice)
    house.clock.pass_by(minutes=5)
    page = begin(house, invoice)
    assert [one["id"] for one in sessions(house)] == [page.session_id]
    checkout.complete(house.fake.store, page.session_id, "card")
    house.work()
    invoice.refresh_from_db()
    assert (invoice.state, StripePayment.objects.count()) == ("paid", 1)


def test_a_page_that_stripe_hears_of_too_late_is_given_up(house: House, invoice: Invoice) -> None:
    setup.customer_of(house.client, invoice.account_id, now=house.clock())
    house.fake.fault = lambda method, path: "cut_before"
    with pytest.raises(Unavailable):
        begin(house, invoice)
    house.fake.fault = lambda method, path: ""
    house.clock.pass_by(hours=2)
    outbox.deliver(house.client, house.clock())
    payment = StripePayment.objects.get()
    assert (payment.state, sessions(house)) == ("failed", [])
    assert begin(house, invoice).session_id == sessions(house)[0]["id"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"expires_at": 1}, "expires_at"),
        ({"line_items": []}, "line_items"),
        ({"customer": "cus_gone"}, "customer"),
        ({"payment_intent_data": {"colour": "red"}}, "colour"),
    ],
)
def test_the_fake_refuses_what_stripe_would(
    house: House, invoice: Invoice, change: Obj, param: str
) -> None:
    begin(house, invoice)
    body = StripeCall.objects.get(kind="page").body
    assert body is not None
    with pytest.raises(Refused, match=param):
        house.client.create_checkout(body | change, "another")
