"""Credit: used in its order, ended, paid back; no order of events spends a cent twice."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import errors, services
from billing.books import chart, ledger
from billing.credit import credits, vouchers
from billing.models import Account, CreditGrant, CreditUse, LedgerTransaction
from compliance import audit
from compliance.models import AuditEvent
from tests.billing.events import MONTH, NOW

DAY = timedelta(days=1)
WHO = audit.Actor("user", "usr_1", "session")


def give(account: Account, amount: int, key: str, ends: datetime | None = None) -> CreditGrant:
    return credits.give(account.id, amount, key=key, actor=WHO, now=NOW, expires_at=ends)


def buy(account: Account, amount: int, key: str, ends: datetime | None = None) -> CreditGrant:
    """As `receipts` does: the money comes to the bank, what it buys is owed to the customer."""
    ledger.post(
        idempotency_key=f"payment:{key}",
        kind="payment",
        effective_at=NOW,
        entries=chart.cents([("bank:ent_1", amount), (chart.prepaid(account.id), -amount)]),
    )
    return credits.buy(
        account.id, amount, key=key, payment_id=f"pay_{key}", actor=WHO, now=NOW, expires_at=ends
    )


def owe(account: Account, invoice: str, amount: int, at: datetime = NOW) -> None:
    chart.post_invoice(
        chart.Sale(invoice, account.id, amount, accrued=amount * chart.NANO_PER_CENT), at=at
    )


def accrue(account: Account, cents: int, hour: datetime) -> None:
    units = cents * chart.NANO_PER_CENT
    ledger.post(
        idempotency_key=f"accrual:{account.id}:{int(hour.timestamp())}:0",
        kind="accrual",
        effective_at=hour,
        entries=[
            ledger.Entry(chart.unbilled(account.id), units, scale=9),
            ledger.Entry("revenue:device_seconds", -units, scale=9),
        ],
    )


def cents(code: str) -> int:
    return int(ledger.balance(code) * 100)


@pytest.mark.django_db
def test_free_is_used_first_then_bought_and_what_ends_soonest(account: Account) -> None:
    late = give(account, 500, "late", NOW + 30 * DAY)
    soon = give(account, 300, "soon", NOW + 3 * DAY)
    buy(account, 1000, "b")
    assert credits.balance(account.id, NOW) == credits.Balance(800, 1000, "EUR", NOW + 3 * DAY)
    assert credits.use_free(account.id, invoice_id="inv_1", net=400, now=NOW) == 400
    assert credits.use_free(account.id, invoice_id="inv_1", net=400, now=NOW) == 400
    soon.refresh_from_db()
    late.refresh_from_db()
    assert (soon.left, late.left) == (0, 400)
    owe(account, "inv_1", 700)
    used = credits.use_bought(account.id, invoice_id="inv_1", gross=700, at=NOW, now=NOW)
    assert used == credits.Used(700)
    assert credits.use_bought(account.id, invoice_id="inv_1", gross=700, at=NOW, now=NOW) == used
    assert cents(chart.receivable(account.id)) == 0
    assert cents(chart.prepaid(account.id)) == -300
    assert credits.balance(account.id, NOW).total == 700


@pytest.mark.django_db
@pytest.mark.parametrize("amount", [0, -5, 10**13, 1.5])
def test_absurd_amounts_are_refused(account: Account, amount: Any) -> None:
    with pytest.raises(errors.CreditRefused):
        give(account, amount, "k")
    with pytest.raises(errors.CreditRefused):
        vouchers.create(amount, actor=WHO, now=NOW)
    with pytest.raises(errors.CreditRefused):
        give(account, 5, "k", NOW - DAY)
    assert not CreditGrant.objects.exists()


@pytest.mark.django_db
def test_a_key_gives_once_and_nothing_else(account: Account) -> None:
    assert give(account, 500, "k") == give(account, 500, "k")
    with pytest.raises(errors.IdempotencyConflict):
        give(account, 501, "k")
    with pytest.raises(errors.UnknownAccount):
        credits.give("acc_x", 5, key="j", actor=WHO, now=NOW)


@pytest.mark.django_db
def test_what_an_advance_invoice_taxed_is_not_taxed_again(account: Account) -> None:
    grant = buy(account, 11_900, "b")
    vat = chart.Vat("DE", Decimal(19), 1900)
    for _ in range(2):
        credits.taxed(grant.id, invoice_id="inv_a", vat=vat, at=NOW)
    assert (cents(chart.prepaid(account.id)), cents("vat:DE:19")) == (-10_000, -1900)
    taxes = []
    for number, gross in enumerate((3333, 3333, 5234)):
        owe(account, f"inv_{number}", gross)
        used = credits.use_bought(
            account.id, invoice_id=f"inv_{number}", gross=gross, at=NOW, now=NOW
        )
        assert used.amount == gross
        taxes.append(used.vat[0].amount)
    # Thirds of 1900 cents that are not whole: the last one brings all that is left.
    assert (taxes, sum(taxes)) == ([532, 532, 836], 1900)
    for code in (chart.prepaid(account.id), "vat:DE:19", chart.receivable(account.id)):
        assert cents(code) == 0
    with pytest.raises(errors.CreditRefused):
        credits.taxed(grant.id, invoice_id="inv_b", vat=vat, at=NOW)


@pytest.mark.django_db
def test_credit_that_ends_leaves_what_was_served_before(account: Account) -> None:
    """A month's usage is invoiced after the credit's end: what it had paid for, it pays."""
    free = give(account, 500, "free", NOW + DAY)
    accrue(account, 200, NOW)
    accrue(account, 900, NOW + 2 * DAY)  # after the end
    assert credits.expire(NOW + DAY) == 300
    assert credits.expire(NOW + DAY) == 0
    assert credits.balance(account.id, NOW + DAY).total == 0
    assert credits.use_free(account.id, invoice_id="inv_1", net=1100, now=NOW + 9 * DAY) == 200
    free.refresh_from_db()
    assert free.left == 0


@pytest.mark.django_db
def test_bought_credit_that_ends_is_revenue(account: Account) -> None:
    grant = buy(account, 1190, "b", NOW + DAY)
    credits.taxed(grant.id, invoice_id="inv_a", vat=chart.Vat("DE", Decimal(19), 190), at=NOW)
    assert credits.expire(NOW + DAY) == 1190
    assert cents(chart.prepaid(account.id)) == 0
    assert cents("vat:DE:19") == -190  # what was taxed stays owed
    assert ledger.balance("revenue:expired") == Decimal("-10.00")
    bridge = ledger.balance(chart.BRIDGE) + ledger.balance(chart.BRIDGE_FINE)
    assert bridge == 0
    assert AuditEvent.objects.filter(action="credit.expire").count() == 1


@pytest.mark.django_db
def test_a_refund_takes_what_its_payment_bought_and_is_left(account: Account) -> None:
    buy(account, 1000, "b")
    buy(account, 1000, "other")
    owe(account, "inv_1", 400)
    credits.use_bought(account.id, invoice_id="inv_1", gross=400, at=NOW, now=NOW)
    back: dict[str, Any] = {"key": "r1", "payment_id": "pay_b", "actor": WHO, "now": NOW}
    with pytest.raises(errors.CreditRefused):
        credits.refund(account.id, 601, **back)
    for _ in range(2):
        assert credits.refund(account.id, 600, **back).amount == 600
    assert (credits.left_of("pay_b"), credits.left_of("pay_other")) == (0, 1000)


@pytest.mark.django_db
def test_a_voucher_gives_once(account: Account) -> None:
    voucher, code = vouchers.create(2500, actor=WHO, now=NOW, valid_days=30)
    assert code not in repr(voucher.__dict__)
    typed = code.lower().replace("-", " ")
    grant = vouchers.redeem(account.id, typed, actor=WHO, now=NOW)
    assert (grant.amount, grant.expires_at) == (2500, NOW + 30 * DAY)
    assert vouchers.redeem(account.id, code, actor=WHO, now=NOW) == grant
    other = services.open_account(name="Bob", now=MONTH)
    with pytest.raises(errors.CreditRefused) as refused:
        vouchers.redeem(other.id, code, actor=WHO, now=NOW)
    with pytest.raises(errors.CreditRefused) as unknown:
        vouchers.redeem(other.id, "AAAAA", actor=WHO, now=NOW)
    assert str(refused.value) == str(unknown.value)
    with pytest.raises(errors.CreditRefused):
        vouchers.revoke(voucher, actor=WHO, now=NOW)
    fresh, code = vouchers.create(1, actor=WHO, now=NOW, expires_at=NOW + DAY)
    with pytest.raises(errors.CreditRefused):
        vouchers.redeem(other.id, code, actor=WHO, now=NOW + DAY)
    vouchers.revoke(fresh, actor=WHO, now=NOW)
    with pytest.raises(errors.CreditRefused):
        vouchers.redeem(other.id, code, actor=WHO, now=NOW)
    Account.objects.filter(pk=other.id).update(currency="CHF")
    _, code = vouchers.create(1, actor=WHO, now=NOW)
    with pytest.raises(errors.CreditRefused, match="CHF"):
        vouchers.redeem(other.id, code, actor=WHO, now=NOW)


@pytest.mark.django_db
def test_the_database_holds_a_grant_to_its_amount(account: Account) -> None:
    grant = give(account, 100, "k")
    tampering: list[Callable[[], Any]] = [
        lambda: CreditGrant.objects.filter(pk=grant.pk).update(left=50),
        lambda: CreditGrant.objects.filter(pk=grant.pk).update(amount=900),
        lambda: CreditUse.objects.create(grant=grant, kind="apply", amount=101, key="x", at=NOW),
        lambda: CreditUse.objects.create(grant=grant, kind="apply", amount=-1, key="y", at=NOW),
        grant.delete,
    ]
    for tamper in tampering:
        with pytest.raises(IntegrityError), transaction.atomic():
            tamper()
    grant.refresh_from_db()
    assert grant.left == 100


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["give", "buy", "apply", "expire", "refund"]),
        st.integers(1, 4000),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=14,
)


@pytest.mark.django_db
@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_no_order_of_events_loses_a_cent(steps: list[tuple[str, int, int]]) -> None:
    """Whatever comes in what order, with ends, taxes and refunds: grants and books agree."""
    account = services.open_account(name="Ada", now=MONTH)
    now, given, ended, applied, refunded = NOW, 0, 0, 0, 0
    for number, (what, amount, days) in enumerate(steps):
        key, ends = f"{account.id[-20:]}:{number}", now + days * DAY if days else None
        if what == "give":
            credits.give(account.id, amount, key=key, actor=WHO, now=now, expires_at=ends)
            given += amount
        elif what == "buy":
            grant = buy(account, amount, key, max(ends, NOW + DAY) if ends else None)
            given += amount
            if amount > 400 and days % 2:
                vat = chart.Vat("DE", Decimal(19), amount * 19 // 119)
                credits.taxed(grant.id, invoice_id=f"adv{key}", vat=vat, at=now)
        elif what == "apply":
            free = credits.use_free(account.id, invoice_id=key, net=amount, now=now)
            owe(account, key, amount - free, now)
            used = credits.use_bought(
                account.id, invoice_id=key, gross=amount - free, at=now, now=now
            )
            assert free + used.amount <= amount
            applied += free + used.amount
        elif what == "expire":
            now += days * DAY
            ended += credits.expire_account(account.id, now=now)
        else:
            payment = CreditGrant.objects.filter(account=account, kind="bought").last()
            left = credits.left_of(payment.payment_id) if payment else 0
            if payment and (part := min(left, amount)):
                back = credits.refund(
                    account.id, part, key=key, payment_id=payment.payment_id, actor=WHO, now=now
                )
                tax = [(each.code, each.amount) for each in back.vat]
                net = part - sum(each for _, each in tax)
                entries = chart.cents(
                    [(chart.prepaid(account.id), net), *tax, ("bank:ent_1", -part)]
                )
                ledger.post(
                    idempotency_key=f"back:{key}", kind="refund", effective_at=now, entries=entries
                )
                refunded += part
        grants = list(CreditGrant.objects.filter(account=account))
        ended = sum(
            CreditUse.objects.filter(grant__account=account, kind="expire").values_list(
                "amount", flat=True
            )
        )
        assert all(0 <= one.left <= one.amount for one in grants)
        assert sum(one.left for one in grants) == given - ended - applied - refunded
        net_left = sum(
            one.left - (one.tax - sum(one.uses.values_list("tax", flat=True)))
            for one in grants
            if one.kind == "bought"
        )
        assert cents(chart.prepaid(account.id)) == -net_left


@pytest.mark.django_db(transaction=True)
def test_many_at_once_spend_each_cent_once() -> None:
    account = services.open_account(name="Ada", now=MONTH)
    give(account, 1000, "free")
    buy(account, 1000, "b")
    _, code = vouchers.create(500, actor=WHO, now=NOW)
    failures: list[BaseException] = []
    work = iter(range(40))
    lock = threading.Lock()

    def spend() -> None:
        try:
            while True:
                with lock:
                    if (number := next(work, None)) is None:
                        return
                invoice = f"inv_{number % 10}"  # ten invoices, each finalised four times
                with transaction.atomic():
                    vouchers.redeem(account.id, code, actor=WHO, now=NOW)
                    free = credits.use_free(account.id, invoice_id=invoice, net=300, now=NOW)
                    owe(account, invoice, 300 - free)
                    credits.use_bought(
                        account.id, invoice_id=invoice, gross=300 - free, at=NOW, now=NOW
                    )
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert credits.balance(account.id, NOW).total == 0
    assert sum(CreditUse.objects.values_list("amount", flat=True)) == 2500
    assert cents(chart.prepaid(account.id)) == 0
    assert cents(chart.receivable(account.id)) == 500
    assert LedgerTransaction.objects.filter(kind="apply_credit").count() >= 4
