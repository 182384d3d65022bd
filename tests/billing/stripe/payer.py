"""Somebody who pays by Stripe: an entity, a customer, a final invoice, a means of payment."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.books import chart, ledger
from billing.models import Account, Entity, Invoice
from billing.payments.stripe import events, outbox, paying, setup, webhooks
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import StripeMethod, StripePayment
from compliance import audit
from tests.billing import invoices
from tests.stripe_server import checkout
from tests.stripe_server.server import FakeStripe
from tests.stripe_server.webhooks import Webhooks

SECRET = "whsec_tests"
START = datetime(2026, 4, 20, 8, 0, tzinfo=UTC)
PAGES = {"success_url": "https://stoa.example/b", "cancel_url": "https://stoa.example/c"}


class Clock:
    """The only time there is."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **amount: float) -> datetime:
        self.now += timedelta(**amount)
        return self.now


def final_invoice(account: Account, of: Entity, **fields: Any) -> Invoice:
    """€11.90, due, and posted to the ledger."""
    made = invoices.freeze(invoices.draft(account, of, **fields))
    sale = chart.Sale(made.id, account.id, made.net, (chart.Vat("DE", Decimal(19), made.vat),))
    assert made.final_at is not None
    chart.post_invoice(sale, at=made.final_at)
    return made


def gives(
    fake: FakeStripe,
    client: Client,
    account: Account,
    kind: str,
    behaviour: str = "ok",
    *,
    now: datetime,
) -> StripeMethod:
    """Somebody types a `card` or a `sepa_debit` on Stripe's page."""
    page = setup.begin(client, account.id, **PAGES, now=now)
    checkout.complete(fake.store, page.session_id, kind, behaviour)
    method = setup.observe(client, page.session_id, now=now)
    assert method is not None
    return method


class House:
    """What the worker does, step by step, and what Stripe's webhooks tell it."""

    def __init__(self, fake: FakeStripe, client: Client, clock: Clock) -> None:
        self.fake, self.client, self.clock = fake, client, clock
        self.hooks = Webhooks(fake.store, self._heard, [SECRET])

    def _heard(self, body: bytes, header: str) -> int:
        webhooks.receive(body, header, configuration=self.client.configuration, now=self.clock())
        return 200

    def work(self) -> None:
        """Until nothing is left to do."""
        for _ in range(5):
            outbox.deliver(self.client, self.clock())
            self.hooks.deliver()
            events.process(self.client, self.clock())
            self.clock.pass_by(minutes=3)

    def pay(self, invoice: Invoice) -> StripePayment:
        payment = paying.pay(invoice.id, actor=audit.SYSTEM, now=self.clock())
        self.work()
        payment.refresh_from_db()
        invoice.refresh_from_db()
        return payment

    def clearing(self, entity: Entity) -> int:
        return int(ledger.balance(chart.clearing("stripe", entity.id)).scaleb(2))
