"""The prices that hold for an account, and those that will, to be shown. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from billing.pricing import skus
from billing.rating import UNITS_PER_PRICE, PriceTable, PriceVersion, changes

# What no second of is ever billed, whatever its device costs.
NEVER_BILLED = ("queued", "fetching", "starting", "draining", "stopping", "failed")
_LEAST = timedelta(microseconds=1)


@dataclass(frozen=True)
class Listed:
    """One thing and its price at the moment: `amount` for `unit_size` of its meter; None while
    there is none. `own`: the account's, where the list says `list_amount`.

    `next_at`: when that changes, to `next_amount` (None: to no price), as far as is published.
    """

    sku: str
    meter: str
    device_kind: str
    unit_size: int
    amount: Decimal | None
    price_id: str
    valid_from: datetime | None
    own: bool
    list_amount: Decimal | None
    next_at: datetime | None
    next_amount: Decimal | None


def at(
    versions: Iterable[PriceVersion], now: datetime, *, currency: str, account_id: str = ""
) -> list[Listed]:
    """Every meter and device kind that has a price, or will have: serving, keep-warm, asleep,
    then tokens; each kind's own before the general."""
    every = [
        one for one in versions if one.currency == currency and one.account_id in ("", account_id)
    ]
    mine = PriceTable(every, currency, account_id)
    listed = PriceTable(every, currency)
    meters = list(UNITS_PER_PRICE)
    things = sorted(
        {(one.meter, one.device_kind) for one in every},
        key=lambda thing: (meters.index(thing[0]), thing[1] == "", thing[1]),
    )
    found = [_listed(*thing, mine, listed, every, now) for thing in things]
    return [one for one in found if one.amount is not None or one.next_amount is not None]


def _listed(
    meter: str,
    kind: str,
    mine: PriceTable,
    listed: PriceTable,
    every: list[PriceVersion],
    now: datetime,
) -> Listed:
    end = max([now, *changes(every)]) + _LEAST
    (_, until, price), *later = mine.spans(meter, kind, now, end)
    general = listed.at(meter, kind, now)
    following = later[0][2] if later else None
    return Listed(
        sku=skus.code(meter, kind),
        meter=meter,
        device_kind=kind,
        unit_size=UNITS_PER_PRICE[meter],
        amount=price.amount if price else None,
        price_id=price.id if price else "",
        valid_from=price.valid_from if price else None,
        own=price is not None and price.account_id != "",
        list_amount=general.amount if general else None,
        next_at=until if later else None,
        next_amount=following.amount if following else None,
    )
