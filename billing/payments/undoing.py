"""Taking back what a payment was for, and paying it again. In the caller's transaction."""

from datetime import datetime

from billing import errors
from billing.books import chart
from billing.credit import credits
from billing.invoices import crediting
from billing.invoices.models import Invoice, InvoiceState
from billing.payments.allotting import Sides, allot, settle, spread, standing
from billing.payments.models import Payment, Purpose
from compliance import audit

_Step = tuple[int, Sides]  # cents taken, and what that posts


def undo(
    payment: Payment, amount: int, key: str, reason: str, actor: audit.Actor, now: datetime
) -> Sides:
    """Debit sides: credit that is left, then money of nobody, then invoices, the newest first; of
    a return and a dispute the invoices before the credit, since they say that they were not paid.
    """
    with credits.alone(payment.account_id or ""):
        turn = [_from_credit, _from_unmatched, _from_invoices]
        if reason != "refund":
            turn.reverse()
        rest, sides = amount, []
        for step in turn:
            part, found = step(payment, rest, key, actor, now)
            sides += found
            rest -= part
        if rest:
            if payment.account_id is None:
                raise errors.PaymentRefused("so much is not there of it", code="too_much")
            if reason == "refund":
                raise errors.PaymentRefused("its credit was used", code="credit_used")
            sides.append((chart.claims(payment.account_id), rest))
            allot(payment, Purpose.CREDIT, -rest, now)
        allot(payment, Purpose.BACK, amount, now)
    return sides


def _from_credit(payment: Payment, rest: int, key: str, actor: audit.Actor, now: datetime) -> _Step:
    part = _of_credit(payment, rest)
    if part <= 0 or payment.account_id is None:
        return 0, []
    used = credits.refund(
        payment.account_id, part, key=key, payment_id=payment.id, actor=actor, now=now
    )
    for use in used.uses:
        crediting.credit_advance(use, actor, now)
    allot(payment, Purpose.CREDIT, -part, now)
    tax = sum(each.amount for each in used.vat)
    return part, [
        (chart.prepaid(payment.account_id), part - tax),
        *((each.code, each.amount) for each in used.vat),
    ]


def _of_credit(payment: Payment, amount: int) -> int:
    """So many of `amount` cents are credit that is left."""
    there = standing(payment).get((Purpose.CREDIT, None), 0)
    return max(0, min(amount, credits.left_of(payment.id), there))


def _from_unmatched(
    payment: Payment, rest: int, key: str, actor: audit.Actor, now: datetime
) -> _Step:
    part = min(rest, standing(payment).get((Purpose.UNMATCHED, None), 0))
    if part <= 0:
        return 0, []
    allot(payment, Purpose.UNMATCHED, -part, now)
    return part, [(chart.unmatched(payment.entity_id), part)]


def _from_invoices(
    payment: Payment, rest: int, key: str, actor: audit.Actor, now: datetime
) -> _Step:
    stands = standing(payment)
    ids = [id for (purpose, id), left in stands.items() if id and left > 0]
    rows = Invoice.objects.select_for_update(of=("self",)).filter(id__in=ids).order_by("-id")
    done, sides = 0, []
    for invoice in rows:
        part = min(rest - done, stands[Purpose.INVOICE, invoice.id], invoice.settled)
        if invoice.state == InvoiceState.CREDITED:
            part = min(part, _owed_back(invoice, part, now))
        if part > 0:
            allot(payment, Purpose.INVOICE, -part, now, invoice)
            settle(invoice, -part, now)
            sides.append((chart.receivable(invoice.account_id), part))
            done += part
    return done, sides


def _owed_back(invoice: Invoice, part: int, now: datetime) -> int:
    """Of a credited invoice: what its credit note owed is less by what went back."""
    note = Invoice.objects.select_for_update(of=("self",)).filter(corrects=invoice).first()
    part = min(part, note.due - note.settled) if note else 0
    if note and part > 0:
        settle(note, part, now)
    return part


def again(payment: Payment, amount: int, actor: audit.Actor, now: datetime) -> Sides:
    """A dispute was won: it pays what it had paid, as far as that is open."""
    allot(payment, Purpose.BACK, -amount, now)
    if payment.account_id is None:
        allot(payment, Purpose.UNMATCHED, amount, now)
        return [(chart.unmatched(payment.entity_id), -amount)]
    before = [id for purpose, id in standing(payment) if id]
    return spread(payment, payment.account_id, amount, before, None, actor, now)
