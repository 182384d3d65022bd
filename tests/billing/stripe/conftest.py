"""A Stripe of our own, a clock that tests move, and an account with somebody who pays."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pytest_django import Settings

from billing.payments.stripe.client import Client, connect
from tests.stripe_server.server import KEY, FakeStripe, serving

START = datetime(2026, 4, 20, 8, 0, tzinfo=UTC)
SECRET = "whsec_tests"


class Clock:
    """The only time there is."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **amount: float) -> datetime:
        self.now += timedelta(**amount)
        return self.now


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
