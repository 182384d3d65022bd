"""Usage times price. Pure and exact: no Django, no I/O, no float.

A price is for a device-hour or for a million tokens and is never divided into a rounded price
per second or per token: 8 devices for 30 days at 2.49 an hour cost 14 342.40, not the 14 349.31
that a six-digit price per second would make of it. Each line is rounded once, half up, to two
decimals; beside it stands the exact amount as a Fraction, so that sums can be made before
rounding.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

# What one price buys, in units of the meter. A meter that is not here cannot be rated.
UNITS_PER_PRICE = {
    "device_seconds": 3600,
    "warm_seconds": 3600,
    "asleep_seconds": 3600,
    "input_tokens": 1_000_000,
    "cached_tokens": 1_000_000,
    "output_tokens": 1_000_000,
}
WHOLE = 1000  # thousandths
# Enough for any quantity of 64 bits at any price of 24 digits.
_WIDE = Context(prec=60, rounding=ROUND_HALF_UP)


@dataclass(frozen=True)
class Quantity:
    """So many units of a meter, used at `at` (aware; it decides which price applies).

    `share`: thousandths of each unit, where it was a part of a device that was used.
    """

    meter: str
    quantity: int
    at: datetime
    device_kind: str = ""
    share: int = WHOLE

    def __post_init__(self) -> None:
        if type(self.quantity) is not int:
            raise TypeError(f"a quantity is a whole number, not {self.quantity!r}")
        if type(self.share) is not int or not 0 < self.share <= WHOLE:
            raise TypeError(f"a share is 1 to {WHOLE} thousandths, not {self.share!r}")


@dataclass(frozen=True)
class PriceVersion:
    """`amount` of `currency` for a device-hour or a million tokens, from `valid_from` on.

    An empty `device_kind` is the general price; one for the kind itself beats it.
    """

    id: str
    meter: str
    amount: Decimal
    valid_from: datetime
    device_kind: str = ""
    currency: str = "EUR"

    def __post_init__(self) -> None:
        if type(self.amount) is not Decimal or not self.amount.is_finite() or self.amount < 0:
            raise TypeError(f"a price is a finite Decimal from zero up, not {self.amount!r}")


@dataclass(frozen=True)
class Line:
    """All usage of one meter, device kind and share of a device under one price version."""

    meter: str
    device_kind: str
    quantity: int
    price: PriceVersion
    exact: Fraction
    share: int = WHOLE

    @property
    def amount(self) -> Decimal:
        """What is owed: `exact`, rounded once, half up, to two decimals."""
        return rounded(self.exact)


class Unpriced(LookupError):
    """Usage that no price covers. Never the same as usage that costs nothing."""

    code = "usage_unpriced"

    def __init__(self, quantities: Iterable[Quantity]) -> None:
        self.quantities = tuple(quantities)
        what = sorted({f"{q.meter} {q.device_kind}".strip() for q in self.quantities})
        super().__init__(f"no price for {', '.join(what)}")


def rounded(exact: Fraction, places: int = 2) -> Decimal:
    """`exact` with `places` decimals, half up (away from zero), as accountants do."""
    scaled = abs(exact) * 10**places
    units = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return Decimal(units if exact >= 0 else -units).scaleb(-places, _WIDE)


def price_at(
    prices: Iterable[PriceVersion], meter: str, device_kind: str, at: datetime, currency: str
) -> PriceVersion | None:
    """The version in force: the newest for this very device kind, else the newest general one."""
    candidates = [
        price
        for price in prices
        if price.meter == meter
        and price.currency == currency
        and price.device_kind in ("", device_kind)
        and price.valid_from <= at
    ]
    return max(
        candidates,
        key=lambda price: (price.device_kind != "", price.valid_from, price.id),
        default=None,
    )


def split(
    quantities: Iterable[Quantity], prices: Iterable[PriceVersion], currency: str = "EUR"
) -> tuple[list[Line], list[Quantity]]:
    """Lines for what has a price, and the quantities that have none; nothing is dropped.

    A change of price inside the period makes two lines. Order and grouping of `quantities` do
    not matter. Raises ValueError for a negative quantity.
    """
    versions = list(prices)
    sums: defaultdict[tuple[str, str, PriceVersion, int], int] = defaultdict(int)
    unpriced = []
    for used in quantities:
        if used.quantity < 0:
            raise ValueError(f"negative quantity of {used.meter}: {used.quantity}")
        price = None
        if used.meter in UNITS_PER_PRICE:
            price = price_at(versions, used.meter, used.device_kind, used.at, currency)
        if price is None:
            unpriced.append(used)
        else:
            sums[used.meter, used.device_kind, price, used.share] += used.quantity
    lines = [
        Line(meter, kind, quantity, price, exact_amount(quantity, price, share), share)
        for (meter, kind, price, share), quantity in sums.items()
    ]
    lines.sort(key=_order)
    return lines, unpriced


def rate(
    quantities: Iterable[Quantity], prices: Iterable[PriceVersion], currency: str = "EUR"
) -> list[Line]:
    """As `split`, but raises `Unpriced` where a price is missing."""
    lines, unpriced = split(quantities, prices, currency)
    if unpriced:
        raise Unpriced(unpriced)
    return lines


def exact_amount(quantity: int, price: PriceVersion, share: int = WHOLE) -> Fraction:
    """`quantity` units, or thousandths of them, at `price`, unrounded."""
    whole = quantity * Fraction(price.amount) / UNITS_PER_PRICE[price.meter]
    return whole if share == WHOLE else whole * share / WHOLE


def _order(line: Line) -> tuple[str, str, datetime, str, int]:
    return line.meter, line.device_kind, line.price.valid_from, line.price.id, -line.share
