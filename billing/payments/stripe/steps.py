"""What the worker does for Stripe, again and again: each step is safe to repeat, or to kill."""

from datetime import datetime

from billing.payments.stripe import configuration, outbox
from billing.payments.stripe.client import connect


def tend(now: datetime) -> None:
    """Every few seconds: sends what waits. Costs nothing where Stripe is off.

    Raises NotConfigured where it was turned on and its package is not installed.
    """
    if configuration.current() is None:
        return
    client = connect()
    outbox.deliver(client, now)
