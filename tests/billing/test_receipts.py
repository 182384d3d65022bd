"""Payments: once each, what they are for adds up, invoices and books agree, whatever the order."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import errors, services
from billing.books import chart, ledger
from billing.credit import credits
from billing.models import Account, Allocation, Entity, Invoice, LedgerTransaction, Payment
from billing.payments import allotting, receipts
from compliance import audit
from tests.billing import invoices
from tests.billing.events import MONTH, NOW

WHO = audit.Actor("user", "usr_1", "session")


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


def bill(account: Account, entity: Entity, gross: int, month: int = 0) -> Invoice:
    """A final invoice without VAT, posted as finalising it does."""
    start = MONTH - timedelta(days=31 * month)
    sums = {"net": gross, "vat": 0, "gross": gross, "due": gross}
    made = invoices.freeze(
        invoices.draft(account, entity, period_start=start.replace(day=1), **sums)
    )
    chart.post_invoice(
        chart.Sale(made.id, account.id, gross, accrued=gross * chart.NANO_PER_CENT), at=NOW
    )
    return made


def receive(entity: Entity, amount: int, key: str, **facts: Any) -> Payment:
    wanted: dict[str, Any] = {"account_id": None, "currency": "EUR", "method": "transfer", **facts}
    return receipts.receive(
        key=key,
        entity_id=entity.id,
        amount=amount,
        received_at=NOW,
        now=NOW,
        actor=WHO,
        **wanted,
    )


def back(payment: Payment, amount: int, key: str, reason: str = "return", **facts: Any) -> None:
    receipts.give_back(
        key=key, payment_id=payment.id, amount=amount, reason=reason, now=NOW, actor=WHO, **facts
    )


def cents(code: str) -> int:
    return int(ledger.balance(code) * 100)


def settled(*made: Invoice) -> list[tuple[int, str]]:
    for one in made:
        one.refresh_from_db()
    return [(one.settled, one.state) for one in made]


def test_the_oldest_is_paid_first_and_the_rest_is_credit(account: Account, entity: Entity) -> None:
    new, old = bill(account, entity, 500), bill(account, entity, 300, month=1)
    Invoice.objects.filter(pk=old.pk)
    payment = receive(entity, 1000, "k", account_id=account.id)
    assert receive(entity, 1000, "k", account_id=account.id) == payment
    assert settled(new, old) == [(500, "paid"), (300, "paid")]
    assert credits.balance(account.id, NOW).bought == 200
    assert cents(chart.receivable(account.id)) == 0
    assert cents(chart.prepaid(account.id)) == -200
    assert cents(chart.bank(entity.id)) == 1000
    with pytest.raises(errors.IdempotencyConflict):
        receive(entity, 1001, "k", account_id=account.id)


def test_what_is_named_is_paid_before_what_is_older(account: Account, entity: Entity) -> None:
    new, old = bill(account, entity, 500), bill(account, entity, 300, month=1)
    receive(entity, 400, "k", account_id=account.id, invoice_ids=[new.id])
    assert settled(new, old) == [(400, "final"), (0, "final")]
    receive(entity, 300, "j", account_id=account.id, invoice_ids=[new.id, old.id])
    assert settled(new, old) == [(500, "paid"), (200, "final")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": 0}, "bad_amount"),
        ({"amount": -5}, "bad_amount"),
        ({"amount": 10**14}, "bad_amount"),
        ({"currency": "USD"}, "currency_mismatch"),
        ({"method": "cash"}, "bad_method"),
        ({"key": ""}, "bad_key"),
        ({"entity_id": "ent_x"}, "unknown_entity"),
        ({"received_at": NOW + timedelta(days=400)}, "bad_time"),
        ({"invoice_ids": ["inv_x"]}, "unknown_invoice"),
    ],
)
def test_bad_input_is_refused(
    account: Account, entity: Entity, change: dict[str, Any], code: str
) -> None:
    wanted: dict[str, Any] = {
        "key": "k",
        "entity_id": entity.id,
        "account_id": account.id,
        "amount": 5,
        "currency": "EUR",
        "method": "transfer",
        "received_at": NOW,
        "now": NOW,
        "actor": WHO,
        **change,
    }
    with pytest.raises(errors.PaymentRefused) as refused, transaction.atomic():
        receipts.receive(**wanted)
    assert refused.value.code == code
    assert not Payment.objects.exists()


def test_money_of_nobody_waits_until_somebody_knows(account: Account, entity: Entity) -> None:
    owed = bill(account, entity, 500)
    payment = receive(entity, 600, "k")
    assert cents(chart.unmatched(entity.id)) == -600
    for _ in range(2):
        receipts.assign(payment.id, account.id, actor=WHO, now=NOW, invoice_ids=[owed.id])
    assert settled(owed) == [(500, "paid")]
    assert cents(chart.unmatched(entity.id)) == 0
    other = services.open_account(name="Bob", now=MONTH)
    with pytest.raises(errors.PaymentRefused):
        receipts.assign(payment.id, other.id, actor=WHO, now=NOW)


def test_a_return_opens_the_invoice_again_and_costs_its_fee(
    account: Account, entity: Entity
) -> None:
    owed = bill(account, entity, 500)
    payment = receive(entity, 500, "k", account_id=account.id, method="debit")
    for _ in range(2):
        back(payment, 500, "r", fee=300)
    assert settled(owed) == [(0, "final")]
    assert (cents(chart.receivable(account.id)), cents("fees:bank")) == (500, 300)
    assert cents(chart.bank(entity.id)) == -300
    with pytest.raises(errors.PaymentRefused) as refused:
        back(payment, 1, "r2")
    assert refused.value.code == "too_much"
    with pytest.raises(errors.IdempotencyConflict):
        back(payment, 400, "r")


def test_a_dispute_that_is_won_pays_again(account: Account, entity: Entity) -> None:
    owed = bill(account, entity, 500)
    payment = receive(entity, 500, "k", account_id=account.id, method="stripe")
    back(payment, 500, "d", "dispute", fee=1500)
    assert settled(owed) == [(0, "final")]
    back(payment, 500, "w", "dispute_won")
    assert settled(owed) == [(500, "paid")]
    assert cents(chart.clearing("stripe", entity.id)) == 500 - 1500
    receipts.payout(key="po", entity_id=entity.id, amount=100, fee=5, at=NOW)
    assert cents(chart.transfers(entity.id)) == 100


def test_a_refund_takes_credit_first_and_what_was_used_is_a_claim(
    account: Account, entity: Entity
) -> None:
    payment = receive(entity, 1000, "k", account_id=account.id)
    used = credits.use_bought(account.id, invoice_id="inv_1", gross=400, at=NOW, now=NOW)
    chart.post_invoice(
        chart.Sale("inv_1", account.id, 400, accrued=400 * chart.NANO_PER_CENT), at=NOW
    )
    assert used.amount == 400
    with pytest.raises(errors.PaymentRefused) as refused, transaction.atomic():
        back(payment, 700, "r", "refund")
    assert refused.value.code == "credit_used"
    back(payment, 100, "r", "refund")
    assert cents(chart.transfers(entity.id)) == -100  # until the statement has it
    back(payment, 900, "d", "dispute")
    assert allotting.claims(account.id) == 400
    assert credits.balance(account.id, NOW).total == 0
    receive(entity, 500, "again", account_id=account.id)
    assert allotting.claims(account.id) == 0
    assert credits.balance(account.id, NOW).bought == 100


def test_the_database_holds_payments_to_what_they_are_for(account: Account, entity: Entity) -> None:
    payment = receive(entity, 500, "k", account_id=account.id)
    row = Allocation.objects.get()
    for tamper in (
        lambda: Payment.objects.filter(pk=payment.pk).update(amount=900),
        lambda: Allocation.objects.filter(pk=row.pk).update(amount=900),
        payment.delete,
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            tamper()
    with pytest.raises(IntegrityError, match="add up"), transaction.atomic():
        Allocation.objects.create(payment=payment, purpose="credit", amount=5, at=NOW)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["bill", "pay", "nobody", "assign", "refund", "return", "won"]),
        st.integers(1, 3000),
    ),
    min_size=2,
    max_size=12,
)


@pytest.mark.django_db
@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_invoices_credit_and_books_agree_whatever_happens(steps: list[tuple[str, int]]) -> None:
    account = services.open_account(name="Ada", now=MONTH)
    entity = invoices.entity()
    made: list[Invoice] = []
    for number, (what, amount) in enumerate(steps):
        key = f"{account.id}:{number}"
        if what == "bill":
            made.append(bill(account, entity, amount, month=len(made)))
        elif what in ("pay", "nobody"):
            receive(entity, amount, key, account_id=account.id if what == "pay" else None)
        elif what == "assign":
            for one in Payment.objects.filter(entity=entity, account=None)[:1]:
                if one.back < one.amount:
                    receipts.assign(one.id, account.id, actor=WHO, now=NOW)
        else:
            reason = {"won": "dispute_won"}.get(what, what)
            for one in Payment.objects.filter(entity=entity)[:1]:
                most = one.back if what == "won" else one.amount - one.back
                if part := min(most, amount):
                    try:
                        with transaction.atomic():
                            back(one, part, key, reason)
                    except errors.PaymentRefused as refused:
                        assert refused.code == "credit_used" and what == "refund"
        owed = sum(due for due in open_of(made))
        assert cents(chart.receivable(account.id)) == owed
        assert -cents(chart.prepaid(account.id)) == credits.balance(account.id, NOW).bought
        parts = Allocation.objects.filter(payment__entity=entity, purpose="invoice")
        assert sum(parts.values_list("amount", flat=True)) == sum(one.settled for one in made)
        received = sum(Payment.objects.filter(entity=entity).values_list("amount", flat=True))
        gone = sum(Payment.objects.filter(entity=entity).values_list("back", flat=True))
        places = cents(chart.bank(entity.id)) + cents(chart.transfers(entity.id))
        assert places == received - gone
        assert allotting.claims(account.id) >= 0


def open_of(made: list[Invoice]) -> list[int]:
    for one in made:
        one.refresh_from_db()
    return [one.due - one.settled for one in made]


@pytest.mark.django_db(transaction=True)
def test_a_hundred_replays_at_once_book_one_payment() -> None:
    account, entity = services.open_account(name="Ada", now=MONTH), invoices.entity()
    owed = bill(account, entity, 500)
    failures: list[BaseException] = []
    work = iter(range(100))
    lock = threading.Lock()

    def replay() -> None:
        try:
            while True:
                with lock:
                    if (number := next(work, None)) is None:
                        return
                payment = receive(entity, 800, "k", account_id=account.id)
                if number % 2:
                    back(payment, 800, "r")
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=replay) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert settled(owed) == [(0, "final")]
    assert LedgerTransaction.objects.filter(kind="payment").count() == 1
    assert LedgerTransaction.objects.filter(kind="return").count() == 1
    assert cents(chart.bank(entity.id)) == 0
    assert credits.balance(account.id, NOW).total == 0
