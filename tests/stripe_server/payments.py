"""Payment intents and what becomes of them: charges, refunds, disputes, and the balance.

A card pays at once, is declined, or asks its holder to authenticate: off session that declines it,
on a page it waits (`authenticate`). A SEPA debit is `processing` until the bank has answered
(`settle`), and may still be returned weeks later, which Stripe tells as a dispute.
"""

from typing import NoReturn

from tests.stripe_server import customers
from tests.stripe_server.problems import Problem, invalid
from tests.stripe_server.store import Obj, Store

AMOUNT_MAX = 99_999_999
AMOUNT_MIN = 50
DISPUTE_FEE = 2000
_DECLINES = {
    "declined": ("card_declined", "Your card was declined."),
    "expired": ("expired_card", "Your card has expired."),
}


def must_be_payable(amount: int, currency: str) -> None:
    if not AMOUNT_MIN <= amount <= AMOUNT_MAX:
        code = "amount_too_small" if amount < AMOUNT_MIN else "amount_too_large"
        raise invalid(f"Amount must be {AMOUNT_MIN} to {AMOUNT_MAX}", code=code, param="amount")
    if currency != currency.lower() or len(currency) != 3:
        raise invalid(f"Invalid currency: {currency}", param="currency")


def create(store: Store, params: Obj) -> Obj:
    amount = params["amount"]
    must_be_payable(amount, params["currency"])
    if params.get("off_session") and not params.get("confirm"):
        raise invalid("off_session can only be used with confirm=true", param="off_session")
    if customer := params.get("customer"):
        customers.living(store, customer, "customer")
    if method := params.get("payment_method"):
        _usable(store, method, params.get("customer"))
    intent = store.make(
        "payment_intent",
        "pi",
        amount=amount,
        amount_received=0,
        currency=params["currency"],
        customer=params.get("customer"),
        payment_method=params.get("payment_method"),
        status="requires_payment_method",
        description=params.get("description"),
        metadata=params.get("metadata") or {},
        statement_descriptor=params.get("statement_descriptor"),
        latest_charge=None,
        last_payment_error=None,
        canceled_at=None,
        next_action=None,
        payment_method_types=params.get("allowed_payment_method_types") or ["card", "sepa_debit"],
        _off_session=bool(params.get("off_session")),
        _page=params.get("_page"),
    )
    store.emit("payment_intent.created", intent)
    if params.get("confirm"):
        return confirm(store, {}, intent["id"])
    return intent


def confirm(store: Store, params: Obj, id: str) -> Obj:
    intent = store.get("payment_intent", id)
    if intent["status"] not in ("requires_payment_method", "requires_confirmation"):
        raise _state(intent, "confirm")
    method_id = params.get("payment_method") or intent["payment_method"]
    if not method_id:
        raise invalid("A payment method is needed.", param="payment_method")
    method = _usable(store, method_id, intent["customer"])
    intent["payment_method"] = method_id
    if method["type"] == "sepa_debit":
        intent["status"] = "processing"
        store.emit("payment_intent.processing", intent)
    elif method["_behaviour"] in ("authentication", "action"):
        if intent["_off_session"] and method["_behaviour"] == "authentication":
            _decline(store, intent, "authentication_required", "Your card was declined: confirm.")
        intent.update(status="requires_action", next_action={"type": "use_stripe_sdk"})
        store.emit("payment_intent.requires_action", intent)
    elif method["_behaviour"] in _DECLINES:
        _decline(store, intent, *_DECLINES[method["_behaviour"]])
    else:
        _succeed(store, intent, method)
    return intent


def authenticate(store: Store, id: str, *, passed: bool = True) -> Obj:
    """The holder of the card confirms the payment to his bank, or does not."""
    intent = store.get("payment_intent", id)
    if intent["status"] != "requires_action":
        raise _state(intent, "authenticate")
    intent["next_action"] = None
    if passed:
        _succeed(store, intent, store.get("payment_method", intent["payment_method"]))
    else:
        _fail(store, intent, "payment_intent_authentication_failure", "Not confirmed.")
    return intent


def cancel(store: Store, params: Obj, id: str) -> Obj:
    intent = store.get("payment_intent", id)
    if intent["_page"]:
        raise invalid("You cannot cancel a PaymentIntent of Checkout: expire its session.")
    if intent["status"] in ("succeeded", "canceled", "processing"):
        raise _state(intent, "cancel")
    intent.update(status="canceled", canceled_at=store.now())
    store.emit("payment_intent.canceled", intent)
    return intent


def retrieve(store: Store, params: Obj, id: str) -> Obj:
    return _expanded(store, store.get("payment_intent", id), params)


def listing(store: Store, params: Obj) -> Obj:
    url = "/v1/payment_intents"
    page = store.page("payment_intent", params, url, customer=params.get("customer"))
    return page


def settle(store: Store, id: str) -> Obj:
    """The customer's bank answers the debit: as its means of payment behaves."""
    intent = store.get("payment_intent", id)
    if intent["status"] != "processing":
        raise _state(intent, "settle")
    method = store.get("payment_method", intent["payment_method"])
    if method["_behaviour"] == "fails":
        _fail(store, intent, "payment_method_insufficient_funds", "Insufficient funds.")
    else:
        _succeed(store, intent, method)
    return intent


def retrieve_charge(store: Store, params: Obj, id: str) -> Obj:
    return store.get("charge", id)


def list_charges(store: Store, params: Obj) -> Obj:
    return store.page("charge", params, "/v1/charges", payment_intent=params.get("payment_intent"))


def create_refund(store: Store, params: Obj) -> Obj:
    if not params.get("payment_intent"):
        raise invalid("The fake refunds payment intents.", param="payment_intent")
    intent = store.get("payment_intent", params["payment_intent"], "payment_intent")
    if not intent["latest_charge"]:
        message = "This PaymentIntent does not have a successful charge to refund."
        raise invalid(message, param="payment_intent")
    charge = store.get("charge", intent["latest_charge"])
    if charge["disputed"]:
        message = f"Charge {charge['id']} has been charged back."
        raise invalid(message, code="charge_disputed")
    left = charge["amount"] - charge["amount_refunded"]
    amount = params.get("amount", left)
    if left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise invalid(message, code="charge_already_refunded")
    if not 0 < amount <= left:
        raise invalid("Refund amount is greater than unrefunded amount.", param="amount")
    refund = store.make(
        "refund",
        "re",
        amount=amount,
        currency=charge["currency"],
        charge=charge["id"],
        payment_intent=intent["id"],
        reason=params.get("reason"),
        status="succeeded",
        failure_reason=None,
        metadata=params.get("metadata") or {},
    )
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    refund["balance_transaction"] = store.book("refund", refund, -amount, 0)["id"]
    store.emit("refund.created", refund)
    store.emit("charge.refunded", charge)
    return refund


def fail_refund(store: Store, id: str) -> Obj:
    """The customer's bank did not take it: the money comes back to the balance."""
    refund = store.get("refund", id)
    if refund["status"] != "succeeded":
        raise invalid(f"This refund is {refund['status']}.")
    charge = store.get("charge", refund["charge"])
    charge["amount_refunded"] -= refund["amount"]
    charge["refunded"] = False
    refund.update(status="failed", failure_reason="lost_or_stolen_card")
    store.book("refund_failure", refund, refund["amount"], 0)
    store.emit("refund.failed", refund)
    return refund


def retrieve_refund(store: Store, params: Obj, id: str) -> Obj:
    return store.get("refund", id)


def list_refunds(store: Store, params: Obj) -> Obj:
    return store.page("refund", params, "/v1/refunds", payment_intent=params.get("payment_intent"))


def dispute(store: Store, intent_id: str) -> Obj:
    """The customer has a debit returned, or disputes a charge: Stripe takes the money at once."""
    intent = store.get("payment_intent", intent_id)
    charge = store.get("charge", intent["latest_charge"])
    if charge["disputed"]:
        raise invalid(f"Charge {charge['id']} is disputed already.")
    debit = charge["payment_method_details"]["type"] == "sepa_debit"
    made = store.make(
        "dispute",
        "du",
        amount=charge["amount"] - charge["amount_refunded"],
        currency=charge["currency"],
        charge=charge["id"],
        payment_intent=intent_id,
        reason="debit_not_authorized" if debit else "fraudulent",
        # A returned debit cannot be contested: it is lost as it comes.
        status="lost" if debit else "needs_response",
        is_charge_refundable=False,
        metadata={},
    )
    charge["disputed"] = True
    taken = store.book("adjustment", made, -made["amount"], DISPUTE_FEE)
    made["balance_transactions"] = [taken]
    store.emit("charge.dispute.created", made)
    store.emit("charge.dispute.funds_withdrawn", made)
    if debit:
        store.emit("charge.dispute.closed", made)
    return made


def close_dispute(store: Store, id: str, *, won: bool) -> Obj:
    made = store.get("dispute", id)
    if made["status"] in ("won", "lost"):
        raise invalid(f"This dispute is {made['status']} already.")
    made["status"] = "won" if won else "lost"
    if won:
        store.get("charge", made["charge"])["disputed"] = False
        made["balance_transactions"].append(store.book("adjustment", made, made["amount"], 0))
        store.emit("charge.dispute.funds_reinstated", made)
    store.emit("charge.dispute.closed", made)
    return made


def retrieve_dispute(store: Store, params: Obj, id: str) -> Obj:
    return store.get("dispute", id)


def list_disputes(store: Store, params: Obj) -> Obj:
    return store.page(
        "dispute", params, "/v1/disputes", payment_intent=params.get("payment_intent")
    )


def pay_out(store: Store, currency: str = "eur") -> Obj | None:
    """Stripe sends the balance to our bank account."""
    amount = store.balance(currency)
    if amount <= 0:
        return None
    made = store.make(
        "payout",
        "po",
        amount=amount,
        currency=currency,
        status="paid",
        automatic=True,
        arrival_date=store.now(),
        statement_descriptor="STRIPE PAYOUT",
        trace_id={"status": "supported", "value": "TRACE" + str(store.now())},
        failure_code=None,
    )
    made["balance_transaction"] = store.book("payout", made, -amount, 0)["id"]
    store.emit("payout.paid", made)
    return made


def list_payouts(store: Store, params: Obj) -> Obj:
    return store.page("payout", params, "/v1/payouts", status=params.get("status"))


def retrieve_payout(store: Store, params: Obj, id: str) -> Obj:
    return store.get("payout", id)


def list_transactions(store: Store, params: Obj) -> Obj:
    wanted = {name: params.get(name) for name in ("type", "source", "payout", "currency")}
    return store.page("balance_transaction", params, "/v1/balance_transactions", **wanted)


def balance(store: Store, params: Obj) -> Obj:
    currencies = {one["currency"] for one in store.all("balance_transaction")} or {"eur"}
    available = [
        {"amount": store.balance(currency), "currency": currency} for currency in sorted(currencies)
    ]
    pending = [{"amount": 0, "currency": currency} for currency in sorted(currencies)]
    return {
        "object": "balance",
        "livemode": store.livemode,
        "available": available,
        "pending": pending,
    }


def _usable(store: Store, method_id: str, customer: str | None) -> Obj:
    method = store.get("payment_method", method_id, "payment_method")
    if method["customer"] is None or method["customer"] != customer:
        raise invalid(
            "The provided PaymentMethod is not attached to this Customer.", param="payment_method"
        )
    return method


def _succeed(store: Store, intent: Obj, method: Obj) -> None:
    card = method["type"] == "card"
    fee = 25 + round(intent["amount"] * 15 / 1000) if card else 35
    charge = store.make(
        "charge",
        "ch" if card else "py",
        amount=intent["amount"],
        amount_refunded=0,
        currency=intent["currency"],
        customer=intent["customer"],
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": method["type"], method["type"]: method[method["type"]]},
        status="succeeded",
        paid=True,
        refunded=False,
        disputed=False,
        metadata=intent["metadata"],
    )
    kind = "charge" if card else "payment"
    charge["balance_transaction"] = store.book(kind, charge, intent["amount"], fee)["id"]
    intent.update(
        status="succeeded",
        amount_received=intent["amount"],
        latest_charge=charge["id"],
        last_payment_error=None,
    )
    store.emit("charge.succeeded", charge)
    store.emit("payment_intent.succeeded", intent)


def _decline(store: Store, intent: Obj, code: str, message: str) -> NoReturn:
    _fail(store, intent, code, message)
    raise Problem(402, "card_error", message, code, more={"payment_intent": intent})


def _fail(store: Store, intent: Obj, code: str, message: str) -> None:
    error = {"type": "card_error", "code": code, "message": message}
    intent.update(status="requires_payment_method", last_payment_error=error)
    store.emit("payment_intent.payment_failed", intent)


def _state(intent: Obj, verb: str) -> Problem:
    message = f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}."
    return Problem(
        400,
        "invalid_request_error",
        message,
        "payment_intent_unexpected_state",
        more={"payment_intent": intent},
    )


def _expanded(store: Store, intent: Obj, params: Obj) -> Obj:
    if "latest_charge" in (params.get("expand") or []) and intent["latest_charge"]:
        return intent | {"latest_charge": store.get("charge", intent["latest_charge"])}
    return intent
