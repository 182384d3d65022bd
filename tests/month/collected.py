"""Of the month's companies, some pay by Stripe: by card, by debit, and by a card whose bank asks.

Stripe is our own server (tests/stripe_server), over HTTP; the adapter is the one that runs. Django
must be ready, and the package stripe installed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from django.test import override_settings

from billing.models import Customer, Invoice
from billing.payments.stripe import checking, hosted, paying
from billing.payments.stripe.client import connect
from billing.payments.stripe.models import StripePayment
from compliance import audit
from tests.billing.stripe import payer
from tests.month.customers import Company
from tests.stripe_server import checkout, payments
from tests.stripe_server.server import KEY, FakeStripe, serving

# Of ten companies the first pays so, and so on; the others transfer.
MEANS = (("card", "ok"), ("sepa_debit", "ok"), ("card", "authentication"))


class Stripe:
    def __init__(self, house: payer.House, clock: payer.Clock) -> None:
        self.house, self.clock = house, clock

    def enlist(self, companies: Sequence[Company], now: datetime) -> int:
        """They give their means of payment on Stripe's page; how many do."""
        self.clock.now = now
        count = 0
        for number, company in enumerate(companies):
            if number % 10 >= len(MEANS):
                continue
            kind, behaviour = MEANS[number % 10]
            Customer.objects.filter(account=company.account).update(collection="stripe")
            payer.gives(
                self.house.fake, self.house.client, company.account, kind, behaviour, now=now
            )
            count += 1
        self.house.work()
        return count

    def collect(self, invoices: Sequence[Invoice], now: datetime) -> tuple[str, list[str]]:
        """What is due is collected: what came of it, and what is wrong."""
        self.clock.now = now
        store, client = self.house.fake.store, self.house.client
        due = {one.id for one in invoices if one.due and _collected(one)}
        asked = paying.collect(client.configuration, now, limit=len(invoices))
        self.house.work()
        for intent in list(store.all("payment_intent", status="processing")):
            payments.settle(store, intent["id"])
        for invoice in paying.unconfirmed(self.clock()):
            self._confirm(invoice)
        self.house.work()
        payments.pay_out(store)
        differences = checking.run(client, self.clock()).differences
        open_ones = Invoice.objects.filter(id__in=due, state="final").count()
        wrong = [f"Stripe and the books: {one}" for one in differences]
        if open_ones or asked != len(due):
            wrong.append(f"{asked} of {len(due)} were asked for, and {open_ones} are open")
        return _words(due), wrong

    def _confirm(self, invoice: Invoice) -> None:
        """Its payer goes to Stripe's page, where the bank can ask."""
        page = hosted.begin(
            self.house.client,
            invoice.id,
            **payer.PAGES,
            actor=audit.SYSTEM,
            now=self.clock.pass_by(seconds=1),
        )
        checkout.complete(self.house.fake.store, page.session_id, "card", "authentication")
        checkout.authenticated(self.house.fake.store, page.session_id)


@contextmanager
def standing() -> Iterator[Stripe]:
    clock = payer.Clock()
    with serving(FakeStripe(clock)) as fake:
        reached = {"STRIPE_API_KEY": KEY, "STRIPE_API_BASE": fake.url}
        with override_settings(**reached, STRIPE_WEBHOOK_SECRETS=[payer.SECRET]):
            yield Stripe(payer.House(fake, connect(), clock), clock)


def _collected(invoice: Invoice) -> bool:
    customer = Customer.objects.filter(account_id=invoice.account_id).first()
    return customer is not None and customer.collection == "stripe"


def _words(due: set[str]) -> str:
    paid = StripePayment.objects.filter(invoice_id__in=due, state="succeeded")
    kinds = Counter(
        one.method.get_kind_display() if one.method else "on Stripe's page"
        for one in paid.select_related("method")
    )
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
