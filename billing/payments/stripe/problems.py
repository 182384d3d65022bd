"""What can go wrong with Stripe, by what has to be done about it."""

from typing import Any

from billing.errors import BillingError


class StripeProblem(BillingError):
    code = "stripe_problem"


class NotConfigured(StripeProblem):
    """Nobody turned it on, or what it needs is missing. The message says what to set."""

    code = "stripe_not_configured"


class Unavailable(StripeProblem):
    """Stripe gave no answer that counts: whether it did what it was asked is not known."""

    code = "stripe_unavailable"


class Stuck(Unavailable):
    """The answer that Stripe keeps for this key is an error: asking again changes nothing."""


class Refused(StripeProblem):
    """Stripe will not do it, however often it is asked. `reason` is its code."""

    code = "stripe_refused"

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason or "invalid_request"


class Declined(Refused):
    """The card's bank said no. `intent` is the payment intent as it stands then."""

    code = "stripe_declined"

    def __init__(self, message: str, reason: str, intent: dict[str, Any]) -> None:
        super().__init__(message, reason)
        self.intent = intent
