"""Where what Stripe collected, and took back, reaches our books: the one way for all payments.

Each lands once, by the id of Stripe's object, however often and in whatever order it is told.
"""

from datetime import datetime

from billing.models import Invoice
from billing.payments import receipts
from billing.payments.stripe.models import StripeMovement, StripePayment
from compliance import audit


def received(payment: StripePayment, amount: int, *, now: datetime) -> str:
    """Books a collected amount (cents) against its invoice; the id of the receipt."""
    label = Invoice.objects.only("label").get(pk=payment.invoice_id).label
    receipt = receipts.receive(
        key=f"stripe:{payment.intent_id}",
        entity_id=payment.entity_id,
        account_id=payment.account_id,
        amount=amount,
        currency=payment.currency,
        method="stripe",
        received_at=now,
        invoice_ids=(payment.invoice_id,),
        reference=label,
        now=now,
        actor=audit.SYSTEM,
    )
    return str(receipt.id)


def taken(movement: StripeMovement, reason: str, *, now: datetime) -> None:
    """Books what Stripe took back for a `refund`, a `return` of a debit, or a `dispute`."""
    receipts.give_back(
        key=f"stripe:{movement.object_id}",
        payment_id=movement.payment.payment_id,
        amount=movement.amount,
        reason=reason,
        now=now,
        actor=audit.SYSTEM,
    )


def restored(movement: StripeMovement, reason: str, *, now: datetime) -> None:
    """Books that it is there again: `dispute_won`, or `refund_failed`."""
    receipts.give_back(
        key=f"stripe:{movement.object_id}:back",
        payment_id=movement.payment.payment_id,
        amount=movement.amount,
        reason=reason,
        now=now,
        actor=audit.SYSTEM,
    )
