"""A Stripe of our own, a clock that tests move, and an account with somebody who pays."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from billing.models import Account, Entity, Invoice
from billing.payments.stripe.client import Client, connect
from tests.billing import invoices
from tests.billing.stripe import payer
from tests.billing.stripe.payer import SECRET, Clock, House
from tests.stripe_server.server import KEY, FakeStripe, serving


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake(clock: Clock) -> Iterator[FakeStripe]:
    with serving(FakeStripe(clock)) as stripe:
        yield stripe


@pytest.fixture
def client(fake: FakeStripe, settings: Settings) -> Client:
    settings.STRIPE_API_KEY = KEY
    settings.STRIPE_API_BASE = fake.url
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    settings.STRIPE_TIMEOUT_S = 20
    return connect()


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


@pytest.fixture
def invoice(account: Account, entity: Entity) -> Invoice:
    """€11.90, final and due, of a customer who pays by Stripe."""
    invoices.customer(account, entity, collection="stripe")
    return payer.final_invoice(account, entity)


@pytest.fixture
def house(fake: FakeStripe, client: Client, clock: Clock) -> House:
    return House(fake, client, clock)
