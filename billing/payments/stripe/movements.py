"""What Stripe takes back from a payment: refunds that we ask for, disputes that customers begin.

Disputes are also how Stripe tells of a SEPA debit that came back: lost as it comes. What is taken
reopens the invoice; what comes back (a dispute won, a refund that never arrived) settles it again.
"""

from datetime import datetime

from django.db import transaction
from django.db.models import Sum

from billing.payments.stripe import landing, paying
from billing.payments.stripe.calls import MARK, Drop, Kind, Obj, marked, register
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import (
    CallKind,
    CallState,
    MethodKind,
    PaymentState,
    StripeCall,
    StripeMovement,
    StripePayment,
)
from billing.payments.stripe.problems import Refused, StripeProblem
from compliance import audit, ids

REFUND_LOST = frozenset({"failed", "canceled"})
DISPUTE_OVER = frozenset({"won", "warning_closed", "prevented"})
# An inquiry: nothing was taken yet.
DISPUTE_ASKS = frozenset({"warning_needs_response", "warning_under_review"})


class CannotRefund(StripeProblem):
    code = "cannot_refund"


def refund(payment_id: str, amount: int, *, actor: audit.Actor, now: datetime) -> StripeCall:
    """Asks Stripe to give back `amount` cents of a StripePayment. Raises CannotRefund."""
    with transaction.atomic():
        payment = StripePayment.objects.select_for_update().filter(pk=payment_id).first()
        if payment is None or payment.state != PaymentState.SUCCEEDED:
            raise CannotRefund("Only a payment that succeeded can be refunded.")
        left = payment.amount - _given_back(payment) - _asked_back(payment)
        if not 0 < amount <= left:
            raise CannotRefund(f"Of this payment {left} cents can be refunded.")
        call = StripeCall.objects.create(
            kind=CallKind.REFUND,
            subject_id=f"{payment.id}:{ids.new('rfd')}",
            account_id=payment.account_id,
            next_at=now,
            created_at=now,
        )
        call.body = {
            "payment_intent": payment.intent_id,
            "amount": amount,
            "metadata": {"account": payment.account_id, MARK: call.id},
        }
        call.save(update_fields=["body"])
        audit.record(
            actor=actor,
            action="payment.refund",
            target=audit.Target("stripe_payment", payment.id),
            log=audit.PLATFORM,
            now=now,
            change=[audit.Change("amount", None, amount)],
        )
    return call


def observe_refund(client: Client, refund: Obj, *, now: datetime) -> bool:
    """Takes over how a refund stands; whether it is of a payment of ours."""
    payment = _payment(client, refund, now)
    if payment is not None:
        _refunded(payment, refund, now)
    return payment is not None


def observe_dispute(client: Client, dispute: Obj, *, now: datetime) -> bool:
    """Takes over how a dispute stands; whether it is of a payment of ours."""
    payment = _payment(client, dispute, now)
    if payment is None:
        return False
    status = str(dispute["status"])
    debit = _kind(client, payment, dispute) == MethodKind.SEPA_DEBIT
    _take_over(
        payment,
        dispute,
        reason="return" if debit else "dispute",
        gone=status not in DISPUTE_ASKS,
        over=status in DISPUTE_OVER,
        back="dispute_won",
        now=now,
    )
    return True


def _refunded(payment: StripePayment, refund: Obj, now: datetime) -> None:
    lost = str(refund["status"]) in REFUND_LOST
    _take_over(
        payment, refund, reason="refund", gone=True, over=lost, back="refund_failed", now=now
    )


def _take_over(
    payment: StripePayment,
    about: Obj,
    *,
    reason: str,
    gone: bool,
    over: bool,
    back: str,
    now: datetime,
) -> None:
    """`gone`: Stripe took the money; `over`: it is back for good, whatever a stale look says."""
    with transaction.atomic():
        payment = StripePayment.objects.select_for_update().get(pk=payment.pk)
        movement, _ = StripeMovement.objects.get_or_create(
            object_id=about["id"],
            defaults={
                "payment": payment,
                "amount": int(about["amount"]),
                "status": about["status"],
                "created_at": now,
            },
        )
        if movement.status in REFUND_LOST | DISPUTE_OVER and not over:
            return
        movement.status = about["status"]
        if over and movement.taken and not movement.restored:
            landing.restored(movement, back, now=now)
            movement.restored = True
        elif gone and not over and not movement.taken:
            landing.taken(movement, reason, now=now)
            movement.taken = True
        movement.save()


def _payment(client: Client, about: Obj, now: datetime) -> StripePayment | None:
    """The payment that it was taken from, as it stands: it may come before the success did."""
    intent_id = about.get("payment_intent")
    if not intent_id:
        return None
    payment = StripePayment.objects.filter(intent_id=intent_id).first()
    if payment is None or not payment.payment_id:
        payment = paying.observe(client.payment(str(intent_id)), now=now)
    return payment if payment and payment.payment_id else None


def _kind(client: Client, payment: StripePayment, about: Obj) -> str:
    """`card` or `sepa_debit`; of what was paid on a page Stripe alone knows it."""
    if payment.method is not None:
        return str(payment.method.kind)
    return str(client.charge(str(about["charge"]))["payment_method_details"]["type"])


def _given_back(payment: StripePayment) -> int:
    rows = payment.movements.filter(taken=True, restored=False)
    return int(rows.aggregate(total=Sum("amount"))["total"] or 0)


def _asked_back(payment: StripePayment) -> int:
    calls = StripeCall.objects.filter(
        kind=CallKind.REFUND, subject_id__startswith=f"{payment.id}:", state=CallState.WAITING
    )
    return sum(int((call.body or {}).get("amount", 0)) for call in calls)


def _prepare(call: StripeCall, _now: datetime) -> Obj:
    raise Drop("a refund has its parameters from the beginning")


def _send(client: Client, params: Obj, key: str) -> Obj:
    return client.create_refund(params, key)


def _find(client: Client, call: StripeCall) -> Obj | None:
    intent = (call.body or {}).get("payment_intent", "")
    return marked(client.refunds(payment_intent=intent), call)


def _done(call: StripeCall, answer: Obj, now: datetime) -> None:
    payment = StripePayment.objects.get(pk=call.subject_id.partition(":")[0])
    _refunded(payment, answer, now)


def _refused(call: StripeCall, refusal: Refused | Drop, now: datetime) -> None:
    payment_id = call.subject_id.partition(":")[0]
    audit.record(
        actor=audit.SYSTEM,
        action="payment.refund",
        target=audit.Target("stripe_payment", payment_id),
        log=audit.PLATFORM,
        now=now,
        outcome="failure",
        reason=refusal.reason if isinstance(refusal, Refused) else "",
    )


register(CallKind.REFUND, Kind(_prepare, _send, _find, _done, _refused))
