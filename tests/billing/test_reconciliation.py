"""Whatever disagrees with the books is found by name and amount, told aloud, and blocks closing.

Each case tampers in a way that the database still allows.
"""

import logging
from collections.abc import Callable
from datetime import date, timedelta

import pytest

from billing import errors, services
from billing.books import chart, closing, ledger, reconciliation
from billing.credit import credits
from billing.meters import usage
from billing.models import Account, BankStatement, Invoice, Payment
from billing.payments import receipts, statements
from compliance import audit
from compliance.models import AuditEvent
from tests.billing import invoices
from tests.billing.conftest import Sql
from tests.billing.events import NOW, minutes
from tests.billing.sepa.bank import Movement, document
from tests.billing.sepa.bank import Payment as Paid
from tests.billing.test_receipts import bill

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]
LATER = NOW + timedelta(hours=12)
WHO = audit.Actor("user", "usr_1", "session")


@pytest.fixture
def month(account: Account) -> Invoice:
    """Usage, an invoice that is partly paid through the bank, credit, a return, money of nobody."""
    entity = invoices.entity()
    usage.record(minutes(account, NOW - timedelta(hours=3), 120))
    services.accrue_due(NOW)
    owed = bill(account, entity, 1190)
    credits.give(account.id, 500, key="g", actor=WHO, now=NOW)
    moved = [
        Movement("10.00", [Paid("10.00", owed.label)], "B1", day="2026-03-14"),
        Movement("7.00", [Paid("7.00", "hello")], "B2", day="2026-03-14"),
        Movement("-3.00", [], "B3", day="2026-03-14"),
    ]
    statements.read(document(moved), actor=WHO, now=NOW)
    receipts.receive(
        key="stripe:pi_1",
        entity_id=entity.id,
        account_id=account.id,
        amount=900,
        currency="EUR",
        method="stripe",
        received_at=NOW,
        now=NOW,
        actor=WHO,
    )
    return owed


def found(now_later: int = 0) -> list[str]:
    made = reconciliation.run(LATER + timedelta(minutes=now_later))
    return [one["text"] for one in made.findings]


def post(*sides: tuple[str, int], scale: int = 2) -> None:
    entries = [ledger.Entry(code, amount, scale=scale) for code, amount in sides]
    ledger.post(idempotency_key="tampered", kind="manual", effective_at=NOW, entries=entries)


def test_what_agrees_is_said_to_agree(month: Invoice, account: Account) -> None:
    assert found() == []
    made = reconciliation.newest()
    assert made is not None
    assert made.checked["receivables"] == 1 and made.checked["accruals"] == 2
    assert AuditEvent.objects.get(action="books.reconcile").outcome == "success"


TAMPER: dict[str, tuple[Callable[[Invoice, Sql], object], str]] = {
    "an invoice's settlement": (
        lambda owed, sql: Invoice.objects.filter(pk=owed.pk).update(settled=5, state="final"),
        "receivables: receivable:{account} stands at 0.00 in the books, 11.85 by open invoices:"
        " -11.85",
    ),
    "a posting by hand": (
        lambda owed, sql: post((chart.receivable(owed.account_id), 250), ("revenue_by_hand", -250)),
        "receivables: receivable:{account} stands at 2.50 in the books, 0.00 by open invoices:"
        " 2.50",
    ),
    "money that only the books know": (
        lambda owed, sql: post((chart.bank(owed.entity_id), 123), ("cash", -123)),
        "bank: bank:{entity} stands at 1015.23 in the books, 1014.00 by bank statements: 1.23",
    ),
    "credit by hand": (
        lambda owed, sql: post((chart.prepaid(owed.account_id), -77), ("cash", 77)),
        "credit: prepaid:{account} stands at -7.87 in the books, -7.10 by what is left of"
        " bought credit: -0.77",
    ),
    "money of nobody": (
        lambda owed, sql: post((chart.unmatched(owed.entity_id), -1), ("cash", 1)),
        "unmatched: unmatched:{entity} stands at -7.01 in the books, -7.00 by payments that"
        " nobody assigned: -0.01",
    ),
    "one side of the bridge": (
        lambda owed, sql: post((chart.BRIDGE, 9), ("cash", -9)),
        "bridge: bridge:s2 and bridge:s9 stands at 0.090000000 in the books, 0.000000000 by each"
        " other: 0.090000000",
    ),
    "an accrual by hand": (
        lambda owed, sql: ledger.post(
            idempotency_key=f"accrual:{owed.account_id}:{int(NOW.timestamp()) - 3 * 3600}:9",
            kind="accrual",
            effective_at=NOW,
            entries=[
                ledger.Entry(chart.unbilled(owed.account_id), 10**9, scale=9),
                ledger.Entry("revenue:device_seconds", -(10**9), scale=9),
            ],
        ),
        "accruals: unbilled:{account}, hour 2026-03-15 09:00 stands at 1.120000000 in the books,"
        " 0.120000000 by usage and prices: 1.000000000",
    ),
    "a payment that nothing posted": (
        lambda owed, sql: unposted(owed),
        "payments: payment {payment} stands at 0.00 in the books, 4.00 by what came in: -4.00",
    ),
    "a posting without its payment": (
        lambda owed, sql: ledger.post(
            idempotency_key="payment:ghost",
            kind="payment",
            effective_at=NOW,
            entries=[ledger.Entry("cash", 400), ledger.Entry("dust", -400)],
        ),
        "payments: payment:ghost stands at 4.00 in the books, 0.00 by payments, which do not know"
        " it: 4.00",
    ),
    "a statement's balance": (
        lambda owed, sql: BankStatement.objects.create(
            **{"entity": owed.entity, "iban": "x", "name": "S9", "sha256": "x", "opening": 0},
            **{"closing": 1, "entries": 0, "read_at": NOW, "read_by": "x"},
        ),
        "bank: bank:{entity}, its movements stands at 1014.00 in the books, 0.01 by statement S9:"
        " 1013.99",
    ),
    "a sum of usage": (
        lambda owed, sql: sql("UPDATE billing_usagehour SET quantity = quantity + 1"),
        "accruals: sums of usage differ from its events",
    ),
}


def unposted(owed: Invoice) -> None:
    made = Payment.objects.create(
        key="unposted",
        entity=owed.entity,
        amount=400,
        currency="EUR",
        method="stripe",
        received_at=NOW,
        booked_at=NOW,
    )
    made.allocations.create(purpose="back", amount=400, at=NOW)


@pytest.mark.parametrize("what", TAMPER)
def test_every_difference_is_found_by_name_and_amount(
    month: Invoice, sql: Sql, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    tamper, expected = TAMPER[what]
    tamper(month, sql)
    ghost = Payment.objects.filter(key="unposted").values_list("id", flat=True).first() or ""
    names = {"account": month.account_id, "entity": month.entity_id, "payment": ghost}
    with caplog.at_level(logging.ERROR, "billing.books.reconciliation"):
        texts = found()
    wanted = expected.format(**names)
    assert any(text.startswith(wanted) for text in texts), texts
    assert any(wanted in record.getMessage() for record in caplog.records)
    event = AuditEvent.objects.get(action="books.reconcile")
    assert event.outcome == "failure"
    with pytest.raises(errors.BooksRefused) as refused:
        closing.close(date(2026, 2, 1), actor=WHO, now=LATER + timedelta(hours=1))
    assert refused.value.code == "differences"
