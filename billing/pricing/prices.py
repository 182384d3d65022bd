"""What meters cost: versions that are published and never edited."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django.db.models import Q

from billing import errors, months, rating
from billing.models import Account, Meter, Price
from compliance import audit

LIMIT = Decimal(1_000_000)
PLACES = 12

# A fresh installation's list: EUR for a device-hour, and for a million tokens.
DEFAULTS = (
    (Meter.DEVICE_SECONDS, "cpu", Decimal("0.12")),
    (Meter.WARM_SECONDS, "cpu", Decimal("0.06")),
    (Meter.ASLEEP_SECONDS, "cpu", Decimal("0.02")),
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
    valid_to: datetime | None = None,
    account_id: str = "",
    log: str = audit.PLATFORM,
) -> Price:
    """A new version: `amount` for a device-hour or a million tokens, from `valid_from` on.

    An empty `device_kind` means every kind that has no price of its own. With an `account_id` it
    is that account's own and beats the list's; `log` is then its organization's. From `valid_to`
    on there is no price, until another one begins. What had a price gets a new one only for the
    future, since usage may be rated already. Publishing the same version again returns it. Raises
    `errors.PriceRefused`, `errors.UnknownAccount`.
    """
    _check(meter, amount, currency)
    _check_times(valid_from, valid_to)
    _check_account(account_id, currency)
    version = rating.PriceVersion(
        "", meter, amount, valid_from, device_kind, currency, valid_to, account_id
    )
    with transaction.atomic():
        return _kept(version, "price.create", actor, log, now)


def withdraw(
    *,
    actor: audit.Actor,
    meter: str,
    device_kind: str,
    at: datetime,
    now: datetime,
    currency: str = "EUR",
    account_id: str = "",
    log: str = audit.PLATFORM,
) -> Price:
    """From `at` on, which is not past, there is no such price: an account's own gives way to the
    list's, the list's to none at all, and usage is unpriced then. Raises `errors.PriceRefused`.
    """
    with transaction.atomic():
        series = Price.objects.filter(
            meter=meter, device_kind=device_kind, currency=currency, account=account_id or None
        )
        last = series.filter(valid_from__lte=at).order_by("-valid_from").first()
        if last is None or (last.valid_to is not None and last.valid_to <= at):
            raise errors.PriceRefused(f"there is no such price at {at}")
        if at < now:
            raise errors.PriceRefused("a price is withdrawn for the future only")
        version = rating.PriceVersion(
            "", meter, last.amount, at, device_kind, currency, at, account_id
        )
        return _kept(version, "price.withdraw", actor, log, now)


def _kept(
    version: rating.PriceVersion, action: str, actor: audit.Actor, log: str, now: datetime
) -> Price:
    price, created = Price.objects.get_or_create(
        account_id=version.account_id or None,
        meter=version.meter,
        device_kind=version.device_kind,
        currency=version.currency,
        valid_from=version.valid_from,
        defaults={"amount": version.amount, "valid_to": version.valid_to, "created_at": now},
    )
    if not created:
        if (price.amount, price.valid_to) != (version.amount, version.valid_to):
            raise errors.PriceRefused(f"a price from {version.valid_from} on exists")
        return price
    others = [one for one in versions(version.currency) if one.id != price.id]
    table = rating.PriceTable(others, version.currency, version.account_id)
    if version.valid_from < now:
        spans = table.spans(version.meter, version.device_kind, version.valid_from, now)
        if any(held for _, _, held in spans):
            raise errors.PriceRefused("what has a price already gets a new one for the future only")
    before = table.at(version.meter, version.device_kind, version.valid_from)
    _refuse_unbounded(version.meter, version.currency, now)
    shown = {
        "account": version.account_id or None,
        "meter": version.meter,
        "device_kind": version.device_kind,
        "currency": version.currency,
        "valid_from": version.valid_from.isoformat(),
        "valid_to": version.valid_to.isoformat() if version.valid_to else None,
    }
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("price", price.id),
        log=log,
        now=now,
        change=(
            audit.Change("amount", str(before.amount) if before else None, str(version.amount)),
            *(audit.Change(name, None, value) for name, value in shown.items() if value),
        ),
    )
    return price


def _refuse_unbounded(meter: str, currency: str, now: datetime) -> None:
    """A gateway reserves at list prices, so nobody's tokens may cost more than those."""
    if meter in rating.SECONDS:
        return
    every = [one for one in versions(currency) if one.meter == meter]
    listed = rating.PriceTable(every, currency)
    moments = [now, *(at for at in rating.changes(every) if at > now)]
    for own in {one.account_id for one in every if one.account_id}:
        table = rating.PriceTable(every, currency, own)
        for kind in {one.device_kind for one in every}:
            for at in moments:
                price, bound = table.at(meter, kind, at), listed.at(meter, kind, at)
                if price and price.account_id and (not bound or price.amount > bound.amount):
                    raise errors.PriceRefused(
                        f"{own} would pay more for {meter} than the list says from {at} on"
                    )


def publish_defaults(*, actor: audit.Actor, now: datetime) -> list[Price]:
    """The default list, from the start of this month on, for whatever has no price yet. Whoever
    has priced the serving of a kind has decided what its waiting costs, too: nothing is added."""
    start = months.start_of(now)
    listed = Price.objects.filter(account=None, currency="EUR")
    there = set(listed.values_list("meter", "device_kind"))
    missing = [
        one
        for one in DEFAULTS
        if one[:2] not in there
        and not (one[0] in rating.SECONDS and (Meter.DEVICE_SECONDS.value, one[1]) in there)
    ]
    with transaction.atomic():
        return [
            publish(
                actor=actor,
                meter=meter,
                device_kind=device_kind,
                amount=amount,
                valid_from=start,
                now=now,
            )
            for meter, device_kind, amount in missing
        ]


def versions(
    currency: str | None = None, account_id: str | None = None
) -> list[rating.PriceVersion]:
    """Every version there is, as rating wants them; with an `account_id`, what may hold for it:
    the list ("") and its own."""
    found = Price.objects.all() if currency is None else Price.objects.filter(currency=currency)
    if account_id is not None:
        found = found.filter(Q(account=None) | Q(account=account_id or None))
    return [
        rating.PriceVersion(
            id=price.id,
            meter=price.meter,
            amount=price.amount,
            valid_from=price.valid_from,
            device_kind=price.device_kind,
            currency=price.currency,
            valid_to=price.valid_to,
            account_id=price.account_id or "",
        )
        for price in found
    ]


def in_force(
    meter: str,
    device_kind: str = "",
    *,
    at: datetime,
    currency: str = "EUR",
    account_id: str = "",
) -> rating.PriceVersion | None:
    """The price at `at` for an account, as `rating.price_at` says; None where there is none."""
    found = versions(currency, account_id)
    return rating.price_at(found, meter, device_kind, at, currency, account_id)


def idle(
    versions: Sequence[rating.PriceVersion],
    device_kind: str,
    at: datetime,
    account_id: str = "",
    currency: str = "EUR",
) -> rating.PriceVersion | None:
    """What a device-hour costs while nobody asks: the keep-warm price where the very kind has one,
    else that of serving (as metering counts)."""
    table = rating.PriceTable(versions, currency, account_id)
    warm = table.at(Meter.WARM_SECONDS, device_kind, at)
    if warm is not None and warm.device_kind == device_kind:
        return warm
    return table.at(Meter.DEVICE_SECONDS, device_kind, at)


def _check(meter: str, amount: Decimal, currency: str) -> None:
    if meter not in Meter.values:
        raise errors.PriceRefused(f"no such meter: {meter!r}")
    check_amount(amount)
    if len(currency) != 3 or not currency.isascii() or not currency.isupper():
        raise errors.PriceRefused(f"no currency: {currency!r}")


def check_amount(amount: Decimal) -> None:
    """Raises `errors.PriceRefused` unless it can stand in a price."""
    if type(amount) is not Decimal or not amount.is_finite() or not 0 <= amount < LIMIT:
        raise errors.PriceRefused(f"an amount is a Decimal from 0 to under {LIMIT}, not {amount!r}")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -PLACES:
        raise errors.PriceRefused(f"an amount has at most {PLACES} decimals, not {amount}")


def _check_times(valid_from: datetime, valid_to: datetime | None) -> None:
    if valid_from.tzinfo is None or (valid_to is not None and valid_to.tzinfo is None):
        raise errors.PriceRefused("a time without a zone")
    if valid_to is not None and valid_to <= valid_from:
        raise errors.PriceRefused(f"a price ends after it begins, not at {valid_to}")


def _check_account(account_id: str, currency: str) -> None:
    if not account_id:
        return
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        raise errors.UnknownAccount(account_id)
    if account.currency != currency:
        raise errors.PriceRefused(f"the account is in {account.currency}, not in {currency}")
