"""What follows from webhooks: Stripe is asked how the object stands now, and that is taken over.

So it does not matter in which order they come, or how often. A type that nobody here knows is kept
and left alone.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction

from billing import errors
from billing.payments.stripe import hosted, movements, setup
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import EventState, StripeEvent
from billing.payments.stripe.problems import Refused, Unavailable

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=2)
BACKOFF_MIN = timedelta(seconds=10)
BACKOFF_MAX = timedelta(hours=1)

# What one type leads to; True: it was about something of ours.
Handler = Callable[[Client, str, datetime], bool]


def process(client: Client, now: datetime, limit: int = 100) -> int:
    """Works off what waits; returns how many events. Safe side by side."""
    rows = StripeEvent.objects.filter(state=EventState.WAITING, next_at__lte=now)
    ids = list(rows.order_by("next_at", "event_id").values_list("event_id", flat=True)[:limit])
    worked = 0
    for id in ids:
        event = _lease(id, now)
        if event is None:
            continue
        try:
            _settle(event, *_handled(client, event, now))
        except Unavailable as problem:
            _later(event, problem, now)
            break
        worked += 1
    return worked


def _handled(client: Client, event: StripeEvent, now: datetime) -> tuple[EventState, str]:
    if event.livemode != client.configuration.livemode:
        return EventState.IGNORED, "of Stripe's other mode (test or live) than our key"
    handler = _handler(event.type)
    if handler is None:
        return EventState.IGNORED, "of a type that nothing follows from"
    try:
        ours = handler(client, event.object_id, now)
    except (Refused, errors.PaymentRefused) as refused:
        # The object is no longer there, or our books do not allow it: the daily check tells, too.
        log.error("webhook %s (%s): %s", event.event_id, event.type, refused)
        return EventState.IGNORED, str(refused)
    return (EventState.DONE, "") if ours else (EventState.IGNORED, "of nothing of ours")


def _handler(type: str) -> Handler | None:
    for prefix, handler in _HANDLERS:
        if type.startswith(prefix):
            return handler
    return None


def _payment(client: Client, id: str, now: datetime) -> bool:
    return hosted.observe(client, id, now=now) is not None


def _refund(client: Client, id: str, now: datetime) -> bool:
    return movements.observe_refund(client, client.refund(id), now=now)


def _refunds(client: Client, charge_id: str, now: datetime) -> bool:
    found = list(client.refunds(charge=charge_id))
    ours = [movements.observe_refund(client, one, now=now) for one in found]
    return any(ours)


def _dispute(client: Client, id: str, now: datetime) -> bool:
    return movements.observe_dispute(client, client.dispute(id), now=now)


def _checkout(client: Client, id: str, now: datetime) -> bool:
    """Of either mode: a means of payment was given, or an invoice paid."""
    if hosted.follow(client, id, now=now) is not None:
        return True
    return setup.observe(client, id, now=now) is not None


def _detached(client: Client, id: str, now: datetime) -> bool:
    return setup.detached(client, id, now=now)


def _second_issuer(_client: Client, id: str, _now: datetime) -> bool:
    log.error("Stripe issued invoice %s: this platform is the issuer of record", id)
    return True


def _meter_error(_client: Client, id: str, _now: datetime) -> bool:
    log.error("Stripe could not count what a meter (%s) was told: see its error report", id)
    return True


_HANDLERS: tuple[tuple[str, Handler], ...] = (
    ("payment_intent.", _payment),
    ("charge.dispute.", _dispute),
    ("charge.refund.", _refund),
    ("charge.refunded", _refunds),
    ("refund.", _refund),
    ("checkout.session.", _checkout),
    ("payment_method.detached", _detached),
    ("invoice.finalized", _second_issuer),
    ("v1.billing.meter.", _meter_error),
)


def _lease(id: str, now: datetime) -> StripeEvent | None:
    with transaction.atomic():
        rows = StripeEvent.objects.select_for_update(skip_locked=True)
        event = rows.filter(pk=id, state=EventState.WAITING, next_at__lte=now).first()
        if event is not None:
            event.attempts += 1
            event.next_at = now + LEASE
            event.save(update_fields=["attempts", "next_at"])
    return event


def _settle(event: StripeEvent, state: EventState, why: str) -> None:
    StripeEvent.objects.filter(pk=event.pk).update(state=state, problem=why[:500])


def _later(event: StripeEvent, problem: Unavailable, now: datetime) -> None:
    wait = min(BACKOFF_MIN * 2 ** min(event.attempts - 1, 10), BACKOFF_MAX)
    StripeEvent.objects.filter(pk=event.pk).update(next_at=now + wait, problem=str(problem)[:500])
