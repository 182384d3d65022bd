"""Invoices that Stripe collects: by card and by debit, paid, failed, refunded, disputed."""

from datetime import timedelta

import pytest

from billing.books import chart, ledger
from billing.models import Account, Entity, Invoice
from billing.payments import receipts
from billing.payments.models import Payment
from billing.payments.stripe import configuration, movements, paying
from billing.payments.stripe.models import (
    CallState,
    StripeCall,
    StripeEvent,
    StripeMovement,
    StripePayment,
)
from compliance import audit
from compliance.privacy import retention
from tests.billing.stripe import payer
from tests.billing.stripe.payer import House
from tests.stripe_server import payments

pytestmark = pytest.mark.django_db


def test_a_card_pays_at_once(
    house: House, invoice: Invoice, account: Account, entity: Entity
) -> None:
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    payment = house.pay(invoice)
    assert (payment.state, invoice.state, invoice.settled) == ("succeeded", "paid", 1190)
    receipt = Payment.objects.get()
    assert (receipt.id, receipt.key) == (payment.payment_id, f"stripe:{payment.intent_id}")
    assert (receipt.method, receipt.reference) == ("stripe", invoice.label)
    assert house.clearing(entity) == 1190
    assert ledger.balance(chart.receivable(account.id)) == 0
    (intent,) = house.fake.store.objects["payment_intent"].values()
    assert (intent["amount"], intent["currency"]) == (1190, "eur")
    assert intent["description"] == invoice.label
    assert intent["metadata"]["invoice"] == invoice.id
    with pytest.raises(paying.NothingToPay, match="not open"):
        paying.pay(invoice.id, actor=audit.SYSTEM, now=house.clock())


def test_a_debit_is_under_way_until_the_bank_has_answered(
    house: House, invoice: Invoice, account: Account
) -> None:
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    assert (payment.state, invoice.state) == ("processing", "final")
    with pytest.raises(paying.NothingToPay, match="under way"):
        paying.pay(invoice.id, actor=audit.SYSTEM, now=house.clock())
    house.clock.pass_by(days=5)
    payments.settle(house.fake.store, payment.intent_id)
    house.work()
    payment.refresh_from_db()
    invoice.refresh_from_db()
    assert (payment.state, invoice.state) == ("succeeded", "paid")


def test_without_any_webhook_it_is_asked_for(
    house: House, invoice: Invoice, account: Account
) -> None:
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    payments.settle(house.fake.store, payment.intent_id)
    assert paying.look(house.client, house.clock()) == 0  # it was looked at just now
    house.clock.pass_by(hours=2)
    assert paying.look(house.client, house.clock()) == 1
    payment.refresh_from_db()
    assert payment.state == "succeeded"
    assert paying.look(house.client, house.clock.pass_by(hours=2)) == 0


@pytest.mark.parametrize(
    ("kind", "behaviour", "reason"),
    [
        ("card", "declined", "card_declined"),
        ("card", "authentication", "authentication_required"),
        ("sepa_debit", "fails", "payment_method_insufficient_funds"),
    ],
)
def test_a_failure_has_a_reason_and_nothing_stays_open_at_stripe(
    house: House, invoice: Invoice, account: Account, kind: str, behaviour: str, reason: str
) -> None:
    payer.gives(house.fake, house.client, account, kind, behaviour, now=house.clock())
    payment = house.pay(invoice)
    if kind == "sepa_debit":
        payments.settle(house.fake.store, payment.intent_id)
        house.work()
        payment.refresh_from_db()
    assert (payment.state, payment.reason, invoice.state) == ("failed", reason, "final")
    (intent,) = house.fake.store.objects["payment_intent"].values()
    assert intent["status"] == "canceled"  # nobody confirms it later, beside the next one
    assert Payment.objects.count() == 0
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    assert house.pay(invoice).state == "succeeded"  # the newest means of payment is used
    assert invoice.state == "paid"


def test_what_was_settled_in_the_meantime_is_not_charged(
    house: House, invoice: Invoice, account: Account, entity: Entity
) -> None:
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    payment = paying.pay(invoice.id, actor=audit.SYSTEM, now=house.clock())
    receipts.receive(
        key="camt:1",
        entity_id=entity.id,
        account_id=account.id,
        amount=190,
        currency="EUR",
        method="transfer",
        received_at=house.clock(),
        invoice_ids=(invoice.id,),
        now=house.clock(),
        actor=audit.SYSTEM,
    )
    house.work()
    payment.refresh_from_db()
    assert (payment.state, payment.reason) == ("canceled", "invoice_changed")
    assert house.fake.store.objects["payment_intent"] == {}
    assert house.pay(invoice).amount == 1000  # the rest, asked for anew
    assert invoice.state == "paid"


def test_nothing_is_asked_for_without_means_or_in_vain(
    house: House, invoice: Invoice, account: Account, entity: Entity
) -> None:
    with pytest.raises(paying.NoMethod):
        paying.pay(invoice.id, actor=audit.SYSTEM, now=house.clock())
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    Entity.objects.filter(pk=entity.id).update(invoice_issuer="stripe")
    with pytest.raises(paying.NothingToPay, match="Stripe issues"):
        paying.pay(invoice.id, actor=audit.SYSTEM, now=house.clock())
    assert StripePayment.objects.count() == 0


def test_a_refund_reopens_and_one_that_fails_closes_again(
    house: House, invoice: Invoice, account: Account, entity: Entity
) -> None:
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    payment = house.pay(invoice)
    movements.refund(payment.id, 190, actor=audit.SYSTEM, now=house.clock())
    with pytest.raises(movements.CannotRefund, match="1000 cents"):
        movements.refund(payment.id, 1001, actor=audit.SYSTEM, now=house.clock())
    house.work()
    invoice.refresh_from_db()
    assert (invoice.state, invoice.settled) == ("final", 1000)
    assert house.clearing(entity) == 1000
    (refund,) = house.fake.store.objects["refund"].values()
    payments.fail_refund(house.fake.store, refund["id"])
    house.work()
    invoice.refresh_from_db()
    assert (invoice.state, house.clearing(entity)) == ("paid", 1190)
    movement = StripeMovement.objects.get()
    assert (movement.status, movement.taken, movement.restored) == ("failed", True, True)


@pytest.mark.parametrize("won", [True, False])
def test_a_dispute_reopens_and_one_that_is_won_closes_again(
    house: House, invoice: Invoice, account: Account, entity: Entity, won: bool
) -> None:
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    payment = house.pay(invoice)
    dispute = payments.dispute(house.fake.store, payment.intent_id)
    house.work()
    invoice.refresh_from_db()
    assert (invoice.state, house.clearing(entity)) == ("final", 0)
    payments.close_dispute(house.fake.store, dispute["id"], won=won)
    house.work()
    invoice.refresh_from_db()
    expected = ("paid", 1190) if won else ("final", 0)
    assert (invoice.state, house.clearing(entity)) == expected
    found = configuration.current()
    assert found is not None
    house.clock.pass_by(days=30)  # nobody is charged again on his own account after a dispute
    assert paying.collect(found, house.clock()) == 0


def test_a_returned_debit_opens_the_invoice_even_if_told_first(
    house: House, invoice: Invoice, account: Account, entity: Entity
) -> None:
    """The return is heard of before the success: Stripe is asked about both."""
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    payments.settle(house.fake.store, payment.intent_id)
    payments.dispute(house.fake.store, payment.intent_id)
    house.fake.store.undelivered.reverse()
    house.work()
    payment.refresh_from_db()
    invoice.refresh_from_db()
    assert (payment.state, invoice.state, house.clearing(entity)) == ("succeeded", "final", 0)
    assert [one.reason for one in Payment.objects.get().given_back.all()] == ["return"]


def test_what_is_of_nobody_here_is_kept_and_left_alone(house: House, invoice: Invoice) -> None:
    client, store = house.client, house.fake.store
    client.create_customer({"name": "somebody else's"}, "k")
    client.create_payment({"amount": 500, "currency": "eur"}, "p")
    store.emit("galaxy.discovered", {"id": "gal_1", "object": "galaxy", "currency": "eur"})
    store.emit("payment_intent.succeeded", {"id": "pi_gone", "object": "payment_intent"})
    house.work()
    outcome = dict(StripeEvent.objects.values_list("type", "problem"))
    assert outcome["galaxy.discovered"] == "of a type that nothing follows from"
    assert outcome["payment_intent.created"] == "of nothing of ours"
    assert "No such payment_intent" in outcome["payment_intent.succeeded"]
    assert set(StripeEvent.objects.values_list("state", flat=True)) == {"ignored"}
    assert Payment.objects.count() == 0


def test_events_of_the_other_mode_are_left_alone(
    house: House, invoice: Invoice, account: Account
) -> None:
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    payments.settle(house.fake.store, payment.intent_id)
    for event in house.fake.store.objects["event"].values():
        event["livemode"] = True
    house.work()
    payment.refresh_from_db()
    assert payment.state == "processing"


def test_events_wait_while_stripe_is_away(house: House, invoice: Invoice, account: Account) -> None:
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    payments.settle(house.fake.store, payment.intent_id)
    house.fake.fault = lambda method, path: "cut_before"
    house.work()
    waiting = StripeEvent.objects.filter(state="waiting")
    assert waiting.exists()
    house.fake.fault = lambda method, path: ""
    house.clock.pass_by(hours=1)
    house.work()
    payment.refresh_from_db()
    assert payment.state == "succeeded" and not waiting.exists()
    house.clock.pass_by(days=91)
    kept = StripeEvent.objects.count()
    assert kept and retention.carry_out("stripe_event", house.clock()) == kept


def test_a_payment_in_another_currency_is_not_booked(
    house: House, invoice: Invoice, account: Account
) -> None:
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    house.fake.store.objects["payment_intent"][payment.intent_id]["currency"] = "usd"
    payments.settle(house.fake.store, payment.intent_id)
    house.work()
    payment.refresh_from_db()
    invoice.refresh_from_db()
    assert (payment.state, payment.reason) == ("processing", "currency_mismatch")
    assert (invoice.state, Payment.objects.count()) == ("final", 0)


def test_what_is_due_is_collected_with_notice_and_not_for_ever(
    house: House, invoice: Invoice, account: Account
) -> None:
    found = configuration.current()
    assert found is not None and invoice.final_at is not None
    assert paying.collect(found, house.clock()) == 0  # there is no means of payment
    payer.gives(house.fake, house.client, account, "sepa_debit", "fails", now=house.clock())
    soon = invoice.final_at + timedelta(days=13)
    assert paying.collect(found, soon) == 0  # a debit has 14 days' notice
    for tries in (1, 2, 3):
        assert paying.collect(found, house.clock()) == 1
        assert paying.collect(found, house.clock()) == 0  # under way
        house.work()
        payment = StripePayment.objects.get(state="processing")
        payments.settle(house.fake.store, payment.intent_id)
        house.work()
        assert StripePayment.objects.filter(state="failed").count() == tries
        assert paying.collect(found, house.clock()) == 0  # not again on the same day
        house.clock.pass_by(days=4)
    assert paying.collect(found, house.clock()) == 0  # three times is enough
    states = set(StripeCall.objects.values_list("state", flat=True))
    assert states == {CallState.DONE}
