"""The ledger: balanced, idempotent, corrected by reversal alone."""

import threading
from decimal import Decimal
from functools import partial

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import errors
from billing.books import ledger
from billing.models import LedgerAccount, LedgerTransaction
from compliance import audit
from compliance.models import AuditEvent
from tests.billing.events import NOW

SALE = [ledger.Entry("receivable", 119), ledger.Entry("revenue", -100), ledger.Entry("vat", -19)]


def sell(key: str = "invoice:1") -> LedgerTransaction:
    return ledger.post(idempotency_key=key, kind="invoice", effective_at=NOW, entries=SALE)


@pytest.mark.django_db
def test_a_post_moves_balances_and_a_replay_moves_nothing() -> None:
    first = sell()
    assert sell() == first
    sell("invoice:2")
    assert ledger.balance("receivable") == Decimal("2.38")
    assert ledger.balance("revenue") == Decimal("-2.00")
    assert ledger.balance("nobody") == 0


@pytest.mark.django_db
def test_a_key_cannot_be_used_for_something_else() -> None:
    sell()
    other = [ledger.Entry("receivable", 120), ledger.Entry("revenue", -120)]
    with pytest.raises(errors.IdempotencyConflict):
        ledger.post(idempotency_key="invoice:1", kind="invoice", effective_at=NOW, entries=other)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "entries",
    [
        [],
        [ledger.Entry("a", 0), ledger.Entry("b", 0)],
        [ledger.Entry("a", 1), ledger.Entry("b", -2)],
        [ledger.Entry("a", 1), ledger.Entry("b", -1, scale=9)],
        [ledger.Entry("a", 1), ledger.Entry("b", -1, currency="USD")],
        [ledger.Entry("a", 1.5), ledger.Entry("b", -1.5)],  # type: ignore[arg-type]
    ],
)
def test_what_does_not_balance_is_refused(entries: list[ledger.Entry]) -> None:
    with pytest.raises(errors.Unbalanced):
        ledger.post(idempotency_key="k", kind="t", effective_at=NOW, entries=entries)
    assert not LedgerTransaction.objects.exists()


@pytest.mark.django_db
def test_an_account_is_kept_in_one_currency_at_one_scale() -> None:
    sell()
    cents_as_nano = [ledger.Entry("receivable", 1, scale=9), ledger.Entry("x", -1, scale=9)]
    with pytest.raises(errors.LedgerRefused, match="EUR at scale 2"):
        ledger.post(idempotency_key="k", kind="t", effective_at=NOW, entries=cents_as_nano)


@pytest.mark.django_db
def test_a_reversal_undoes_once_and_is_audited_once() -> None:
    sold = sell()
    undo = partial(ledger.reverse, actor=audit.SYSTEM, effective_at=NOW, now=NOW)
    reversal = undo(sold)
    assert undo(sold) == reversal
    assert reversal.reverses == sold
    for code in ("receivable", "revenue", "vat"):
        assert ledger.balance(code) == 0
    assert AuditEvent.objects.filter(action="ledger.reverse", target_id=sold.id).count() == 1
    with pytest.raises(errors.LedgerRefused):
        undo(reversal)


@pytest.mark.django_db
def test_amounts_beyond_32_bits_and_long_sums_are_exact() -> None:
    big = 2**62
    for number in range(4):
        ledger.post(
            idempotency_key=f"k{number}",
            kind="t",
            effective_at=NOW,
            entries=[ledger.Entry("a", big, scale=9), ledger.Entry("b", -big, scale=9)],
        )
    assert ledger.balance("a") == Decimal(4 * big).scaleb(-9)


@pytest.mark.django_db
@settings(max_examples=20, deadline=None)
@given(amounts=st.lists(st.integers(1, 10**12), min_size=1, max_size=8))
def test_no_cent_is_lost(amounts: list[int]) -> None:
    codes = [f"acc{number}" for number in range(len(amounts))]
    before = {code: ledger.balance(code) for code in [*codes, "pot"]}
    sides = [ledger.Entry(code, amount) for code, amount in zip(codes, amounts, strict=True)]
    made = ledger.post(
        idempotency_key=f"{LedgerTransaction.objects.count()}",
        kind="t",
        effective_at=NOW,
        entries=[*sides, ledger.Entry("pot", -sum(amounts))],
    )
    assert sum(made.entries.values_list("amount", flat=True)) == 0
    assert ledger.balance("pot") == before["pot"] - Decimal(sum(amounts)).scaleb(-2)
    for code, amount in zip(codes, amounts, strict=True):
        assert ledger.balance(code) == before[code] + Decimal(amount).scaleb(-2)


@pytest.mark.django_db(transaction=True)
def test_a_hundred_replays_at_once_make_one_transaction() -> None:
    seen: list[str] = []
    failures: list[BaseException] = []
    work = iter(range(100))
    lock = threading.Lock()
    barrier = threading.Barrier(12)

    def replay() -> None:
        barrier.wait()
        try:
            while True:
                with lock:
                    if next(work, None) is None:
                        return
                seen.append(sell().id)
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=replay) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(seen) == 100
    assert len(set(seen)) == 1
    assert LedgerTransaction.objects.count() == 1
    assert LedgerAccount.objects.count() == 3
    assert ledger.balance("receivable") == Decimal("1.19")
