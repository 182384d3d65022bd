"""Our books and Stripe's: to the cent, or somebody is told."""

from datetime import timedelta
from typing import Any

import pytest

from billing.books import chart, ledger
from billing.models import Account, BankEntry, Entity, Invoice
from billing.payments import statements
from billing.payments.stripe import bookings, checking, steps
from billing.payments.stripe.models import StripeBooking, StripeCheck
from compliance import audit
from compliance.models import AuditEvent
from tests.billing.sepa.bank import Movement, document
from tests.billing.sepa.bank import Payment as Paid
from tests.billing.stripe import payer
from tests.billing.stripe.payer import House
from tests.stripe_server import customers, payments
from tests.stripe_server.store import Obj

pytestmark = pytest.mark.django_db


def check(house: House) -> list[str]:
    found = checking.run(house.client, house.clock()).differences
    assert isinstance(found, list)
    return found


def balance(code: str) -> int:
    return int(ledger.balance(code).scaleb(2))


@pytest.fixture
def paid(house: House, invoice: Invoice, account: Account) -> Obj:
    """€11.90 by card, of which Stripe keeps 43 cents."""
    payer.gives(house.fake, house.client, account, "card", now=house.clock())
    payment = house.pay(invoice)
    return house.fake.store.objects["payment_intent"][payment.intent_id]


def test_fees_and_payouts_are_booked_and_the_rest_agrees(
    house: House, paid: Obj, entity: Entity
) -> None:
    assert check(house) == []
    assert check(house) == []  # again: nothing twice
    assert balance(chart.fees("stripe")) == 43
    assert house.clearing(entity) == house.fake.store.balance() == 1147
    payout = payments.pay_out(house.fake.store)
    assert payout is not None and check(house) == []
    assert house.clearing(entity) == 0
    assert balance(chart.transfers(entity.id)) == 1147
    assert AuditEvent.objects.filter(action="payment.check", outcome="success").count() == 3


def test_a_payout_is_known_on_the_banks_statement_once(
    house: House, paid: Obj, entity: Entity
) -> None:
    payments.pay_out(house.fake.store)
    check(house)
    day = house.clock().date() + timedelta(days=2)
    asked: dict[str, Any] = {
        "currency": "EUR",
        "booked_on": day,
        "text": "STRIPE TECHNOLOGY EUROPE PAYOUT",
    }
    assert not bookings.claims(amount=1146, **asked)
    assert not bookings.claims(amount=1147, **asked | {"text": "ACME GmbH"})
    assert not bookings.claims(amount=1147, **asked | {"booked_on": day + timedelta(days=9)})
    assert bookings.claims(amount=1147, **asked)
    assert not bookings.claims(amount=1147, **asked)
    assert balance(chart.transfers(entity.id)) == 0
    assert balance(chart.bank(entity.id)) == 1147
    house.clock.pass_by(days=12)
    assert check(house) == []


def test_a_payout_on_a_statement_is_nobodys_payment(
    house: House, paid: Obj, entity: Entity
) -> None:
    payments.pay_out(house.fake.store)
    check(house)
    day = f"{house.clock() + timedelta(days=2):%Y-%m-%d}"
    sent = Paid("11.47", text="STRIPE PAYOUT", name="Stripe Technology Europe", iban="")
    file = document([Movement("11.47", [sent], day=day)], opening="0.00")
    (done,) = statements.read(file, actor=audit.SYSTEM, now=house.clock.pass_by(days=3))
    entry = BankEntry.objects.get()
    assert (entry.outcome, entry.rest, entry.payment, done.open) == ("payout", 0, None, [])
    assert balance(chart.bank(entity.id)) == statements.balance(entity.id) == 1147
    assert balance(chart.transfers(entity.id)) == balance(chart.unmatched(entity.id)) == 0


def test_a_payout_that_never_arrives_is_told(house: House, paid: Obj) -> None:
    payout = payments.pay_out(house.fake.store)
    house.clock.pass_by(days=11)
    assert payout is not None
    assert check(house) == [f"payout {payout['id']} is on no bank statement yet"]


def test_what_no_webhook_told_is_found(
    house: House, invoice: Invoice, account: Account, entity: Entity
) -> None:
    """A debit, its success and its return: every webhook was lost."""
    payer.gives(house.fake, house.client, account, "sepa_debit", now=house.clock())
    payment = house.pay(invoice)
    house.clock.pass_by(days=5)
    payments.settle(house.fake.store, payment.intent_id)
    house.fake.store.undelivered.clear()
    assert check(house) == []
    invoice.refresh_from_db()
    assert invoice.state == "paid"
    payments.dispute(house.fake.store, payment.intent_id)
    house.fake.store.undelivered.clear()
    house.clock.pass_by(days=1)
    assert check(house) == []
    invoice.refresh_from_db()
    assert invoice.state == "final"
    assert house.clearing(entity) == house.fake.store.balance() == -35 - payments.DISPUTE_FEE


def test_money_that_is_not_of_us_is_told_every_day(
    house: House, paid: Obj, account: Account
) -> None:
    store = house.fake.store
    stranger = customers.create(store, {"name": "somebody"})["id"]
    card = customers.make_method(store, "card", stranger, "ok")["id"]
    intent = payments.create(
        store,
        {
            "amount": 500,
            "currency": "eur",
            "customer": stranger,
            "payment_method": card,
            "confirm": True,
        },
    )
    for _ in range(2):
        differences = check(house)
        assert differences[0] == f"{intent['latest_charge']} is of no payment of ours"
        assert "Stripe holds 1614" in differences[1] and "ledger says 1147" in differences[1]
        house.clock.pass_by(days=4)


def test_what_nobody_knows_is_told(house: House, paid: Obj) -> None:
    store = house.fake.store
    store.book("reserve_transaction", {"id": "rt_1", "currency": "eur"}, -100, 0)
    differences = check(house)
    assert "reserve_transaction of rt_1: nobody knows what that is" in differences[0]
    assert StripeBooking.objects.filter(type="reserve_transaction").count() == 0


def test_fees_beside_payments_are_booked(house: House, paid: Obj, entity: Entity) -> None:
    store = house.fake.store
    store.book("stripe_fee", {"id": "fee_1", "currency": "eur"}, -200, 0)
    assert check(house) == []
    assert balance(chart.fees("stripe")) == 243
    assert house.clearing(entity) == store.balance() == 947


def test_a_second_issuer_is_told(house: House, paid: Obj) -> None:
    """Two invoices for one supply: the VAT would be owed twice."""
    made = house.fake.store.make("invoice", "in", status="open", total=1190)
    assert check(house) == [f"Stripe issued invoice {made['id']}, and this platform issues them"]


def test_a_lost_receipt_is_told(house: House, paid: Obj, entity: Entity) -> None:
    """The ledger says less than Stripe holds: somebody posted past all rules."""
    clearing = chart.clearing("stripe", entity.id)
    ledger.post(
        idempotency_key="wrong",
        kind="wrong",
        effective_at=house.clock(),
        entries=[ledger.Entry(clearing, -1), ledger.Entry(chart.unmatched(entity.id), 1)],
    )
    (difference,) = check(house)
    assert "Stripe holds 1147" in difference and "ledger says 1146" in difference


def test_it_is_due_once_a_day_and_again_after_an_outage(house: House, paid: Obj) -> None:
    assert checking.due(house.clock())
    house.fake.fault = lambda method, path: "cut_before"
    steps.tend_slowly(house.clock())
    assert StripeCheck.objects.get().finished_at is None
    assert not checking.due(house.clock())
    house.clock.pass_by(hours=1)
    house.fake.fault = lambda method, path: ""
    steps.tend_slowly(house.clock())
    assert StripeCheck.objects.exclude(finished_at=None).get().differences == []
    house.clock.pass_by(hours=23)
    assert not checking.due(house.clock())
    assert checking.due(house.clock.pass_by(hours=1))
