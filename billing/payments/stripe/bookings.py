"""Every movement of Stripe's balance, in our ledger: fees, payouts, and what payments made.

    receipts   Dr clearing / Cr receivable (by `landing`)      fee      Dr fees / Cr clearing
    payout     Dr transfers / Cr clearing                      arrived  Dr bank / Cr transfers

The list of Stripe's balance transactions is complete: what no webhook ever told of is found here.
"""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from django.db import transaction

from billing import errors
from billing.books import chart, closing, ledger
from billing.models import Entity, LedgerTransaction
from billing.payments.stripe import movements, paying
from billing.payments.stripe.calls import Obj
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import StripeBooking
from billing.payments.stripe.problems import NotConfigured, Unavailable

log = logging.getLogger(__name__)

PAYOUTS = frozenset({"payout", "payout_failure", "payout_cancel"})
FEES = frozenset({"stripe_fee", "tax_fee", "contribution"})
# A payout is on the statement a few days after Stripe sent it.
ARRIVES_WITHIN = timedelta(days=10)
BANK_TEXT = "STRIPE"


def entity_id(client: Client) -> str:
    """Whose account at Stripe it is. Raises NotConfigured where that is not clear."""
    wanted = client.configuration.entity
    ids = list(Entity.objects.filter(**{"pk": wanted} if wanted else {}).values_list("id")[:2])
    if len(ids) != 1:
        raise NotConfigured(
            f"STOA_STRIPE_ENTITY={wanted}: there is no such entity"
            if wanted
            else "set STOA_STRIPE_ENTITY: the account at Stripe belongs to one legal entity"
        )
    return str(ids[0][0])


def book(client: Client, moved: Obj, *, now: datetime) -> str:
    """Books one balance transaction, once; what is wrong with it, in words, or nothing."""
    if StripeBooking.objects.filter(pk=moved["id"]).exists():
        return ""
    try:
        if problem := _explain(client, moved, now):
            return problem
    except errors.BillingError as error:
        if isinstance(error, Unavailable):
            raise
        return f"{moved['id']} of {moved.get('source')} cannot be booked: {error}"
    made = datetime.fromtimestamp(moved["created"], UTC)
    entries = _entries(moved, entity_id(client))
    with transaction.atomic():
        StripeBooking.objects.bulk_create(
            [
                StripeBooking(
                    transaction_id=moved["id"],
                    type=moved["type"],
                    source_id=moved.get("source") or "",
                    amount=moved["amount"],
                    fee=moved["fee"],
                    currency=str(moved["currency"]).upper(),
                    made_at=made,
                    booked_at=now,
                )
            ],
            ignore_conflicts=True,
        )
        if entries:
            ledger.post(
                idempotency_key=f"stripe:{moved['id']}",
                kind="stripe_payout" if moved["type"] in PAYOUTS else "stripe_fee",
                effective_at=closing.open_at(made),
                entries=entries,
            )
    return ""


def claims(*, amount: int, currency: str, booked_on: date, text: str) -> bool:
    """Whether an incoming entry of a bank statement is a payout of Stripe's; posts its arrival.

    `amount` in cents, `text` whatever the bank says of the sender and the purpose. Needs no
    package: what Stripe has sent is known here.
    """
    if BANK_TEXT not in text.upper():
        return False
    with transaction.atomic():
        sent = (
            StripeBooking.objects.select_for_update()
            .filter(type="payout", amount=-amount, currency=currency, seen_at_bank=None)
            .filter(made_at__date__lte=booked_on, made_at__date__gte=booked_on - ARRIVES_WITHIN)
            .order_by("made_at")
            .first()
        )
        if sent is None:
            return False
        posted = ledger.post(
            idempotency_key=f"stripe:arrived:{sent.transaction_id}",
            kind="stripe_arrival",
            effective_at=closing.open_at(datetime.combine(booked_on, datetime.min.time(), UTC)),
            entries=_arrival(sent),
        )
        sent.seen_at_bank = booked_on
        sent.save(update_fields=["seen_at_bank"])
    log.info("%s arrived at the bank: %s", sent.transaction_id, posted.id)
    return True


def _arrival(sent: StripeBooking) -> list[ledger.Entry]:
    posted = LedgerTransaction.objects.get(idempotency_key=f"stripe:{sent.transaction_id}")
    codes = posted.entries.values_list("account__code", flat=True)
    entity = next(code for code in codes if code.startswith("transfers:")).rpartition(":")[2]
    return [
        ledger.Entry(chart.bank(entity), -sent.amount, sent.currency),
        ledger.Entry(chart.transfers(entity), sent.amount, sent.currency),
    ]


def _entries(moved: Obj, entity: str) -> list[ledger.Entry]:
    currency = str(moved["currency"]).upper()
    clearing = chart.clearing("stripe", entity)
    fee = int(moved["fee"])
    if moved["type"] in FEES:
        fee -= int(moved["amount"])
    sides = [(chart.fees("stripe"), fee), (clearing, -fee)]
    if moved["type"] in PAYOUTS:
        sides += [
            (chart.transfers(entity), -int(moved["amount"])),
            (clearing, int(moved["amount"])),
        ]
    return [ledger.Entry(code, amount, currency) for code, amount in sides if amount]


def _explain(client: Client, moved: Obj, now: datetime) -> str:
    """Has what caused it booked; in words what is wrong, where that cannot be."""
    source = str(moved.get("source") or "")
    if moved["type"] in PAYOUTS | FEES:
        return ""
    for prefixes, look in _SOURCES:
        if source.startswith(prefixes):
            return "" if look(client, source, now) else f"{source} is of no payment of ours"
    return f"{moved['id']} is a {moved['type']} of {source or 'nothing'}: nobody knows what that is"


def _charge(client: Client, id: str, now: datetime) -> bool:
    intent = client.charge(id).get("payment_intent")
    if not intent:
        return False
    payment = paying.observe(client.payment(str(intent)), now=now)
    return payment is not None and bool(payment.payment_id)


def _refund(client: Client, id: str, now: datetime) -> bool:
    return movements.observe_refund(client, client.refund(id), now=now)


def _dispute(client: Client, id: str, now: datetime) -> bool:
    return movements.observe_dispute(client, client.dispute(id), now=now)


_SOURCES: tuple[tuple[tuple[str, ...], Callable[[Client, str, datetime], bool]], ...] = (
    (("re_", "pyr_"), _refund),
    (("du_", "dp_"), _dispute),
    (("ch_", "py_"), _charge),
)
