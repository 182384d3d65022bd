"""What a payment is for: invoices settled, credit bought, claims paid; within a transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from billing import errors
from billing.books import chart, ledger
from billing.credit import credits
from billing.invoices.models import Invoice, InvoiceKind, InvoiceState
from billing.payments.models import Allocation, Payment, Purpose
from compliance import audit

Sides = list[tuple[str, int]]  # ledger accounts and cents, debit positive


def spread(
    payment: Payment,
    account_id: str,
    amount: int,
    invoice_ids: Sequence[str],
    parts: Mapping[str, int] | None,
    actor: audit.Actor,
    now: datetime,
) -> list[tuple[str, int]]:
    """Claims first, then what is named or oldest; the rest becomes credit. Credit sides."""
    with credits.alone(account_id):
        rest, sides = amount, []
        if parts is None and (claim := min(rest, claims(account_id))) > 0:
            sides.append((chart.claims(account_id), -claim))
            allot(payment, Purpose.BACK, claim, now)
            rest -= claim
        for invoice in _wanted(payment, account_id, parts, invoice_ids):
            part = min(rest, invoice.due - invoice.settled, (parts or {}).get(invoice.id, rest))
            if part > 0:
                allot(payment, Purpose.INVOICE, part, now, invoice)
                settle(invoice, part, now)
                sides.append((chart.receivable(account_id), -part))
                rest -= part
        if rest:
            count = payment.allocations.filter(purpose=Purpose.CREDIT).count()
            credits.buy(
                account_id,
                rest,
                key=f"payment:{payment.id}:{count}",
                payment_id=payment.id,
                actor=actor,
                now=now,
            )
            allot(payment, Purpose.CREDIT, rest, now)
            sides.append((chart.prepaid(account_id), -rest))
    return sides


def _wanted(
    payment: Payment,
    account_id: str,
    parts: Mapping[str, int] | None,
    invoice_ids: Sequence[str],
) -> list[Invoice]:
    """Locked, in the order in which they are paid."""
    named = list(dict.fromkeys(invoice_ids)) if parts is None else list(parts)
    rows = Invoice.objects.select_for_update(of=("self",)).filter(
        account_id=account_id, entity_id=payment.entity_id
    )
    if named or parts is not None:
        found = {one.id: one for one in rows.filter(id__in=named).order_by("id")}
        if missing := [one for one in named if one not in found]:
            raise errors.PaymentRefused(
                f"{missing[0]} is no invoice of {account_id}", code="unknown_invoice"
            )
        mine = [found[one] for one in named]
    else:
        mine = list(rows.filter(state=InvoiceState.FINAL).order_by("id"))
        mine.sort(key=lambda one: (one.due_on is None, one.due_on, one.id))
    return [
        one
        for one in mine
        if one.state == InvoiceState.FINAL and one.kind != InvoiceKind.CREDIT_NOTE
    ]


def settle(invoice: Invoice, amount: int, now: datetime) -> None:
    invoice.settled += amount
    paid = invoice.settled == invoice.due
    if invoice.state in (InvoiceState.FINAL, InvoiceState.PAID):
        invoice.state = InvoiceState.PAID if paid else InvoiceState.FINAL
    invoice.paid_at = now if paid else None
    invoice.save(update_fields=["settled", "state", "paid_at"])


def standing(payment: Payment) -> dict[tuple[str, str | None], int]:
    """What it is for now, by purpose and invoice, in the order of its allocations."""
    sums: dict[tuple[str, str | None], int] = {}
    for one in payment.allocations.order_by("id"):
        at = one.purpose, one.invoice_id
        sums[at] = sums.get(at, 0) + one.amount
    return sums


def allot(
    payment: Payment, purpose: str, amount: int, now: datetime, invoice: Invoice | None = None
) -> None:
    Allocation.objects.create(
        payment=payment, purpose=purpose, invoice=invoice, amount=amount, at=now
    )


def claims(account_id: str) -> int:
    """Cents that went back though they were used: the customer owes them beside all invoices."""
    return int(ledger.balance(chart.claims(account_id)).scaleb(2))
