"""What Stripe tells us: verified on the bytes that came, kept once, and answered at once.

What a webhook says of an object is not believed: it comes late, twice and in any order, so the
worker asks Stripe how the object stands now (`events`).
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from billing.payments.stripe.configuration import Configuration
from billing.payments.stripe.models import StripeEvent
from billing.payments.stripe.problems import StripeProblem

TOLERANCE = timedelta(seconds=300)
BODY_MAX = 256 * 1024
SCHEME = "v1"


class NotGenuine(StripeProblem):
    """Not signed with one of our secrets, or not now."""

    code = "stripe_signature"


def verify(body: bytes, header: str, secrets: Iterable[str], now: datetime) -> None:
    """Raises NotGenuine. Any of several secrets will do, so that they can be rotated.

    The signature is over the time and the raw body: one that was parsed and written anew is
    another body.
    """
    pairs = [part.partition("=") for part in header.split(",")]
    times = [value for name, _, value in pairs if name.strip() == "t"]
    given = [value.strip() for name, _, value in pairs if name.strip() == SCHEME]
    if len(times) != 1 or not times[0].isascii() or not times[0].isdecimal() or not given:
        raise NotGenuine("the header Stripe-Signature is missing or has another form")
    # All are compared, so that the time it takes tells nothing of which was near.
    matches = [
        hmac.compare_digest(_signature(body, times[0], secret).encode(), each.encode())
        for secret in secrets
        for each in given
    ]
    if not any(matches):
        raise NotGenuine("no signature of it is ours")
    if len(times[0]) > 12 or abs(now.timestamp() - int(times[0])) > TOLERANCE.total_seconds():
        raise NotGenuine("it was signed too long ago, or in the future")


def receive(
    body: bytes, header: str, *, configuration: Configuration, now: datetime
) -> StripeEvent | None:
    """Keeps a genuine event; None: it is known already. Raises NotGenuine, ValueError."""
    verify(body, header, configuration.secrets, now)
    event = json.loads(body)
    if not isinstance(event, dict) or not isinstance(event.get("id"), str):
        raise ValueError("an event has an id")
    row = StripeEvent(
        event_id=event["id"][:64],
        type=str(event.get("type", ""))[:100],
        object_id=_object_id(event)[:128],
        livemode=bool(event.get("livemode")),
        made_at=_made(event.get("created"), now),
        received_at=now,
        next_at=now,
    )
    # ON CONFLICT DO NOTHING: of two at once one is kept, and both are answered well.
    before = StripeEvent.objects.filter(pk=row.event_id).exists()
    StripeEvent.objects.bulk_create([row], ignore_conflicts=True)
    return None if before else row


def _signature(body: bytes, at: str, secret: str) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()


def _object_id(event: dict[str, Any]) -> str:
    """Of an event that carries the object, and of one that only names it (v2)."""
    data = event.get("data")
    about = (data.get("object") if isinstance(data, dict) else None) or event.get("related_object")
    return str(about.get("id") or "") if isinstance(about, dict) else ""


def _made(created: Any, now: datetime) -> datetime:
    try:
        if isinstance(created, int | float):
            return datetime.fromtimestamp(created, UTC)
        return datetime.fromisoformat(str(created)).astimezone(UTC)
    except (OverflowError, OSError, ValueError):
        return now
