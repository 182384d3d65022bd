"""One invoice is paid on Stripe's own page: by a person, who can do what a card's bank asks.

begin -> a payment (offered) and a call in the outbox -> Checkout (payment mode, for an hour)
-> `follow` by webhook, look, or when the person is back: processing, succeeded, failed, expired

Its payment intent is made by the page, and either may be heard of first, twice, or late. A success
counts wherever it is seen; that nothing comes any more, only the page can say.
"""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from billing.models import Invoice
from billing.payments.stripe import outbox, paying, setup
from billing.payments.stripe.calls import (
    MARK,
    Drop,
    Kind,
    NotYet,
    Obj,
    ask,
    marked,
    never,
    nothing,
    register,
    since,
)
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import (
    LIVE,
    CallKind,
    CallState,
    MethodKind,
    PaymentState,
    StripeCall,
    StripePayment,
)
from billing.payments.stripe.problems import Refused, Unavailable
from billing.payments.stripe.setup import Page
from compliance import audit

# Stripe allows 30 minutes to a day. While it is open nothing else collects the invoice.
OPEN_FOR = timedelta(hours=1)


def begin(
    client: Client,
    invoice_id: str,
    *,
    success_url: str,
    cancel_url: str,
    actor: audit.Actor,
    now: datetime,
) -> Page:
    """The page on which the invoice's open amount is paid; the one that is open already, if any.

    Raises NothingToPay, Unavailable and Refused.
    """
    account_id = Invoice.objects.only("account_id").get(pk=invoice_id).account_id
    customer = setup.customer_of(client, account_id, now=now)
    addresses = {"success_url": success_url, "cancel_url": cancel_url}
    for _ in range(2):  # a page that is of no use any more is closed first
        payment = _offered(invoice_id, customer, addresses, actor, now)
        if (page := _opened(client, payment, now)) is not None:
            return page
    raise Unavailable("the last page of this invoice is not closed yet: try again in a moment")


def observe(client: Client, intent_id: str, *, now: datetime) -> StripePayment | None:
    """How a payment intent stands, of a page or not. None: it is none of ours."""
    payment = paying.observe(client.payment(intent_id), now=now)
    if payment is not None and payment.session_id and payment.state in LIVE:
        follow(client, payment.session_id, now=now)
    return payment


def follow(client: Client, session_id: str, *, now: datetime) -> StripePayment | None:
    """Takes over what came of a page. None: it is no page of an invoice of ours."""
    session = client.checkout(session_id)
    if session.get("mode") != "payment" or (payment := _noted(session, now)) is None:
        return None
    if session.get("payment_intent"):
        # Asked for after the page: where that is complete, what fails now has failed for good.
        intent = client.payment(str(session["payment_intent"]))
        paying.observe(intent, now=now, over=session["status"] == "complete")
    if session["status"] == "expired":
        _expired(payment.id, now)
    payment.refresh_from_db()
    return payment


def look(client: Client, now: datetime, limit: int = 100) -> int:
    """Asks what came of pages of which nothing was heard for an hour; returns of how many."""
    before = now - paying.LOOK_EVERY
    old = Q(looked_at=None, created_at__lte=before) | Q(looked_at__lte=before)
    rows = StripePayment.objects.filter(old, state__in=LIVE).exclude(session_id="")
    looked = 0
    for payment in rows.order_by("looked_at")[:limit]:
        try:
            follow(client, payment.session_id, now=now)
        except Unavailable:
            break
        looked += 1
    return looked


def tidy(now: datetime) -> int:
    """Closes pages that ask for what is no longer owed; returns how many."""
    closed = 0
    for payment in StripePayment.objects.filter(state=PaymentState.OFFERED).order_by("id"):
        invoice = Invoice.objects.get(pk=payment.invoice_id)
        if paying.still_open(invoice) != payment.amount:
            _close(payment, now)
            closed += 1
    return closed


def _offered(
    invoice_id: str, customer: str, addresses: Obj, actor: audit.Actor, now: datetime
) -> StripePayment:
    """The payment that a page is, or is to be, open for."""
    with transaction.atomic():
        invoice = Invoice.objects.select_for_update().select_related("entity").get(pk=invoice_id)
        amount = paying.payable(invoice)
        if (live := paying.under_way(invoice_id)) is not None:
            if live.state == PaymentState.OFFERED:
                return live
            raise paying.NothingToPay(f"A payment of this invoice is under way ({live.state}).")
        payment = paying.begun(invoice, amount, PaymentState.OFFERED, None, actor, now)
        call = ask(CallKind.PAGE, payment.id, payment.account_id, now=now)
        call.body = _body(call, payment, invoice, customer) | addresses
        call.save(update_fields=["body"])
    return payment


def _opened(client: Client, payment: StripePayment, now: datetime) -> Page | None:
    """Its page as it stands; None where it is over, or asks for another amount than is owed."""
    if not payment.session_id:
        call = StripeCall.objects.filter(kind=CallKind.PAGE, subject_id=payment.id).latest("id")
        outbox.attempt(client, call.id, now)
        call.refresh_from_db()
        if call.state == CallState.REFUSED:
            raise Refused(call.problem, "no_page")
        if call.state != CallState.DONE:
            raise Unavailable("Stripe has not opened the page yet: try again in a moment")
        payment.refresh_from_db()
    if (followed := follow(client, payment.session_id, now=now)) is None:
        raise Refused("Stripe does not know this page any more", "no_page")
    if followed.state != PaymentState.OFFERED:
        return None
    if paying.still_open(Invoice.objects.get(pk=payment.invoice_id)) != payment.amount:
        outbox.attempt(client, _close(payment, now).id, now)
        return None
    session = client.checkout(payment.session_id)
    url = session.get("url")
    return Page(str(url), str(session["id"])) if url else None


def _close(payment: StripePayment, now: datetime) -> StripeCall:
    return ask(CallKind.EXPIRE, payment.id, payment.account_id, now=now)


def _noted(session: Obj, now: datetime) -> StripePayment | None:
    """By its id, or by the call that made it, where the answer has yet to be read."""
    with transaction.atomic():
        rows = StripePayment.objects.select_for_update().filter(method=None)
        payment = rows.filter(session_id=session["id"]).first()
        if payment is None:
            mark = (session.get("metadata") or {}).get(MARK, "")
            call = StripeCall.objects.filter(pk=mark, kind=CallKind.PAGE).first()
            payment = rows.filter(pk=call.subject_id, session_id="").first() if call else None
        if payment is not None:
            payment.session_id, payment.looked_at = session["id"], now
            payment.save(update_fields=["session_id", "looked_at"])
    return payment


def _expired(payment_id: str, now: datetime) -> None:
    with transaction.atomic():
        payment = StripePayment.objects.select_for_update().get(pk=payment_id)
        if payment.state == PaymentState.OFFERED:
            paying.move(payment, PaymentState.CANCELED, "page_expired", now)
            payment.save()


def _body(call: StripeCall, payment: StripePayment, invoice: Invoice, customer: str) -> Obj:
    marks = {"account": payment.account_id, "invoice": invoice.id, MARK: call.id}
    kinds = [MethodKind.CARD] + [MethodKind.SEPA_DEBIT] * (payment.currency == "EUR")
    price = {
        "currency": payment.currency.lower(),
        "unit_amount": payment.amount,
        "product_data": {"name": f"Invoice {invoice.label}"},
    }
    return {
        "mode": "payment",
        "customer": customer,
        "client_reference_id": invoice.id,
        "allowed_payment_method_types": [kind.value for kind in kinds],
        "line_items": [{"price_data": price, "quantity": 1}],
        "payment_intent_data": {"description": invoice.label, "metadata": marks},
        "metadata": marks,
        "expires_at": int((call.created_at + OPEN_FOR).timestamp()),
    }


def _prepare(call: StripeCall, _now: datetime) -> Obj:
    raise Drop("a page has its parameters from the beginning")


def _send(client: Client, params: Obj, key: str) -> Obj:
    return client.create_checkout(params, key)


def _find(client: Client, call: StripeCall) -> Obj | None:
    customer = (call.body or {}).get("customer", "")
    return marked(client.checkouts(customer=customer, created=since(call)), call)


def _done(_call: StripeCall, answer: Obj, now: datetime) -> None:
    _noted(answer, now)


def _refused(call: StripeCall, refusal: Refused | Drop, now: datetime) -> None:
    payment = StripePayment.objects.select_for_update().get(pk=call.subject_id)
    if payment.state in LIVE:
        reason = refusal.reason if isinstance(refusal, Refused) else "no_page"
        paying.move(payment, PaymentState.FAILED, reason, now)
        payment.save()


register(CallKind.PAGE, Kind(_prepare, _send, _find, _done, _refused))


def _prepare_expire(call: StripeCall, _now: datetime) -> Obj:
    payment = StripePayment.objects.get(pk=call.subject_id)
    if payment.state != PaymentState.OFFERED:
        raise Drop("it is over already")
    if not payment.session_id:
        raise NotYet("the page is not known yet")
    return {"session": payment.session_id}


def _send_expire(client: Client, params: Obj, key: str) -> Obj:
    """One that was paid meanwhile cannot be closed: its own events tell of it."""
    session = client.checkout(params["session"])
    return session if session["status"] != "open" else client.expire_checkout(session["id"], key)


def _done_expire(call: StripeCall, answer: Obj, now: datetime) -> None:
    if answer["status"] == "expired":
        _expired(call.subject_id, now)


register(CallKind.EXPIRE, Kind(_prepare_expire, _send_expire, never, _done_expire, nothing))
