"""Bank statements and direct debits with rows and books: once, whole, and for a person the rest."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from billing import errors, services
from billing.books import chart, ledger
from billing.credit import credits
from billing.models import Account, BankEntry, BankStatement, Debit, Entity, Invoice, Payment
from billing.payments import debits, statements
from billing.payments.overdue import overdue
from billing.sepa.camt053 import read
from billing.sepa.statements import StatementRefused
from compliance import audit
from compliance.models import AuditEvent
from tests.billing import invoices
from tests.billing.events import MONTH
from tests.billing.sepa.bank import Movement, document
from tests.billing.sepa.bank import Payment as Paid
from tests.billing.sepa.test_bank import OURS, PAYER, ask
from tests.billing.sepa.test_bank import bank as bank  # the fixture
from tests.billing.sepa.test_bank import statements as written
from tests.billing.test_receipts import bill

WHO = audit.Actor("user", "usr_1", "session")
NOW = datetime(2026, 11, 27, tzinfo=UTC)
RAISED = datetime(2026, 12, 2, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity(creditor_id="DE98ZZZ09999999999")


def load(data: bytes, now: datetime = NOW) -> list[statements.Imported]:
    return statements.read(data, actor=WHO, now=now)


def refused(data: bytes) -> str:
    with pytest.raises(StatementRefused) as caught:
        load(data)
    return caught.value.code


def cents(code: str) -> int:
    return int(ledger.balance(code) * 100)


def settled(invoice: Invoice) -> tuple[int, str]:
    invoice.refresh_from_db()
    return invoice.settled, invoice.state


def books_agree(entity: Entity) -> None:
    assert cents(chart.bank(entity.id)) == statements.balance(entity.id)


def test_payments_find_their_invoices_and_the_rest_waits(account: Account, entity: Entity) -> None:
    first, second = bill(account, entity, 1190), bill(account, entity, 500, month=1)
    (done,) = load(
        document(
            [
                Movement("11.90", [Paid("11.90", f"Rechnung {first.label}")], "B1"),
                Movement("8.00", [Paid("8.00", second.label)], "B2"),
                Movement("70.00", [Paid("70.00", "thank you", name="Somebody")], "B3"),
                Movement("-4.90", [], "B4", info="account fees"),
            ]
        )
    )
    assert (done.booked, done.duplicates) == (4, 0)
    assert (settled(first), settled(second)) == ((1190, "paid"), (500, "paid"))
    assert credits.balance(account.id, NOW).bought == 300  # paid too much
    assert [(one.rest, one.outcome) for one in done.open] == [
        (7000, "unmatched"),
        (-490, "outgoing"),
    ]
    books_agree(entity)
    assert cents(chart.bank(entity.id)) == 100_000 + 1190 + 800 + 7000 - 490
    assert cents(chart.opening(entity.id)) == -100_000
    incoming, fee = done.open
    with pytest.raises(errors.PaymentRefused):
        statements.assign(fee.id, account.id, actor=WHO, now=NOW)
    with pytest.raises(errors.PaymentRefused):
        statements.explain(incoming.id, "gift", actor=WHO, now=NOW)
    statements.assign(incoming.id, account.id, actor=WHO, now=NOW)
    statements.explain(fee.id, "fee", actor=WHO, now=NOW)
    with pytest.raises(errors.PaymentRefused):
        statements.explain(fee.id, "fee", actor=WHO, now=NOW)
    assert statements.undecided() == []
    assert (cents("fees:bank"), cents(chart.transfers(entity.id))) == (490, 0)
    assert credits.balance(account.id, NOW).bought == 7300
    assert AuditEvent.objects.filter(action="bank_entry.decide").count() == 2


def test_a_statement_counts_once_and_overlaps_are_told_apart(
    account: Account, entity: Entity
) -> None:
    owed = bill(account, entity, 2000)
    one = Movement("10.00", [Paid("10.00", owed.label)], "B1")
    two = Movement("10.00", [Paid("10.00", owed.label)], "B2")
    load(document([one]))
    (again,) = load(document([one]))
    assert (again.booked, again.duplicates) == (0, 1)
    assert settled(owed) == (1000, "final")
    (wider,) = load(document([one, two], identifier="STMT-2"))
    assert (wider.booked, wider.duplicates) == (1, 1)
    assert settled(owed) == (2000, "paid")
    assert BankEntry.objects.count() == Payment.objects.count() == 2
    assert BankStatement.objects.count() == 2
    books_agree(entity)


def test_forged_foreign_and_broken_statements_book_nothing(
    account: Account, entity: Entity
) -> None:
    paid = Movement("10.00", [Paid("10.00", bill(account, entity, 1000).label)], "B1")
    assert refused(document([paid], closing="1011.00")) == "balance_mismatch"
    Entity.objects.filter(pk=entity.pk).update(iban="NL41MOCK0000000001")
    assert refused(document([paid])) == "foreign_account"
    assert not Payment.objects.exists() and not BankStatement.objects.exists()


def test_a_hole_between_statements_is_refused(entity: Entity) -> None:
    load(document([Movement("10.00", [Paid("10.00")], "B1")]))
    later = document(
        [Movement("5.00", [Paid("5.00")], "B3")], opening="1030.00", identifier="STMT-3"
    )
    assert refused(later) == "hole"
    load(document([Movement("20.00", [Paid("20.00")], "B2")], opening="1010.00", identifier="2"))
    load(later)
    assert statements.balance(entity.id) == 103_500


def test_a_refund_that_was_sent_is_told_its_payment(account: Account, entity: Entity) -> None:
    paid = Movement("10.00", [Paid("10.00", bill(account, entity, 600).label)], "B1")
    (done,) = load(document([paid, Movement("-4.00", [], "B2", info="refund")]))
    payment = Payment.objects.get()
    statements.refunded(done.open[0].id, payment.id, actor=WHO, now=NOW)
    payment.refresh_from_db()
    assert (payment.back, credits.balance(account.id, NOW).bought) == (400, 0)
    assert cents(chart.transfers(entity.id)) == 0
    books_agree(entity)


def mandate(account: Account, name: str = "M-1", **facts: Any) -> Any:
    wanted: dict[str, Any] = {
        "reference": name,
        "signed_on": date(2026, 10, 1),
        "debtor_name": "Calcul SA",
        "debtor_iban": PAYER,
        "now": datetime(2026, 11, 13, tzinfo=UTC),
        "actor": WHO,
    }
    return debits.create_mandate(account.id, **wanted | facts)


@pytest.mark.parametrize(
    "change",
    [
        {"debtor_iban": "DE00"},
        {"reference": "inv_1"},
        {"signed_on": date(2027, 1, 1)},
        {"scheme": "CASH"},
        {"notice_days": 0},
        {"debtor_bic": "X"},
        {"debtor_name": "株式会社"},
    ],
)
def test_mandates_that_no_bank_would_take_are_refused(
    account: Account, change: dict[str, Any]
) -> None:
    with pytest.raises(errors.PaymentRefused):
        mandate(account, **change)


def test_what_changed_since_it_was_announced_is_not_collected(
    account: Account, entity: Entity
) -> None:
    invoices.customer(account, entity, collection="debit")
    owed = bill(account, entity, 1190)
    told = datetime(2026, 11, 13, tzinfo=UTC)
    assert debits.announce(actor=WHO, now=told) == []  # without a mandate
    signed = mandate(account)
    (debit,) = debits.announce(actor=WHO, now=told)
    assert (debit.amount, debit.end_to_end) == (1190, owed.label)
    assert debits.announce(actor=WHO, now=told) == []
    debits.revoke_mandate(signed, actor=WHO, now=told)
    assert debits.collect(actor=WHO, now=told) == []
    debit.refresh_from_db()
    assert (debit.state, debit.because) == ("cancelled", "the mandate was revoked")
    mandate(account, "M-2")
    (debit,) = debits.announce(actor=WHO, now=told)
    assert debit.end_to_end == f"{owed.label}-2"
    load(document([Movement("5.00", [Paid("5.00", owed.label)], "B1")]))
    assert debits.collect(actor=WHO, now=told) == []
    debit.refresh_from_db()
    assert (debit.state, "another amount" in debit.because) == ("cancelled", True)


def test_a_month_end_by_a_bank_alone(bank: httpx.Client, entity: Entity) -> None:
    """Debits of our books go to a bank that others wrote, its statements come back into them."""
    Entity.objects.filter(pk=entity.pk).update(iban=OURS)
    accounts = [services.open_account(name=f"Customer {n}", now=MONTH) for n in range(3)]
    owed = [
        bill(one, entity, amount) for one, amount in zip(accounts, (11900, 5000, 8000), strict=True)
    ]
    for number, one in enumerate(accounts[:2]):
        invoices.customer(one, entity, collection="debit")
        mandate(one, f"M-{number}")
    told = datetime(2026, 11, 13, tzinfo=UTC)
    announced = debits.announce(actor=WHO, now=told)
    assert {one.collect_on for one in announced} == {date(2026, 11, 27)}
    (file,) = debits.collect(actor=WHO, now=datetime(2026, 11, 26, 8, tzinfo=UTC))
    assert debits.collect(actor=WHO, now=datetime(2026, 11, 26, 9, tzinfo=UTC)) == []
    content = bytes(file.content)
    assert "0 findings" in ask(bank, "/_mock/validate", content=content).text
    assert ask(bank, "/payments", content=content).json()["accepted"] == 2
    payer = {"name": "Calcul SA", "iban": PAYER}
    note = {"account": "ACME", "amount": 9000, "debtor": payer, "note": f"Nr {owed[2].label}"}
    ask(bank, "/_mock/credits", json=note)
    ask(bank, "/_mock/advance?to=2026-11-27")
    ask(bank, "/_mock/advance?to=2026-11-30")
    ask(bank, f"/_mock/collections/{owed[1].label}/refuse", json={"reason": "AC04"})
    ask(bank, "/_mock/advance?to=2026-12-02")
    for data in written(bank):
        load(data, RAISED)
    assert [settled(one) for one in owed] == [(11900, "paid"), (0, "final"), (8000, "paid")]
    states = dict(Debit.objects.values_list("end_to_end", "state"))
    assert states == {owed[0].label: "paid", owed[1].label: "returned"}
    assert credits.balance(accounts[2].id, RAISED).bought == 1000
    assert [cents(chart.receivable(one.id)) for one in accounts] == [0, 5000, 0]
    assert statements.undecided() == []
    books_agree(entity)
    last = read(written(bank)[-1])[0]
    assert last.closing is not None
    assert cents(chart.bank(entity.id)) == int(last.closing * 100)
    (late,) = overdue(RAISED + timedelta(days=3))
    assert (late.label, late.open) == (owed[1].label, 5000)
    # It is collected again only when a person says so.
    assert debits.announce(actor=WHO, now=RAISED) == []
    assert debits.again(owed[1].id, actor=WHO, now=RAISED).end_to_end == f"{owed[1].label}-2"
