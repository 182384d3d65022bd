"""Which request goes where, and the typed dictionary of Stripe's package that it must fit."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stripe import params as sp
from stripe.params import billing, checkout

from tests.stripe_server import checkout as sessions
from tests.stripe_server import customers, meters, payments
from tests.stripe_server.store import Obj, Store

Handler = Callable[..., Obj]


@dataclass(frozen=True)
class Route:
    method: str
    path: re.Pattern[str]
    params: Any  # a TypedDict
    handler: Handler


def _route(method: str, path: str, params: Any, handler: Handler) -> Route:
    pattern = re.sub(r"\{\w+\}", r"([A-Za-z0-9_]+)", f"/v1{path}")
    return Route(method, re.compile(pattern), params, handler)


def _list_events(store: Store, params: Obj) -> Obj:
    return store.page("event", params, "/v1/events", type=params.get("type"))


def _event(store: Store, params: Obj, id: str) -> Obj:
    return store.get("event", id)


def _list_invoices(store: Store, params: Obj) -> Obj:
    return store.page("invoice", params, "/v1/invoices")


ROUTES = (
    _route("POST", "/customers", sp.CustomerCreateParams, customers.create),
    _route("GET", "/customers", sp.CustomerListParams, customers.listing),
    _route("GET", "/customers/{c}", sp.CustomerRetrieveParams, customers.retrieve),
    _route("POST", "/customers/{c}", sp.CustomerUpdateParams, customers.update),
    _route("DELETE", "/customers/{c}", sp.CustomerDeleteParams, customers.delete),
    _route("POST", "/customers/{c}/tax_ids", sp.CustomerTaxIdCreateParams, customers.create_tax_id),
    _route("GET", "/customers/{c}/tax_ids", sp.CustomerTaxIdListParams, customers.list_tax_ids),
    _route(
        "DELETE",
        "/customers/{c}/tax_ids/{t}",
        sp.CustomerTaxIdDeleteParams,
        customers.delete_tax_id,
    ),
    _route(
        "GET",
        "/customers/{c}/payment_methods",
        sp.CustomerPaymentMethodListParams,
        customers.list_methods,
    ),
    _route(
        "GET", "/payment_methods/{m}", sp.PaymentMethodRetrieveParams, customers.retrieve_method
    ),
    _route("POST", "/payment_methods/{m}/attach", sp.PaymentMethodAttachParams, customers.attach),
    _route("POST", "/payment_methods/{m}/detach", sp.PaymentMethodDetachParams, customers.detach),
    _route("GET", "/mandates/{m}", sp.MandateRetrieveParams, sessions.retrieve_mandate),
    _route("POST", "/setup_intents", sp.SetupIntentCreateParams, sessions.create_setup),
    _route("GET", "/setup_intents", sp.SetupIntentListParams, sessions.list_setups),
    _route("GET", "/setup_intents/{s}", sp.SetupIntentRetrieveParams, sessions.retrieve_setup),
    _route("POST", "/setup_intents/{s}/cancel", sp.SetupIntentCancelParams, sessions.cancel_setup),
    _route("POST", "/checkout/sessions", checkout.SessionCreateParams, sessions.create),
    _route("GET", "/checkout/sessions", checkout.SessionListParams, sessions.listing),
    _route("GET", "/checkout/sessions/{s}", checkout.SessionRetrieveParams, sessions.retrieve),
    _route("POST", "/checkout/sessions/{s}/expire", checkout.SessionExpireParams, sessions.expire),
    _route("POST", "/payment_intents", sp.PaymentIntentCreateParams, payments.create),
    _route("GET", "/payment_intents", sp.PaymentIntentListParams, payments.listing),
    _route("GET", "/payment_intents/{p}", sp.PaymentIntentRetrieveParams, payments.retrieve),
    _route("POST", "/payment_intents/{p}/confirm", sp.PaymentIntentConfirmParams, payments.confirm),
    _route("POST", "/payment_intents/{p}/cancel", sp.PaymentIntentCancelParams, payments.cancel),
    _route("GET", "/charges", sp.ChargeListParams, payments.list_charges),
    _route("GET", "/charges/{c}", sp.ChargeRetrieveParams, payments.retrieve_charge),
    _route("POST", "/refunds", sp.RefundCreateParams, payments.create_refund),
    _route("GET", "/refunds", sp.RefundListParams, payments.list_refunds),
    _route("GET", "/refunds/{r}", sp.RefundRetrieveParams, payments.retrieve_refund),
    _route("GET", "/disputes", sp.DisputeListParams, payments.list_disputes),
    _route("GET", "/disputes/{d}", sp.DisputeRetrieveParams, payments.retrieve_dispute),
    _route("GET", "/balance", sp.BalanceRetrieveParams, payments.balance),
    _route(
        "GET",
        "/balance_transactions",
        sp.BalanceTransactionListParams,
        payments.list_transactions,
    ),
    _route("GET", "/payouts", sp.PayoutListParams, payments.list_payouts),
    _route("GET", "/payouts/{p}", sp.PayoutRetrieveParams, payments.retrieve_payout),
    _route("GET", "/events", sp.EventListParams, _list_events),
    _route("GET", "/events/{e}", sp.EventRetrieveParams, _event),
    # To look whether Stripe issues invoices of its own; there is no way to make one here.
    _route("GET", "/invoices", sp.InvoiceListParams, _list_invoices),
    _route("POST", "/billing/meters", billing.MeterCreateParams, meters.create),
    _route("GET", "/billing/meters", billing.MeterListParams, meters.listing),
    _route("POST", "/billing/meter_events", billing.MeterEventCreateParams, meters.record),
    _route(
        "POST",
        "/billing/meter_event_adjustments",
        billing.MeterEventAdjustmentCreateParams,
        meters.adjust,
    ),
    _route(
        "GET",
        "/billing/meters/{m}/event_summaries",
        billing.MeterEventSummaryListParams,
        meters.summaries,
    ),
)
