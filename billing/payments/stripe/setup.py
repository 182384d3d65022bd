"""A means of payment is given at Stripe's own page and stored there; here comes what names it.

begin -> Checkout (setup mode) -> `observe` by webhook or when the person is back -> a method
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from billing.payments.stripe import customers, outbox
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
    CallKind,
    CallState,
    MethodKind,
    StripeCall,
    StripeCustomer,
    StripeMethod,
)
from billing.payments.stripe.problems import Refused, Unavailable
from compliance import audit, ids

# A page that nobody waits for any more is not opened.
WANTED_FOR = timedelta(minutes=10)


@dataclass(frozen=True)
class Page:
    """Where to send the person. `session_id` says afterwards what came of it."""

    url: str
    session_id: str


def begin(
    client: Client, account_id: str, *, success_url: str, cancel_url: str, now: datetime
) -> Page:
    """A page at Stripe on which a card or a bank account is given. Raises Unavailable, Refused."""
    with transaction.atomic():
        customers.ensure(account_id, now=now)
        call = StripeCall.objects.create(
            kind=CallKind.CHECKOUT,
            subject_id=f"{account_id}:{ids.new('cks')}",
            account_id=account_id,
            next_at=now,
            created_at=now,
        )
    customer = customer_of(client, account_id, now=now)
    # Addresses are of this request, so they are fixed here and not when it is sent.
    StripeCall.objects.filter(pk=call.pk, attempts=0).update(
        body=_body(call, customer, success_url, cancel_url)
    )
    outbox.attempt(client, call.id, now)
    call.refresh_from_db()
    if call.state != CallState.DONE:
        raise Refused(call.problem or "Stripe opened no page", "no_page")
    session = client.checkout(call.result_id)
    return Page(str(session["url"]), str(session["id"]))


def observe(client: Client, session_id: str, *, now: datetime) -> StripeMethod | None:
    """Stores what was given on a page that is complete; once, and for whom it was opened."""
    session = client.checkout(session_id)
    if session.get("mode") != "setup" or session.get("status") != "complete":
        return None
    account = StripeCustomer.objects.filter(customer_id=session.get("customer") or "").first()
    if account is None or not account.customer_id:
        return None
    intent = client.setup_intent(str(session["setup_intent"]))
    if intent.get("status") != "succeeded" or not intent.get("payment_method"):
        return None
    given = client.payment_method(str(intent["payment_method"]))
    mandate = client.mandate(str(intent["mandate"])) if intent.get("mandate") else {}
    if given.get("customer") != account.customer_id:
        return None  # taken away again in the meantime
    return _store(account.account_id, given, mandate, now)


def methods(account_id: str) -> list[StripeMethod]:
    """Those that are attached, the newest first."""
    rows = StripeMethod.objects.filter(account_id=account_id, detached_at=None)
    return list(rows.order_by("-created_at", "-id"))


def detach(method: StripeMethod, *, actor: audit.Actor, now: datetime) -> None:
    """Not used from now on; Stripe is told as soon as it answers."""
    with transaction.atomic():
        held = StripeMethod.objects.select_for_update().get(pk=method.pk)
        if held.detached_at is not None:
            return
        held.detached_at = now
        held.save(update_fields=["detached_at"])
        ask(CallKind.DETACH, held.id, held.account_id, now=now)
        _audit("payment_method.delete", held, actor, now)


def detached(client: Client, method_id: str, *, now: datetime) -> bool:
    """Marks a method that was taken away at Stripe. Whether it is one of ours."""
    method = StripeMethod.objects.filter(method_id=method_id).first()
    if method is None:
        return False
    if method.detached_at is None and client.payment_method(method_id).get("customer") is None:
        StripeMethod.objects.filter(pk=method.pk, detached_at=None).update(detached_at=now)
    return True


def customer_of(client: Client, account_id: str, *, now: datetime) -> str:
    """The account's id at Stripe, made now where there is none. Raises Unavailable."""
    customers.ensure(account_id, now=now)
    row = StripeCall.objects.filter(
        kind=CallKind.CUSTOMER, subject_id=account_id, state=CallState.WAITING
    )
    for call in row:
        outbox.attempt(client, call.id, now)
    if not (customer := customers.of(account_id)):
        raise Unavailable("Stripe does not know the account yet: try again in a moment")
    return customer


def _store(account_id: str, given: Obj, mandate: Obj, now: datetime) -> StripeMethod:
    kind = MethodKind(given["type"])
    details = given[kind.value]
    month, year = details.get("exp_month"), details.get("exp_year")
    debit = (mandate.get("payment_method_details") or {}).get("sepa_debit") or {}
    with transaction.atomic():
        stored, new = StripeMethod.objects.get_or_create(
            method_id=given["id"],
            defaults={
                "account_id": account_id,
                "kind": kind,
                "brand": details.get("brand") or "",
                "last4": details.get("last4") or "",
                "country": details.get("country") or "",
                "expires": f"{year}-{month:02d}" if month and year else "",
                "mandate": debit.get("reference") or "",
                "created_at": now,
            },
        )
        if new:
            _audit("payment_method.create", stored, audit.SYSTEM, now)
    return stored


def _audit(action: str, method: StripeMethod, actor: audit.Actor, now: datetime) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("payment_method", method.id),
        log=audit.PLATFORM,
        now=now,
        change=[
            audit.Change("account", None, method.account_id),
            audit.Change("kind", None, method.kind),
        ],
    )


def _body(call: StripeCall, customer: str, success_url: str, cancel_url: str) -> Obj:
    return {
        "mode": "setup",
        "customer": customer,
        "allowed_payment_method_types": [kind.value for kind in MethodKind],
        "success_url": success_url,
        "cancel_url": cancel_url,
        "metadata": {"account": call.account_id, MARK: call.id},
    }


def _prepare(call: StripeCall, now: datetime) -> Obj:
    """Only where `begin` was cut off before it had fixed the addresses: nobody waits for it."""
    if call.created_at < now - WANTED_FOR:
        raise Drop("nobody waits for this page any more")
    raise NotYet("its addresses are not known yet")


def _send(client: Client, params: Obj, key: str) -> Obj:
    return client.create_checkout(params, key)


def _find(client: Client, call: StripeCall) -> Obj | None:
    customer = (call.body or {}).get("customer", "")
    return marked(client.checkouts(customer=customer, created=since(call)), call)


register(CallKind.CHECKOUT, Kind(_prepare, _send, _find, nothing, nothing))


def _prepare_detach(call: StripeCall, _now: datetime) -> Obj:
    return {"method": StripeMethod.objects.get(pk=call.subject_id).method_id}


def _send_detach(client: Client, params: Obj, key: str) -> Obj:
    """Stripe refuses a second time, and that is as good."""
    if client.payment_method(params["method"]).get("customer") is None:
        return {"id": params["method"]}
    return client.detach_method(params["method"], key)


register(CallKind.DETACH, Kind(_prepare_detach, _send_detach, never, nothing, nothing))
