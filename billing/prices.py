"""What meters cost: versions that are published and never edited."""

from datetime import datetime
from decimal import Decimal

from django.db import transaction

from billing import errors, rating
from billing.models import Meter, Price
from compliance import audit

LIMIT = Decimal(1_000_000)
PLACES = 12

# A fresh installation's list: EUR for a device-hour, and for a million tokens.
DEFAULTS = (
    (Meter.DEVICE_SECONDS, "cpu", Decimal("0.12")),
    (Meter.INPUT_TOKENS, "", Decimal("0.10")),
    (Meter.CACHED_TOKENS, "", Decimal("0.05")),
    (Meter.OUTPUT_TOKENS, "", Decimal("0.40")),
)


def publish(
    *,
    actor: audit.Actor,
    meter: str,
    device_kind: str,
    amount: Decimal,
    valid_from: datetime,
    now: datetime,
    currency: str = "EUR",
) -> Price:
    """A new version: `amount` for a device-hour or a million tokens, from `valid_from` on.

    An empty `device_kind` means every kind that has no price of its own. What already has a
    price gets a new one only for the future, since usage may be rated already. Publishing the
    same version again returns it. Raises `errors.PriceRefused`.
    """
    _check(meter, amount, currency)
    with transaction.atomic():
        price, created = Price.objects.get_or_create(
            meter=meter,
            device_kind=device_kind,
            currency=currency,
            valid_from=valid_from,
            defaults={"amount": amount, "created_at": now},
        )
        if not created:
            if price.amount != amount:
                raise errors.PriceRefused(f"a price from {valid_from} on exists: {price.amount}")
            return price
        others = [version for version in versions(currency) if version.id != price.id]
        before = rating.price_at(others, meter, device_kind, now, currency)
        if before is not None and valid_from < now:
            raise errors.PriceRefused("what has a price already gets a new one for the future only")
        audit.record(
            actor=actor,
            action="price.create",
            target=audit.Target("price", price.id),
            log=audit.PLATFORM,
            now=now,
            change=(
                audit.Change("meter", None, meter),
                audit.Change("device_kind", None, device_kind),
                audit.Change("amount", str(before.amount) if before else None, str(amount)),
                audit.Change("currency", None, currency),
                audit.Change("valid_from", None, valid_from.isoformat()),
            ),
        )
    return price


def publish_defaults(*, actor: audit.Actor, now: datetime) -> list[Price]:
    """The default list, from the start of this month on, for whatever has no price yet."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    published = []
    for meter, device_kind, amount in DEFAULTS:
        if not Price.objects.filter(meter=meter, device_kind=device_kind, currency="EUR").exists():
            published.append(
                publish(
                    actor=actor,
                    meter=meter,
                    device_kind=device_kind,
                    amount=amount,
                    valid_from=start,
                    now=now,
                )
            )
    return published


def versions(currency: str | None = None) -> list[rating.PriceVersion]:
    """Every version there is, as rating wants them."""
    found = Price.objects.all() if currency is None else Price.objects.filter(currency=currency)
    return [
        rating.PriceVersion(
            id=price.id,
            meter=price.meter,
            amount=price.amount,
            valid_from=price.valid_from,
            device_kind=price.device_kind,
            currency=price.currency,
        )
        for price in found
    ]


def in_force(
    meter: str, device_kind: str = "", *, at: datetime, currency: str = "EUR"
) -> rating.PriceVersion | None:
    """The price at `at`, the kind's own before the general one; None where there is none."""
    return rating.price_at(versions(currency), meter, device_kind, at, currency)


def _check(meter: str, amount: Decimal, currency: str) -> None:
    if meter not in Meter.values:
        raise errors.PriceRefused(f"no such meter: {meter!r}")
    if type(amount) is not Decimal or not amount.is_finite() or not 0 <= amount < LIMIT:
        raise errors.PriceRefused(f"an amount is a Decimal from 0 to under {LIMIT}, not {amount!r}")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -PLACES:
        raise errors.PriceRefused(f"an amount has at most {PLACES} decimals, not {amount}")
    if len(currency) != 3 or not currency.isascii() or not currency.isupper():
        raise errors.PriceRefused(f"no currency: {currency!r}")
