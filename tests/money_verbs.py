"""Verbs of credit, books and payments, each done once by the walk of test_verbs.py."""

from datetime import UTC, datetime, timedelta
from typing import Any

from billing import services
from billing.books import closing, datev
from billing.credit import advances, credits, vouchers
from billing.invoices import putting_back
from billing.models import BooksClosing, Reconciliation, TopUpDecision
from billing.payments import debits, receipts, statements
from compliance import audit
from tests.billing import invoices
from tests.billing.sepa.bank import Movement, document

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
WHO = audit.Actor("user", "usr_01k00000000000000000000000", "session")


def credit(walk: Any) -> None:
    account = walk.kept.organization.account_id
    _, code = walk.do(vouchers.create, "voucher.create", amount=500)
    walk.do(vouchers.redeem, "voucher.redeem", account_id=account, code=code)
    other, _ = vouchers.create(500, actor=WHO, now=NOW)
    walk.do(vouchers.revoke, "voucher.revoke", voucher=other)
    day = NOW + timedelta(days=1)
    given = {"account_id": account, "amount": 100}
    walk.do(credits.give, "credit.grant", **given, key="given", expires_at=day)
    walk.do(credits.buy, "credit.buy", **given, key="bought", payment_id="pay_1")
    walk.do(credits.refund, "credit.refund", **given, key="back", payment_id="pay_1")
    walk.do(credits.expire_account, "credit.expire", account_id=account, now=day)
    bought = credits.buy(account, 100, key="top-up", payment_id="pay_2", actor=WHO, now=NOW)
    waits = TopUpDecision.objects.create(grant=bought, received_on=NOW.date(), due_on=NOW.date())
    walk.do(advances.hold, "credit.hold", waits, "waits", "it waits", actor=WHO)
    advances.decide(bought.id, NOW, actor=WHO)
    walk.walked.add(advances.decide)  # credit.decide beside invoice.advance
    month, later = NOW.date().replace(day=1), NOW + timedelta(days=40)
    Reconciliation.objects.create(at=later, findings=[], checked={})
    walk.do(closing.close, "books.close", month=month, now=later)
    walk.do(closing.ask_reopen, "books.ask_reopen", month=month, reason="late", now=later)
    BooksClosing.objects.update(asked_by="usr_other")
    walk.do(closing.reopen, "books.reopen", month=month, now=later)
    walk.walked.add(putting_back.put_back)  # tests/billing/test_putting_back.py
    walk.do(datev.configure, "books.configure_export", datev.Setting(accounts={"bank": "1800"}))


def payments(walk: Any) -> None:
    account = services.open_account(name="Payer", now=NOW)
    entity = invoices.entity(creditor_id="DE98ZZZ09999999999")
    paid = {"entity_id": entity.id, "currency": "EUR", "method": "transfer"}
    payment = walk.do(
        receipts.receive,
        "payment.receive",
        **paid,
        key="k",
        account_id=None,
        amount=5,
        received_at=NOW,
    )
    place = {"payment_id": payment.id}
    receipts.assign(**place, account_id=account.id, actor=WHO, now=NOW)
    walk.walked.add(receipts.assign)  # what it leaves over is credit.buy beside payment.assign
    receipts.give_back(**place, key="r", amount=5, reason="refund", actor=WHO, now=NOW)
    walk.walked.add(receipts.give_back)  # and what it takes of that, credit.refund
    out = [Movement("-1.00", [], f"B{n}") for n in range(2)]
    (done,) = walk.do(statements.read, "statement.import", document(out))
    fee, own = (one.id for one in done.open)
    walk.do(statements.explain, "bank_entry.decide", fee, "fee")
    walk.do(statements.explain, "bank_entry.decide", own, "own")
    walk.walked |= {statements.assign, statements.refunded}  # tests/billing/test_statements.py
    mandate = walk.do(
        debits.create_mandate,
        "mandate.create",
        account.id,
        reference="M-1",
        signed_on=NOW.date(),
        debtor_name="Ada",
        debtor_iban="DE89370400440532013000",
    )
    invoices.customer(account, entity, collection="debit")
    invoices.freeze(invoices.draft(account, entity))
    walk.do(debits.announce, "debit.announce")
    walk.do(debits.collect, "debit.collect", now=NOW + timedelta(days=12))
    walk.do(debits.revoke_mandate, "mandate.revoke", mandate=mandate)
