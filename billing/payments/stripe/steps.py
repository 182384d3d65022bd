"""What the worker does for Stripe, again and again: each step is safe to repeat, or to kill."""

import logging
from datetime import datetime

from billing.payments.stripe import checking, configuration, events, hosted, meters, outbox, paying
from billing.payments.stripe.client import connect
from billing.payments.stripe.problems import Unavailable

log = logging.getLogger(__name__)


def tend(now: datetime) -> None:
    """Every few seconds: sends what waits, hears what came. Costs nothing where Stripe is off.

    Raises NotConfigured where it was turned on and its package is not installed.
    """
    if configuration.current() is None:
        return
    client = connect()
    outbox.deliver(client, now)
    events.process(client, now)


def tend_slowly(now: datetime) -> None:
    """Every few minutes: asks for what is due, looks after what nobody told of, compares."""
    found = configuration.current()
    if found is None:
        return
    client = connect()
    paying.collect(found, now)
    paying.look(client, now)
    hosted.tidy(now)
    hosted.look(client, now)
    if found.meters:
        meters.tell(now)
        meters.give_up(now)
    if checking.due(now):
        try:
            checking.run(client, now)
        except Unavailable as problem:
            log.error("our books were not compared with Stripe's: %s", problem)
