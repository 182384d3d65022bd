"""Customers, their tax numbers, and the means of payment that are attached to them."""

import re
from typing import Any

from tests.stripe_server.problems import invalid
from tests.stripe_server.store import Obj, Store

_EU_VAT = re.compile(r"[A-Z]{2}[A-Z0-9+*]{2,12}")


def create(store: Store, params: Obj) -> Obj:
    made = store.make(
        "customer",
        "cus",
        name=params.get("name"),
        email=params.get("email"),
        address=params.get("address"),
        description=params.get("description"),
        metadata=params.get("metadata") or {},
        invoice_settings={"default_payment_method": None},
        preferred_locales=params.get("preferred_locales") or [],
        tax_exempt=params.get("tax_exempt") or "none",
    )
    store.emit("customer.created", made)
    return made


def update(store: Store, params: Obj, id: str) -> Obj:
    found = living(store, id)
    default = (params.get("invoice_settings") or {}).get("default_payment_method")
    if default:
        method = store.get("payment_method", default, "invoice_settings[default_payment_method]")
        if method["customer"] != id:
            raise invalid("The payment method is not attached to this customer.")
    for name, value in params.items():
        found[name] = found[name] | value if isinstance(found.get(name), dict) else value
    store.emit("customer.updated", found)
    return found


def retrieve(store: Store, params: Obj, id: str) -> Obj:
    return store.get("customer", id)


def listing(store: Store, params: Obj) -> Obj:
    return store.page("customer", params, "/v1/customers", email=params.get("email"))


def delete(store: Store, params: Obj, id: str) -> Obj:
    living(store, id)["deleted"] = True
    return {"id": id, "object": "customer", "deleted": True}


def living(store: Store, id: str, param: str = "id") -> Obj:
    found = store.get("customer", id, param)
    if found.get("deleted"):
        raise invalid(f"No such customer: '{id}'; a deleted one has this id.", param=param)
    return found


def create_tax_id(store: Store, params: Obj, customer: str) -> Obj:
    living(store, customer)
    kind, value = params["type"], params["value"]
    if kind == "eu_vat" and not _EU_VAT.fullmatch(value):
        raise invalid(f"Invalid value for {kind}.", code="tax_id_invalid", param="value")
    made = store.make(
        "tax_id",
        "txi",
        customer=customer,
        type=kind,
        value=value,
        country=value[:2],
        verification={"status": "pending"},
    )
    store.emit("customer.tax_id.created", made)
    return made


def list_tax_ids(store: Store, params: Obj, customer: str) -> Obj:
    url = f"/v1/customers/{customer}/tax_ids"
    return store.page("tax_id", params, url, customer=living(store, customer)["id"])


def delete_tax_id(store: Store, params: Obj, customer: str, id: str) -> Obj:
    store.get("tax_id", id)
    del store.objects["tax_id"][id]
    return {"id": id, "object": "tax_id", "deleted": True}


def make_method(store: Store, kind: str, customer: str | None, behaviour: str, **more: Any) -> Obj:
    """What a person types at Checkout. `behaviour` is how charges of it will go."""
    details: Obj = (
        {"brand": "visa", "last4": "4242", "exp_month": 4, "exp_year": 2031, "country": "DE"}
        if kind == "card"
        else {"bank_code": "37040044", "country": "DE", "last4": "3000", "fingerprint": "fp"}
    )
    return store.make(
        "payment_method",
        "pm",
        type=kind,
        customer=customer,
        billing_details={"name": "Ada", "email": "ada@example.org"},
        metadata={},
        **{kind: details | more},
        _behaviour=behaviour,
    )


def retrieve_method(store: Store, params: Obj, id: str) -> Obj:
    return store.get("payment_method", id)


def list_methods(store: Store, params: Obj, customer: str) -> Obj:
    url = f"/v1/customers/{customer}/payment_methods"
    return store.page("payment_method", params, url, customer=customer, type=params.get("type"))


# Names of Stripe's own for cards that behave in a certain way.
_TOKENS = {"pm_card_visa": "ok", "pm_card_chargeCustomerFail": "declined"}


def attach(store: Store, params: Obj, id: str) -> Obj:
    if id in _TOKENS:
        id = make_method(store, "card", None, _TOKENS[id])["id"]
    method = store.get("payment_method", id)
    if method["customer"]:
        raise invalid("The payment method is already attached to a customer.")
    method["customer"] = living(store, params["customer"], "customer")["id"]
    store.emit("payment_method.attached", method)
    return method


def detach(store: Store, params: Obj, id: str) -> Obj:
    method = store.get("payment_method", id)
    if not method["customer"]:
        raise invalid("The payment method is not attached to a customer.")
    method["customer"] = None
    store.emit("payment_method.detached", method)
    return method
