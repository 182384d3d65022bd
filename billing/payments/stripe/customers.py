"""Accounts as Stripe's customers: a name and where to write to, and whose they are. No more.

No tax number goes there: Stripe only collects, and decides no VAT.
"""

from datetime import datetime

from django.db import transaction

from billing.models import Account
from billing.payments.stripe.calls import MARK, Kind, Obj, ask, marked, nothing, register, since
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import CallKind, StripeCall, StripeCustomer


def ensure(account_id: str, *, now: datetime) -> StripeCustomer:
    """The account's customer; Stripe is asked for one where there is none yet."""
    with transaction.atomic():
        StripeCustomer.objects.bulk_create(
            [StripeCustomer(account_id=account_id, created_at=now)], ignore_conflicts=True
        )
        # Locked, so that of two at once one asks.
        found = StripeCustomer.objects.select_for_update().get(pk=account_id)
        if not found.customer_id:
            ask(CallKind.CUSTOMER, account_id, account_id, now=now)
    return found


def of(account_id: str) -> str:
    """Its id at Stripe, or nothing yet."""
    found = StripeCustomer.objects.filter(pk=account_id).first()
    return found.customer_id if found else ""


def _prepare(call: StripeCall, _now: datetime) -> Obj:
    account = Account.objects.get(pk=call.account_id)
    params: Obj = {"name": account.name, "metadata": {"account": account.id, MARK: call.id}}
    profile = getattr(account, "customer", None)
    if profile is not None:
        params |= {"name": profile.legal_name}
        params |= {"email": profile.email} if profile.email else {}
    return params


def _send(client: Client, params: Obj, key: str) -> Obj:
    return client.create_customer(params, key)


def _find(client: Client, call: StripeCall) -> Obj | None:
    return marked(client.customers(created=since(call)), call)


def _done(call: StripeCall, answer: Obj, _now: datetime) -> None:
    rows = StripeCustomer.objects.filter(pk=call.account_id, customer_id="")
    rows.update(customer_id=answer["id"])


register(CallKind.CUSTOMER, Kind(_prepare, _send, _find, _done, nothing))
