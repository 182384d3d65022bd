"""The daily comparison of our books with Stripe's. What differs is told loudly, and kept."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from billing.books import chart, ledger
from billing.payments.stripe import bookings, meters, outbox
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import (
    LIVE,
    PaymentState,
    StripeBooking,
    StripeCheck,
    StripeCustomer,
    StripePayment,
)
from compliance import audit

log = logging.getLogger(__name__)

EVERY = timedelta(days=1)
AGAIN_AFTER = timedelta(hours=1)  # a check that was cut off
BACK = timedelta(days=2)  # looked at once more: lists may lag a little
TAKES_AT_MOST = timedelta(days=14)  # a SEPA debit
TOLD_AT_MOST = 100


def due(now: datetime) -> bool:
    newest = StripeCheck.objects.order_by("-started_at").first()
    if newest is None:
        return StripeCustomer.objects.exists()
    wait = EVERY if newest.finished_at else AGAIN_AFTER
    return newest.started_at <= now - wait


def run(client: Client, now: datetime) -> StripeCheck:
    """Books what is new of Stripe's balance and compares. Raises Unavailable: then it was none.

    `differences` of what is returned is empty where both agree to the cent.
    """
    start = _start(now)
    check = StripeCheck.objects.create(started_at=now, until=now)
    differences = []
    if start is not None:
        created = {"gte": int(start.timestamp())}
        for moved in client.balance_transactions(created=created):
            if problem := bookings.book(client, moved, now=now):
                differences.append(problem)
        differences += _balance(client)
        differences += _stripe_invoices(client, created)
    differences += [*_payments(now), *_waiting(now), *meters.differences(client, now)]
    check.differences = differences[:TOLD_AT_MOST]
    check.finished_at = now
    check.save(update_fields=["differences", "finished_at"])
    for each in differences:
        log.error("Stripe and our books differ: %s", each)
    audit.record(
        actor=audit.SYSTEM,
        action="payment.check",
        target=audit.Target("stripe_check", check.id),
        log=audit.PLATFORM,
        now=now,
        outcome="failure" if differences else "success",
        change=[audit.Change("differences", None, len(differences))],
    )
    return check


def _start(now: datetime) -> datetime | None:
    """From where to look: the end of the last check that found nothing, and a little before."""
    clean = StripeCheck.objects.exclude(finished_at=None).filter(differences=[])
    if last := clean.order_by("-until").first():
        return last.until - BACK
    first = StripeCustomer.objects.order_by("created_at").first()
    return first.created_at - BACK if first else None


def _balance(client: Client) -> Iterator[str]:
    entity = bookings.entity_id(client)
    held = client.balance()
    for currency in sorted({one["currency"] for one in held["available"] + held["pending"]}):
        there = sum(
            int(one["amount"])
            for one in held["available"] + held["pending"]
            if one["currency"] == currency
        )
        ours = 0
        if currency == "eur":
            ours = int(ledger.balance(chart.clearing("stripe", entity)).scaleb(2))
        if there != ours:
            yield (
                f"Stripe holds {there} of the smallest unit of {currency.upper()} for us,"
                f" and the ledger says {ours}"
            )


def _stripe_invoices(client: Client, created: dict[str, int]) -> Iterator[str]:
    """One issuer of record: a second invoice for one supply owes its VAT a second time."""
    for invoice in client.invoices(created=created):
        if invoice.get("status") in ("open", "paid", "uncollectible"):
            yield f"Stripe issued invoice {invoice['id']}, and this platform issues them"


def _payments(now: datetime) -> Iterator[str]:
    old = StripePayment.objects.filter(created_at__lt=now - TAKES_AT_MOST, state__in=LIVE)
    for payment in old[:TOLD_AT_MOST]:
        yield f"{payment.id} has been {payment.state} since {payment.created_at:%Y-%m-%d}"
    for payment in StripePayment.objects.filter(reason="currency_mismatch")[:TOLD_AT_MOST]:
        yield f"{payment.id} was paid in another currency than its invoice's"
    late = StripeBooking.objects.filter(
        type="payout", seen_at_bank=None, made_at__lt=now - bookings.ARRIVES_WITHIN
    )
    for payout in late[:TOLD_AT_MOST]:
        yield f"payout {payout.source_id} is on no bank statement yet"
    if failed := StripePayment.objects.filter(state=PaymentState.SUCCEEDED, payment_id="").count():
        yield f"{failed} payments succeeded and have no receipt"


def _waiting(now: datetime) -> Iterator[str]:
    if late := outbox.overdue(now):
        yield f"{late} calls have waited for Stripe for more than {outbox.OVERDUE}"
