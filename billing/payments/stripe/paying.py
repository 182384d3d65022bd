"""Collecting the open amount of one of our invoices by a stored means of payment.

    pay/collect -> StripePayment (asked) + a call in the outbox -> Stripe's payment intent
    -> `observe`, by answer, webhook or look: processing, succeeded (a receipt), failed

At most one payment of an invoice is live: the database sees to it. What a stale look or a late
webhook says never takes a payment back.
"""

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from billing.models import Invoice
from billing.payments.stripe import customers, landing, setup
from billing.payments.stripe.calls import (
    MARK,
    Drop,
    Kind,
    Obj,
    ask,
    marked,
    never,
    nothing,
    register,
    since,
)
from billing.payments.stripe.client import Client
from billing.payments.stripe.configuration import Configuration
from billing.payments.stripe.models import (
    LIVE,
    CallKind,
    MethodKind,
    PaymentState,
    StripeCall,
    StripeMethod,
    StripePayment,
)
from billing.payments.stripe.problems import Declined, Refused, StripeProblem, Unavailable
from compliance import audit

log = logging.getLogger(__name__)

AMOUNT_MIN, AMOUNT_MAX = 50, 99_999_999  # of one charge, in cents: Stripe's bounds
TRIES_MAX = 3
AUTHENTICATE = "authentication_required"  # the card's bank wants its holder to confirm
TRY_AGAIN = timedelta(days=3)
LOOK_EVERY = timedelta(hours=1)
# Asking again changes nothing: somebody has to do something first.
FINAL_REASONS = frozenset(
    {
        *(AUTHENTICATE, "expired_card", "lost_card", "stolen_card", "pickup_card"),
        *("payment_method_not_available", "resource_missing", "debit_not_authorized"),
        *("amount_too_large", "amount_too_small", "invoice_settled", "idempotency_error"),
    }
)
_STATES = {
    "processing": PaymentState.PROCESSING,
    "succeeded": PaymentState.SUCCEEDED,
    "requires_payment_method": PaymentState.FAILED,
    "requires_action": PaymentState.FAILED,  # nobody is there to do it
    "canceled": PaymentState.CANCELED,
}
_TAKEN = (PaymentState.PROCESSING, PaymentState.SUCCEEDED)


class NothingToPay(StripeProblem):
    """The invoice is not open, or is being paid. The message says which."""

    code = "nothing_to_pay"


class NoMethod(StripeProblem):
    code = "no_payment_method"


def pay(invoice_id: str, *, actor: audit.Actor, now: datetime) -> StripePayment:
    """Asks for the open amount with the account's newest means of payment.

    Raises NothingToPay and NoMethod. What comes of it shows in the payment's state.
    """
    with transaction.atomic():
        invoice = Invoice.objects.select_for_update().select_related("entity").get(pk=invoice_id)
        amount = payable(invoice)
        if live := under_way(invoice_id):
            raise NothingToPay(
                f"A payment of this invoice is under way ({live.get_state_display().lower()})."
            )
        payment = begun(invoice, amount, PaymentState.ASKED, _method(invoice), actor, now)
        ask(CallKind.PAYMENT, payment.id, payment.account_id, now=now)
    return payment


def payable(invoice: Invoice) -> int:
    """Its open amount in cents, which Stripe may be asked for. Raises NothingToPay."""
    amount = still_open(invoice)
    if amount <= 0:
        raise NothingToPay("This invoice is not open.")
    if not AMOUNT_MIN <= amount <= AMOUNT_MAX:
        raise NothingToPay("Stripe takes 0.50 to 999,999.99 at once: pay by bank transfer.")
    if invoice.entity.invoice_issuer != "platform":
        raise NothingToPay("Stripe issues the invoices of this entity, and collects them.")
    return amount


def unconfirmed(now: datetime) -> list[Invoice]:
    """Open invoices whose card's bank asked its holder to confirm, of the last quarter."""
    asked = StripePayment.objects.filter(
        invoice_id=OuterRef("pk"), reason=AUTHENTICATE, closed_at__gt=now - timedelta(days=90)
    )
    rows = Invoice.objects.filter(Exists(asked), state="final", due__gt=F("settled"))
    return list(rows.order_by("id"))


def under_way(invoice_id: str) -> StripePayment | None:
    return StripePayment.objects.filter(invoice_id=invoice_id, state__in=LIVE).first()


def begun(
    invoice: Invoice,
    amount: int,
    state: PaymentState,
    method: StripeMethod | None,
    actor: audit.Actor,
    now: datetime,
) -> StripePayment:
    """A new payment of `amount` cents, in a transaction that holds the invoice."""
    payment = StripePayment.objects.create(
        invoice_id=invoice.id,
        account_id=invoice.account_id,
        entity_id=invoice.entity_id,
        amount=amount,
        currency=invoice.currency,
        method=method,
        state=state,
        created_at=now,
    )
    _audit("payment.ask", payment, actor, now)
    return payment


def collect(configuration: Configuration, now: datetime, limit: int = 200) -> int:
    """Asks for what is due of customers who pay by Stripe; returns for how many invoices.

    A SEPA debit not before the customer had notice of it, which the invoice gives.
    """
    noticed = now - timedelta(days=configuration.notice_days)
    tries = StripePayment.objects.filter(invoice_id=OuterRef("pk"))
    newest = StripeMethod.objects.filter(account_id=OuterRef("account_id"), detached_at=None)
    # Nobody is asked again on his own account after a dispute, or beyond three tries.
    stopped = Q(state=PaymentState.SUCCEEDED) | Q(reason__in=FINAL_REASONS)
    # A page that nobody used was no try.
    charged = Q(method__isnull=False)
    recent = Q(state__in=LIVE) | (charged & Q(closed_at__gt=now - TRY_AGAIN))
    due = (
        Invoice.objects.filter(
            state="final",
            due__gt=F("settled"),
            due_on__lte=now.date(),
            account__customer__collection="stripe",
            entity__invoice_issuer="platform",
        )
        .filter(Exists(newest))
        .exclude(Exists(tries.filter(stopped | recent)))
        .order_by("due_on", "id")
        .values_list("id", "final_at", "account_id")
    )
    asked = 0
    for invoice_id, final_at, account_id in due[:limit]:
        methods = setup.methods(account_id)
        debit = bool(methods) and methods[0].kind == MethodKind.SEPA_DEBIT
        too_early = debit and final_at is not None and final_at > noticed
        tried = StripePayment.objects.filter(charged, invoice_id=invoice_id).count()
        if too_early or tried >= TRIES_MAX:
            continue
        try:
            pay(invoice_id, actor=audit.SYSTEM, now=now)
        except (NothingToPay, NoMethod) as reason:
            log.info("%s is not collected by Stripe: %s", invoice_id, reason)
        else:
            asked += 1
    return asked


def look(client: Client, now: datetime, limit: int = 100) -> int:
    """Asks how payments stand of which no webhook came for an hour; returns how many."""
    old = Q(looked_at=None, created_at__lte=now - LOOK_EVERY) | Q(looked_at__lte=now - LOOK_EVERY)
    rows = StripePayment.objects.filter(old, state__in=LIVE, session_id="").exclude(intent_id="")
    looked = 0
    for payment in rows.order_by("looked_at")[:limit]:
        try:
            observe(client.payment(payment.intent_id), now=now)
        except Unavailable:
            break
        looked += 1
    return looked


def observe(intent: Obj, *, now: datetime, over: bool = False) -> StripePayment | None:
    """Takes over how a payment intent stands at Stripe. None: it is none of ours.

    On a page a card that is refused may be followed by another: until the page is `over`, only
    what takes money counts.
    """
    with transaction.atomic():
        payment = _of(intent)
        if payment is None:
            return None
        payment.intent_id = intent["id"]
        payment.looked_at = now
        state = _STATES.get(intent["status"])
        if payment.method_id is None and not over and state not in _TAKEN:
            state = None
        if state == PaymentState.SUCCEEDED and not payment.payment_id:
            _succeeded(payment, intent, now)
        elif state and payment.state in LIVE:
            move(payment, state, _reason(intent), now)
        payment.save()
    return payment


def still_open(invoice: Invoice) -> int:
    return invoice.due - invoice.settled if invoice.state == "final" else 0


def _method(invoice: Invoice) -> StripeMethod:
    for method in setup.methods(invoice.account_id):
        if method.kind == MethodKind.CARD or invoice.currency == "EUR":
            return method
    raise NoMethod("There is no stored means of payment: add one first.")


def _of(intent: Obj) -> StripePayment | None:
    """By its id, or by the call that made it, where the answer has yet to be read."""
    rows = StripePayment.objects.select_for_update()
    if found := rows.filter(intent_id=intent["id"]).first():
        return found
    mark = (intent.get("metadata") or {}).get(MARK, "")
    call = StripeCall.objects.filter(pk=mark, kind__in=(CallKind.PAYMENT, CallKind.PAGE)).first()
    return rows.filter(pk=call.subject_id, intent_id="").first() if call else None


def _reason(intent: Obj) -> str:
    error = intent.get("last_payment_error") or {}
    asks = AUTHENTICATE if intent["status"] == "requires_action" else ""
    return str(error.get("code") or asks)


def _succeeded(payment: StripePayment, intent: Obj, now: datetime) -> None:
    if str(intent["currency"]).upper() != payment.currency:
        payment.reason = "currency_mismatch"
        log.error("%s was paid in %s, not %s", payment.id, intent["currency"], payment.currency)
        return
    payment.payment_id = landing.received(payment, int(intent["amount_received"]), now=now)
    payment.reason = ""
    move(payment, PaymentState.SUCCEEDED, "", now)


def move(payment: StripePayment, state: PaymentState, reason: str, now: datetime) -> None:
    """Takes over a state in a transaction that holds the row; the caller saves it."""
    if payment.state == state:
        return
    payment.state = state
    payment.reason = reason[:64]
    if state in LIVE:
        return
    payment.closed_at = now
    _audit("payment.close", payment, audit.SYSTEM, now)
    if state == PaymentState.FAILED and payment.intent_id and payment.method_id:
        # Nobody may confirm it later, at Stripe, beside the next one. That of a page ends with it.
        ask(CallKind.CANCEL, payment.id, payment.account_id, now=now)


def _audit(action: str, payment: StripePayment, actor: audit.Actor, now: datetime) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("stripe_payment", payment.id),
        log=audit.PLATFORM,
        now=now,
        change=[
            audit.Change("state", None, str(payment.state)),
            audit.Change("invoice", None, payment.invoice_id),
            audit.Change("amount", None, payment.amount),
        ],
    )


def _prepare(call: StripeCall, _now: datetime) -> Obj:
    payment = StripePayment.objects.select_related("method").get(pk=call.subject_id)
    assert payment.method is not None
    invoice = Invoice.objects.get(pk=payment.invoice_id)
    if still_open(invoice) < payment.amount:
        raise Drop("the invoice was settled in the meantime, wholly or in part")
    return {
        "amount": payment.amount,
        "currency": payment.currency.lower(),
        "customer": customers.of(payment.account_id),
        "payment_method": payment.method.method_id,
        "confirm": True,
        "off_session": True,
        "description": invoice.label,
        "metadata": {"account": payment.account_id, "invoice": invoice.id, MARK: call.id},
    }


def _send(client: Client, params: Obj, key: str) -> Obj:
    return client.create_payment(params, key)


def _find(client: Client, call: StripeCall) -> Obj | None:
    customer = (call.body or {}).get("customer", "")
    return marked(client.payments(customer=customer, created=since(call)), call)


def _done(_call: StripeCall, answer: Obj, now: datetime) -> None:
    observe(answer, now=now)


def _refused(call: StripeCall, refusal: Refused | Drop, now: datetime) -> None:
    if isinstance(refusal, Declined) and refusal.intent:
        observe(refusal.intent, now=now)
    payment = StripePayment.objects.select_for_update().get(pk=call.subject_id)
    if payment.state in LIVE:
        if isinstance(refusal, Drop):
            move(payment, PaymentState.CANCELED, "invoice_changed", now)
        else:
            move(payment, PaymentState.FAILED, refusal.reason, now)
    payment.save()


register(CallKind.PAYMENT, Kind(_prepare, _send, _find, _done, _refused))


def _prepare_cancel(call: StripeCall, _now: datetime) -> Obj:
    return {"intent": StripePayment.objects.get(pk=call.subject_id).intent_id}


def _send_cancel(client: Client, params: Obj, key: str) -> Obj:
    intent = client.payment(params["intent"])
    if intent["status"] in ("canceled", "succeeded", "processing"):
        return intent
    return client.cancel_payment(params["intent"], key)


register(CallKind.CANCEL, Kind(_prepare_cancel, _send_cancel, never, _done, nothing))
