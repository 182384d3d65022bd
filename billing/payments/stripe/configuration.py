"""Whether Stripe collects for this installation, and how it is reached."""

import importlib.util
from dataclasses import dataclass

from django.conf import settings

from billing.payments.stripe.problems import NotConfigured

_MISSING = (
    "STOA_STRIPE_API_KEY is set, but the Python package `stripe` is not installed:"
    " install it (pip install 'stripe>=16.1,<17'), or unset the key"
)


@dataclass(frozen=True)
class Configuration:
    """`secrets` verify webhooks, each while it is in rotation; `base` is empty for Stripe's own."""

    key: str
    secrets: tuple[str, ...] = ()
    base: str = ""
    timeout_s: float = 30.0
    meters: bool = False
    entity: str = ""
    notice_days: int = 14

    @property
    def livemode(self) -> bool:
        return "_live_" in self.key


def current() -> Configuration | None:
    """As the environment has it; None where no key is set: Stripe is off."""
    if not settings.STRIPE_API_KEY:
        return None
    return Configuration(
        key=settings.STRIPE_API_KEY,
        secrets=tuple(settings.STRIPE_WEBHOOK_SECRETS),
        base=settings.STRIPE_API_BASE.rstrip("/"),
        timeout_s=settings.STRIPE_TIMEOUT_S,
        meters=settings.STRIPE_METERS,
        entity=settings.STRIPE_ENTITY,
        notice_days=settings.STRIPE_NOTICE_DAYS,
    )


def required() -> Configuration:
    """Raises NotConfigured, with what to do about it."""
    found = current()
    if found is None:
        raise NotConfigured("Stripe is off here: no STOA_STRIPE_API_KEY is set")
    if not installed():
        raise NotConfigured(_MISSING)
    return found


def installed() -> bool:
    try:
        return importlib.util.find_spec("stripe") is not None
    except (ImportError, ValueError):
        return False
