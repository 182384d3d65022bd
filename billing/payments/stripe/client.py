"""The one place that imports the package `stripe`, and only when something is asked of it.

Answers are plain dictionaries. What goes wrong is said in the words of `problems`: retries are the
outbox's, so that the package makes none of its own.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from billing.payments.stripe.configuration import Configuration, required
from billing.payments.stripe.problems import Declined, Refused, Stuck, Unavailable

if TYPE_CHECKING:
    import stripe

Obj = dict[str, Any]
PAGE = 100


class Client:
    """Stripe, as the adapter uses it. Each method raises Refused, Declined or Unavailable."""

    def __init__(self, configuration: Configuration) -> None:
        import stripe

        self.configuration = configuration
        self._stripe = stripe
        stripe.enable_telemetry = False  # how long our requests took is nobody's business
        logging.getLogger("stripe").setLevel(logging.WARNING)  # two lines for each request
        base = configuration.base
        self._client = stripe.StripeClient(
            configuration.key,
            base_addresses={"api": base, "files": base, "connect": base, "meter_events": base}
            if base
            else None,
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=configuration.timeout_s),
        )
        self._v1: Any = self._client.v1

    # --- what changes something there: each under an Idempotency-Key -----------------------------

    def create_customer(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.customers.create, params, key=key)

    def create_checkout(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.checkout.sessions.create, params, key=key)

    def expire_checkout(self, id: str, key: str) -> Obj:
        return self._ask(self._v1.checkout.sessions.expire, id, {}, key=key)

    def create_payment(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.payment_intents.create, params, key=key)

    def cancel_payment(self, id: str, key: str) -> Obj:
        return self._ask(self._v1.payment_intents.cancel, id, {}, key=key)

    def create_refund(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.refunds.create, params, key=key)

    def detach_method(self, id: str, key: str) -> Obj:
        return self._ask(self._v1.payment_methods.detach, id, {}, key=key)

    def create_meter(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.billing.meters.create, params, key=key)

    def create_meter_event(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.billing.meter_events.create, params, key=key)

    def cancel_meter_event(self, params: Obj, key: str) -> Obj:
        return self._ask(self._v1.billing.meter_event_adjustments.create, params, key=key)

    # --- what only looks -------------------------------------------------------------------------

    def payment(self, id: str) -> Obj:
        return self._ask(self._v1.payment_intents.retrieve, id)

    def charge(self, id: str) -> Obj:
        return self._ask(self._v1.charges.retrieve, id)

    def refund(self, id: str) -> Obj:
        return self._ask(self._v1.refunds.retrieve, id)

    def dispute(self, id: str) -> Obj:
        return self._ask(self._v1.disputes.retrieve, id)

    def checkout(self, id: str) -> Obj:
        return self._ask(self._v1.checkout.sessions.retrieve, id)

    def setup_intent(self, id: str) -> Obj:
        return self._ask(self._v1.setup_intents.retrieve, id)

    def payment_method(self, id: str) -> Obj:
        return self._ask(self._v1.payment_methods.retrieve, id)

    def mandate(self, id: str) -> Obj:
        return self._ask(self._v1.mandates.retrieve, id)

    def balance(self) -> Obj:
        return self._ask(self._v1.balance.retrieve)

    def customers(self, **params: Any) -> Iterator[Obj]:
        return self._each(self._v1.customers.list, params)

    def checkouts(self, **params: Any) -> Iterator[Obj]:
        return self._each(self._v1.checkout.sessions.list, params)

    def payments(self, **params: Any) -> Iterator[Obj]:
        return self._each(self._v1.payment_intents.list, params)

    def refunds(self, **params: Any) -> Iterator[Obj]:
        return self._each(self._v1.refunds.list, params)

    def invoices(self, **params: Any) -> Iterator[Obj]:
        return self._each(self._v1.invoices.list, params)

    def balance_transactions(self, **params: Any) -> Iterator[Obj]:
        return self._each(self._v1.balance_transactions.list, params)

    def meters(self) -> Iterator[Obj]:
        return self._each(self._v1.billing.meters.list, {})

    def meter_summaries(self, meter_id: str, **params: Any) -> Iterator[Obj]:
        summaries = self._v1.billing.meters.event_summaries
        return self._each(lambda asked: summaries.list(meter_id, asked), params)

    def _ask(self, call: Any, *arguments: Any, key: str = "") -> Obj:
        with self._translated():
            found = call(*arguments, options={"idempotency_key": key}) if key else call(*arguments)
            return cast(Obj, found.to_dict())

    def _each(self, call: Any, params: Obj) -> Iterator[Obj]:
        with self._translated():
            for one in call({"limit": PAGE, **params}).auto_paging_iter():
                yield one.to_dict()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._stripe.CardError as error:
            raise _declined(error) from error
        except self._stripe.InvalidRequestError as error:
            raise Refused(str(error), error.code or "") from error
        except self._stripe.IdempotencyError as error:
            if error.http_status == 409:  # the first request with this key still runs
                raise Unavailable(str(error)) from error
            raise Refused(str(error), "idempotency_error") from error
        except self._stripe.StripeError as error:
            headers = error.headers or {}
            replayed = str(headers.get("idempotent-replayed", "")).lower() == "true"
            raise (Stuck if replayed else Unavailable)(str(error)) from error


def connect() -> Client:
    """Raises NotConfigured where Stripe is off, or its package is not there."""
    return Client(required())


def _declined(error: "stripe.CardError") -> Declined:
    body = error.json_body if isinstance(error.json_body, dict) else {}
    intent = body.get("error", {}).get("payment_intent") or {}
    return Declined(str(error), error.code or "card_declined", dict(intent))
