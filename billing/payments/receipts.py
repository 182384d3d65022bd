"""Money that came in, and money that went back: counted once, posted, and told to its invoices.

    Dr bank | clearing / Cr receivable (invoices), prepaid (the rest), unmatched (of nobody known)

What is named is settled, else the oldest open invoices; what is left over becomes credit. Giving
back mirrors it: credit that is left goes first, then invoices are open again. What cannot be taken
back, because the credit was used, is a claim on the customer, and the next payment pays it first.
All of one account happens one after the other, under the lock that its credit has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from billing import errors, tenants
from billing.books import chart, closing, ledger
from billing.credit import credits
from billing.invoices.models import Entity, Invoice, InvoiceKind, InvoiceState
from billing.models import Account
from billing.payments.allotting import allot, settle, spread, standing
from billing.payments.models import GivenBack, Method, Payment, Purpose
from billing.payments.undoing import again, undo
from compliance import audit, locks

MOST = 10**13  # cents
_AHEAD = timedelta(days=1)
TAKEN = ("refund", "return", "dispute")
AGAIN = ("dispute_won", "refund_failed")  # it came back to us


@dataclass(frozen=True)
class Money:
    """What came in, in cents, and from where; `payer_iban` tells the payer's next payment."""

    key: str
    entity_id: str
    amount: int
    currency: str
    method: str
    received_at: datetime
    reference: str = ""
    payer_iban: str = ""


def receive(
    *,
    key: str,
    entity_id: str,
    account_id: str | None,
    amount: int,
    currency: str,
    method: str,
    received_at: datetime,
    now: datetime,
    actor: audit.Actor,
    invoice_ids: Sequence[str] = (),
    reference: str = "",
    payer_iban: str = "",
    parts: Mapping[str, int] | None = None,
) -> Payment:
    """Once for each `key`; a repetition returns the payment of the first call.

    `invoice_ids`: what it is for, in that order; `parts`: how many cents each of them gets. Raises
    errors.PaymentRefused, and errors.IdempotencyConflict for a key with another content.
    """
    money = Money(
        key, entity_id, amount, currency, method, received_at, reference[:300], payer_iban
    )
    entity = _checked(money, now)
    with transaction.atomic():
        locks.hold(f"payment:{key}")
        if (found := Payment.objects.filter(key=key).first()) is not None:
            return _same(found, money)
        account = _account(account_id)
        payment = Payment.objects.create(
            key=key,
            entity=entity,
            account=account,
            amount=amount,
            currency=currency,
            method=method,
            received_at=received_at,
            booked_at=now,
            reference=money.reference,
            payer_iban=payer_iban,
        )
        sides = [(_place(payment), amount)]
        if account is None:
            allot(payment, Purpose.UNMATCHED, amount, now)
            sides.append((chart.unmatched(entity_id), -amount))
        else:
            sides += spread(payment, account.id, amount, invoice_ids, parts, actor, now)
        _post(f"payment:{key}", "payment", sides, received_at)
        _tell(payment, "payment.receive", actor, now, audit.Change("cents", None, amount))
    return payment


def assign(
    payment_id: str,
    account_id: str,
    *,
    actor: audit.Actor,
    now: datetime,
    invoice_ids: Sequence[str] = (),
) -> Payment:
    """A person says whose money it is that nobody could tell. Raises errors.PaymentRefused."""
    account = _account(account_id)
    assert account is not None
    with transaction.atomic():
        payment = _locked(payment_id)
        if payment.account_id == account_id:
            return payment
        if payment.account_id is not None:
            raise errors.PaymentRefused(f"{payment.id} is assigned already", code="assigned")
        there = standing(payment).get((Purpose.UNMATCHED, None), 0)
        if there <= 0:
            raise errors.PaymentRefused(f"{payment.id} went back", code="given_back")
        payment.account = account
        payment.save(update_fields=["account"])
        allot(payment, Purpose.UNMATCHED, -there, now)
        sides = [(chart.unmatched(payment.entity_id), there)]
        sides += spread(payment, account_id, there, invoice_ids, None, actor, now)
        _post(f"payment:{payment.key}:assign", "assign", sides, now)
        _tell(payment, "payment.assign", actor, now, audit.Change("account", None, account_id))
    return payment


def give_back(
    *,
    key: str,
    payment_id: str,
    amount: int,
    reason: str,
    now: datetime,
    actor: audit.Actor,
    fee: int = 0,
    at: datetime | None = None,
) -> GivenBack:
    """`amount` cents went back (refund, return, dispute), or came again (AGAIN), once for
    each `key`; `fee` is what the provider takes for that. Raises errors.PaymentRefused."""
    if reason not in (*TAKEN, *AGAIN):
        raise errors.PaymentRefused(f"{reason!r} is no reason", code="bad_reason")
    if type(amount) is not int or amount <= 0 or type(fee) is not int or fee < 0:
        raise errors.PaymentRefused(f"{amount!r} cents cannot go back", code="bad_amount")
    with transaction.atomic():
        payment = _locked(payment_id)
        if (found := GivenBack.objects.filter(key=key).first()) is not None:
            return _same_back(found, payment, amount, reason)
        signed = -amount if reason in AGAIN else amount
        if not 0 <= payment.back + signed <= payment.amount:
            raise errors.PaymentRefused(
                f"{amount} cents cannot go back of {payment.amount - payment.back}",
                code="too_much",
            )
        payment.back += signed
        payment.save(update_fields=["back"])
        made = GivenBack.objects.create(
            key=key, payment=payment, amount=signed, fee=fee, reason=reason, at=now
        )
        # A refund by bank is on its way until the statement has it; the bank takes the rest itself.
        place = chart.transfers(payment.entity_id) if _by_hand(payment, reason) else _place(payment)
        sides = [(place, -signed - fee), (chart.fees(_provider(payment)), fee)]
        if reason in AGAIN:
            sides += again(payment, amount, actor, now)
        else:
            sides += undo(payment, amount, key, reason, actor, now)
        _post(f"back:{key}", reason, sides, at or now)
        _tell(
            payment,
            "payment.give_back",
            actor,
            now,
            audit.Change("cents", None, signed),
            audit.Change("reason", None, reason),
        )
    return made


def payout(
    *,
    key: str,
    entity_id: str,
    amount: int,
    at: datetime,
    fee: int = 0,
    provider: str = "stripe",
) -> None:
    """A provider sends `amount` cents of what it holds to the bank and keeps `fee`; once for each
    `key`. The statement's entry clears `transfers`."""
    sides = [
        (chart.transfers(entity_id), amount),
        (chart.fees(provider), fee),
        (chart.clearing(provider, entity_id), -amount - fee),
    ]
    _post(f"payout:{key}", "payout", sides, at)


def keep_as_credit(note_id: str, *, actor: audit.Actor, now: datetime) -> Invoice:
    """What a credit note owes a customer becomes credit. Raises errors.PaymentRefused."""
    with transaction.atomic():
        note = Invoice.objects.select_for_update(of=("self",)).get(pk=note_id)
        owed = note.due - note.settled
        if note.kind != InvoiceKind.CREDIT_NOTE or note.state == InvoiceState.DRAFT:
            raise errors.PaymentRefused(f"{note} is no credit note", code="no_credit_note")
        if owed <= 0:
            return note
        with credits.alone(note.account_id):
            credits.buy(
                note.account_id,
                owed,
                key=f"note:{note.id}",
                payment_id="",
                actor=actor,
                now=now,
            )
        settle(note, owed, now)
        sides = [
            (chart.receivable(note.account_id), owed),
            (chart.prepaid(note.account_id), -owed),
        ]
        _post(f"note:{note.id}:credit", "credit", sides, now)
    return note


def unmake(payment: Payment, now: datetime) -> None:
    """What came in was no payment of a customer: it is for nothing any more. The caller posts."""
    there = standing(payment).get((Purpose.UNMATCHED, None), 0)
    if payment.account_id is not None or there != payment.amount:
        raise errors.PaymentRefused(f"{payment.id} is a payment", code="assigned")
    allot(payment, Purpose.UNMATCHED, -there, now)
    allot(payment, Purpose.BACK, there, now)
    payment.back = payment.amount
    payment.save(update_fields=["back"])


def _checked(money: Money, now: datetime) -> Entity:
    if type(money.amount) is not int or not 0 < money.amount <= MOST:
        raise errors.PaymentRefused(f"{money.amount!r} cents is no payment", code="bad_amount")
    if money.method not in Method.values:
        raise errors.PaymentRefused(f"{money.method!r} is no method", code="bad_method")
    if money.received_at > now + _AHEAD:
        raise errors.PaymentRefused(f"received at {money.received_at}?", code="bad_time")
    if not money.key or len(money.key) > 180:
        raise errors.PaymentRefused("a payment has a key of 1 to 180 signs", code="bad_key")
    entity = Entity.objects.filter(pk=money.entity_id).first()
    if entity is None:
        raise errors.PaymentRefused(f"no entity {money.entity_id}", code="unknown_entity")
    if money.currency != entity.currency:
        raise errors.PaymentRefused(
            f"{money.currency} came in, {entity.name} is kept in {entity.currency}",
            code="currency_mismatch",
        )
    return entity


def _account(account_id: str | None) -> Account | None:
    if account_id is None:
        return None
    found = Account.objects.filter(pk=account_id).first()
    if found is None:
        raise errors.UnknownAccount(account_id)
    return found


def _same(found: Payment, money: Money) -> Payment:
    kept = (found.entity_id, found.amount, found.currency, found.method)
    if kept != (money.entity_id, money.amount, money.currency, money.method):
        raise errors.IdempotencyConflict(f"{money.key} is another payment ({found.id})")
    return found


def _same_back(found: GivenBack, payment: Payment, amount: int, reason: str) -> GivenBack:
    kept = (found.payment_id, abs(found.amount), found.reason)
    if kept != (payment.id, amount, reason):
        raise errors.IdempotencyConflict(f"{found.key} gave something else back ({found.id})")
    return found


def _locked(payment_id: str) -> Payment:
    found = Payment.objects.select_for_update().filter(pk=payment_id).first()
    if found is None:
        raise errors.PaymentRefused(f"no payment {payment_id}", code="unknown_payment")
    return found


def _by_hand(payment: Payment, reason: str) -> bool:
    return reason == "refund" and payment.method != Method.STRIPE


def _provider(payment: Payment) -> str:
    return "stripe" if payment.method == Method.STRIPE else "bank"


def _place(payment: Payment) -> str:
    """Where the money is."""
    if payment.method == Method.STRIPE:
        return chart.clearing("stripe", payment.entity_id)
    return chart.bank(payment.entity_id)


def _post(key: str, kind: str, sides: Sequence[tuple[str, int]], at: datetime) -> None:
    entries = chart.cents(sides)
    if entries:
        ledger.post(
            idempotency_key=key, kind=kind, effective_at=closing.open_at(at), entries=entries
        )


def _tell(
    payment: Payment, action: str, actor: audit.Actor, now: datetime, *change: audit.Change
) -> None:
    where = tenants.home(payment.account_id) if payment.account_id else None
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("payment", payment.id),
        log=where.log if where else audit.PLATFORM,
        region=where.region if where else "",
        now=now,
        change=change,
    )
