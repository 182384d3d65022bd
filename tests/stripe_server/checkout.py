"""Checkout: a page of Stripe's on which somebody gives a means of payment, or pays at once."""

from typing import Any

from tests.stripe_server import customers, payments
from tests.stripe_server.problems import Problem, invalid
from tests.stripe_server.store import DAY_S, Obj, Store

OPEN_MIN_S = 1800


def create_setup(store: Store, params: Obj) -> Obj:
    if params.get("confirm"):
        raise invalid("The fake confirms setup intents at Checkout only.", param="confirm")
    customer = params.get("customer")
    if customer:
        customers.living(store, customer, "customer")
    return store.make(
        "setup_intent",
        "seti",
        customer=customer,
        status="requires_payment_method",
        usage=params.get("usage") or "off_session",
        payment_method=None,
        mandate=None,
        payment_method_types=params.get("allowed_payment_method_types") or ["card"],
        metadata=params.get("metadata") or {},
        description=params.get("description"),
        last_setup_error=None,
    )


def retrieve_setup(store: Store, params: Obj, id: str) -> Obj:
    return store.get("setup_intent", id)


def list_setups(store: Store, params: Obj) -> Obj:
    url = "/v1/setup_intents"
    return store.page("setup_intent", params, url, customer=params.get("customer"))


def cancel_setup(store: Store, params: Obj, id: str) -> Obj:
    intent = store.get("setup_intent", id)
    if intent["status"] in ("succeeded", "canceled"):
        raise invalid(f"You cannot cancel a SetupIntent that is {intent['status']}.")
    intent["status"] = "canceled"
    store.emit("setup_intent.canceled", intent)
    return intent


def create(store: Store, params: Obj) -> Obj:
    mode = params.get("mode")
    if mode not in ("setup", "payment"):
        raise invalid("The fake knows the modes setup and payment.", param="mode")
    types = params.get("allowed_payment_method_types")
    if mode == "setup" and not types and not params.get("currency"):
        raise invalid("Missing required param: currency.", param="currency")
    if mode == "payment" and not params.get("line_items"):
        raise invalid("Missing required param: line_items.", param="line_items")
    if not params.get("success_url"):
        raise invalid("Missing required param: success_url.", param="success_url")
    customer = params.get("customer")
    if customer:
        customers.living(store, customer, "customer")
    data = params.get(f"{mode}_intent_data") or {}
    setup = None
    asked: Obj = {}
    expires_at = params.get("expires_at") or store.now() + DAY_S
    if not store.now() + OPEN_MIN_S <= expires_at <= store.now() + DAY_S:
        raise invalid("expires_at: between 30 minutes and 24 hours from now.", param="expires_at")
    if mode == "setup":
        given = {"customer": customer, "allowed_payment_method_types": types, **data}
        setup = create_setup(store, given)["id"]
    else:
        amount, currency = _total(params["line_items"])
        payments.must_be_payable(amount, currency)
        asked = {"customer": customer, "amount": amount, "currency": currency, **data}
    made = store.make(
        "checkout.session",
        "cs_test",
        mode=mode,
        status="open",
        customer=customer,
        setup_intent=setup,
        payment_intent=None,  # made when somebody pays
        payment_status="no_payment_required" if mode == "setup" else "unpaid",
        amount_total=asked.get("amount"),
        currency=asked.get("currency"),
        automatic_tax={"enabled": bool((params.get("automatic_tax") or {}).get("enabled"))},
        payment_method_types=types or ["card", "sepa_debit"],
        success_url=params["success_url"],
        cancel_url=params.get("cancel_url"),
        client_reference_id=params.get("client_reference_id"),
        metadata=params.get("metadata") or {},
        expires_at=expires_at,
        _asked=asked,
    )
    made["url"] = f"https://checkout.stripe.com/c/pay/{made['id']}"
    return made


def _total(items: list[Obj]) -> tuple[int, str]:
    prices = [item.get("price_data") for item in items]
    if any(price is None or price.get("unit_amount") is None for price in prices):
        raise invalid("The fake knows price_data with unit_amount only.", param="line_items")
    total = sum(
        price["unit_amount"] * item.get("quantity", 1)
        for price, item in zip(prices, items, strict=True)
        if price
    )
    return total, str((prices[0] or {})["currency"])


def retrieve(store: Store, params: Obj, id: str) -> Obj:
    lapse(store)
    return store.get("checkout.session", id)


def lapse(store: Store) -> None:
    """What nobody used in time is over."""
    for session in store.all("checkout.session", status="open"):
        if session["expires_at"] <= store.now():
            _over(store, session)


def _over(store: Store, session: Obj) -> None:
    session.update(status="expired", url=None)
    store.emit("checkout.session.expired", session)


def listing(store: Store, params: Obj) -> Obj:
    lapse(store)
    wanted = {name: params.get(name) for name in ("customer", "payment_intent", "status")}
    return store.page("checkout.session", params, "/v1/checkout/sessions", **wanted)


def expire(store: Store, params: Obj, id: str) -> Obj:
    session = retrieve(store, {}, id)
    if session["status"] != "open":
        raise invalid("Only open Checkout Sessions can be expired.")
    _over(store, session)
    return session


def complete(store: Store, id: str, kind: str, behaviour: str = "ok", **more: Any) -> Obj:
    """Somebody fills in the page with a `card` or a `sepa_debit`.

    A card that is declined, or whose bank asks for more (`authenticated`), leaves the page open.
    """
    session = retrieve(store, {}, id)
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.")
    if kind not in session["payment_method_types"]:
        raise invalid(f"This Checkout Session does not offer {kind}.")
    method = customers.make_method(store, kind, session["customer"], behaviour, **more)
    store.emit("payment_method.attached", method)
    mandate = None
    if kind == "sepa_debit":
        sepa = {"reference": f"STRIPE{method['id'][-8:].upper()}", "url": "https://example.org/m"}
        mandate = store.make(
            "mandate",
            "mandate",
            payment_method=method["id"],
            status="active",
            type="multi_use",
            payment_method_details={"type": "sepa_debit", "sepa_debit": sepa},
        )["id"]
    if session["setup_intent"]:
        intent = store.get("setup_intent", session["setup_intent"])
        intent.update(status="succeeded", payment_method=method["id"], mandate=mandate)
        store.emit("setup_intent.succeeded", intent)
        _complete(store, session)
    else:
        _pay(store, session, method)
    return method


def authenticated(store: Store, id: str, *, passed: bool = True) -> Obj:
    """The holder of the card confirms to his bank, or does not: then the page stays open."""
    session = retrieve(store, {}, id)
    intent = payments.authenticate(store, session["payment_intent"], passed=passed)
    if passed:
        session["payment_status"] = "paid"
        _complete(store, session)
    return intent


def debited(store: Store, id: str) -> Obj:
    """The bank answers a debit that was given on the page."""
    session = store.get("checkout.session", id)
    intent = payments.settle(store, session["payment_intent"])
    went = "succeeded" if intent["status"] == "succeeded" else "failed"
    session["payment_status"] = "paid" if went == "succeeded" else "unpaid"
    store.emit(f"checkout.session.async_payment_{went}", session)
    return intent


def _pay(store: Store, session: Obj, method: Obj) -> None:
    if session["payment_intent"] is None:
        made = payments.create(store, session["_asked"] | {"_page": session["id"]})
        session["payment_intent"] = made["id"]
    try:
        intent = payments.confirm(
            store, {"payment_method": method["id"]}, session["payment_intent"]
        )
    except Problem:
        return  # the page says so, and another card may be tried
    if intent["status"] == "requires_action":
        return
    session["payment_status"] = "paid" if intent["status"] == "succeeded" else "unpaid"
    _complete(store, session)


def _complete(store: Store, session: Obj) -> None:
    session.update(status="complete", url=None)
    store.emit("checkout.session.completed", session)


def retrieve_mandate(store: Store, params: Obj, id: str) -> Obj:
    return store.get("mandate", id)
