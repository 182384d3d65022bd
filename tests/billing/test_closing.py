"""Closed books: nothing is posted in them, and only two people open them again."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import IntegrityError, transaction

from billing import errors, services
from billing.books import chart, closing, ledger
from billing.meters import usage
from billing.models import Account, BooksClosing, LedgerTransaction, Reconciliation
from compliance import audit
from compliance.models import AuditEvent
from tests.billing.events import seconds

pytestmark = pytest.mark.django_db
MARCH, APRIL = date(2026, 3, 1), date(2026, 4, 1)
IN_MARCH = datetime(2026, 3, 15, tzinfo=UTC)
NOW = datetime(2026, 4, 2, tzinfo=UTC)
ADA, BOB = audit.Actor("user", "usr_ada"), audit.Actor("user", "usr_bob")


def post(key: str, at: datetime, amount: int = 5) -> LedgerTransaction:
    entries = [ledger.Entry("a", amount), ledger.Entry("b", -amount)]
    return ledger.post(idempotency_key=key, kind="t", effective_at=at, entries=entries)


def reconciled(at: datetime = NOW, findings: int = 0) -> None:
    found = [{"text": "receivable of acc_1: 5 cents"}] * findings
    Reconciliation.objects.create(at=at, findings=found, checked={})


def close(month: date = MARCH, now: datetime = NOW) -> BooksClosing:
    return closing.close(month, actor=ADA, now=now)


def refused(month: date = MARCH, now: datetime = NOW) -> str:
    with pytest.raises(errors.BooksRefused) as caught:
        close(month, now=now)
    return caught.value.code


def test_what_is_effective_in_closed_books_is_refused_by_the_database() -> None:
    first = post("k1", IN_MARCH)
    reconciled()
    made = close()
    assert close() == made
    assert post("k1", IN_MARCH) == first  # a repetition is no post
    for moment in (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 31, 23, 59, tzinfo=UTC)):
        with pytest.raises(errors.BooksRefused) as caught, transaction.atomic():
            post("k2", moment)
        assert caught.value.code == "closed"
    with pytest.raises(IntegrityError, match="2026-03 are closed"), transaction.atomic():
        LedgerTransaction.objects.create(idempotency_key="x", kind="t", effective_at=IN_MARCH)
    assert closing.open_at(IN_MARCH) == datetime(2026, 4, 1, tzinfo=UTC)
    assert closing.open_at(NOW) == NOW
    post("k2", closing.open_at(IN_MARCH))
    assert AuditEvent.objects.filter(action="books.close").count() == 1


def test_books_are_closed_in_order_over_and_reconciled() -> None:
    post("k1", IN_MARCH)
    assert refused() == "not_reconciled"
    reconciled(datetime(2026, 3, 31, 12, tzinfo=UTC))
    assert refused() == "not_reconciled"  # from before its end
    reconciled(findings=1)
    assert refused() == "differences"
    reconciled(NOW + timedelta(minutes=1))
    assert refused(now=datetime(2026, 3, 31, tzinfo=UTC)) == "month_not_over"
    post("k2", NOW)
    late = datetime(2026, 5, 1, 1, tzinfo=UTC)
    reconciled(late)
    assert refused(APRIL, now=late) == "earlier_open"
    close(now=late)
    close(APRIL, now=late)
    with pytest.raises(ValueError, match="first of a month"):
        close(date(2026, 3, 2))


def test_two_people_open_books_again() -> None:
    post("k1", IN_MARCH)
    reconciled()
    with pytest.raises(errors.BooksRefused):
        closing.ask_reopen(MARCH, "a mistake", actor=ADA, now=NOW)
    close()
    with pytest.raises(errors.BooksRefused):
        closing.ask_reopen(MARCH, " ", actor=ADA, now=NOW)
    with pytest.raises(errors.BooksRefused):
        closing.reopen(MARCH, actor=BOB, now=NOW)
    closing.ask_reopen(MARCH, "a mistake", actor=ADA, now=NOW)
    for who, now in ((ADA, NOW), (BOB, NOW + timedelta(days=2))):
        with pytest.raises(errors.BooksRefused):
            closing.reopen(MARCH, actor=who, now=now)
    closing.reopen(MARCH, actor=BOB, now=NOW)
    post("k2", IN_MARCH)
    again = close()
    assert again.balances["a"] == "0.10"
    with pytest.raises(IntegrityError), transaction.atomic():
        BooksClosing.objects.filter(pk=again.pk).update(
            asked_at=NOW, asked_by="usr_ada", reopened_at=NOW, reopened_by="usr_ada"
        )
    with pytest.raises(IntegrityError), transaction.atomic():
        again.delete()
    assert AuditEvent.objects.filter(action="books.reopen").count() == 1


def test_balances_go_on_from_the_last_closing_and_can_be_recomputed() -> None:
    post("k1", IN_MARCH, 7)
    reconciled()
    close()
    post("k2", NOW, 4)
    end = datetime(2026, 5, 1, tzinfo=UTC)
    assert closing.balances(end) == closing.recomputed(end) == {"a": "0.11", "b": "-0.11"}


@pytest.mark.usefixtures("price_list")
def test_late_usage_of_closed_books_is_accrued_in_the_first_open_month(account: Account) -> None:
    usage.record([seconds(account, IN_MARCH)])
    first = services.accrue(account.id, IN_MARCH, now=NOW)
    reconciled()
    close()
    usage.record([seconds(account, IN_MARCH, id="late")])
    assert services.unaccrued(IN_MARCH, NOW) == [(account.id, IN_MARCH)]
    late = services.accrue(account.id, IN_MARCH, now=NOW)
    assert first.posted and late.posted
    assert late.posted.effective_at == datetime(2026, 4, 1, tzinfo=UTC)
    assert services.accrue(account.id, IN_MARCH, now=NOW).posted is None
    assert services.unaccrued(IN_MARCH, NOW) == []
    end = datetime(2026, 4, 1, tzinfo=UTC)
    assert chart.accrued_until(account.id, end) == int(late.amount * 10**9)
