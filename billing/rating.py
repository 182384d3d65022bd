"""Usage times price. Pure and exact: no Django, no I/O, no float.

A price is for a device-hour or for a million tokens and is never divided into a rounded price
per second or per token: 8 devices for 30 days at 2.49 an hour cost 14 342.40, not the 14 349.31
that a six-digit price per second would make of it. Each line is rounded once, half up, to two
decimals; beside it stands the exact amount as a Fraction, so that sums can be made before
rounding.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from itertools import pairwise

# What one price buys, in units of the meter. A meter that is not here cannot be rated.
UNITS_PER_PRICE = {
    "device_seconds": 3600,
    "warm_seconds": 3600,
    "asleep_seconds": 3600,
    "input_tokens": 1_000_000,
    "cached_tokens": 1_000_000,
    "output_tokens": 1_000_000,
}
SECONDS = ("device_seconds", "warm_seconds", "asleep_seconds")
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

    An empty `device_kind` is the general price; one for the kind itself beats it. A version with
    an `account_id` holds for that account alone and beats the list's of the same kind. From
    `valid_to` on it holds no more, and neither do those it superseded; where both times are the
    same, it says from when on there is no price.
    """

    id: str
    meter: str
    amount: Decimal
    valid_from: datetime
    device_kind: str = ""
    currency: str = "EUR"
    valid_to: datetime | None = None
    account_id: str = ""

    def __post_init__(self) -> None:
        if type(self.amount) is not Decimal or not self.amount.is_finite() or self.amount < 0:
            raise TypeError(f"a price is a finite Decimal from zero up, not {self.amount!r}")
        if self.valid_to is not None and self.valid_to < self.valid_from:
            raise ValueError(f"a price ends at {self.valid_to}, before {self.valid_from}")


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


class PriceTable:
    """The versions that may hold for one account in one currency, to look up many times."""

    def __init__(
        self, prices: Iterable[PriceVersion], currency: str = "EUR", account_id: str = ""
    ) -> None:
        self._of: defaultdict[str, list[PriceVersion]] = defaultdict(list)
        for price in prices:
            if price.currency == currency and price.account_id in ("", account_id):
                self._of[price.meter].append(price)
        self._known: dict[tuple[str, str], tuple[list[datetime], list[PriceVersion | None]]] = {}

    def at(self, meter: str, device_kind: str, at: datetime) -> PriceVersion | None:
        """The version in force, as `price_at` says; None where there is a gap."""
        turns, found = self._segments(meter, device_kind)
        return found[bisect_right(turns, at)]

    def spans(
        self, meter: str, device_kind: str, start: datetime, end: datetime
    ) -> list[tuple[datetime, datetime, PriceVersion | None]]:
        """What holds from `start` to `end`, piece by piece without a hole."""
        turns, _ = self._segments(meter, device_kind)
        bounds = [start, *(turn for turn in turns if start < turn < end), end]
        pieces: list[tuple[datetime, datetime, PriceVersion | None]] = []
        for since, until in pairwise(bounds):
            price = self.at(meter, device_kind, since)
            if pieces and pieces[-1][2] == price:
                since = pieces.pop()[0]
            pieces.append((since, until, price))
        return pieces

    def _segments(
        self, meter: str, device_kind: str
    ) -> tuple[list[datetime], list[PriceVersion | None]]:
        known = self._known.get((meter, device_kind))
        if known is None:
            named = [one for one in self._of.get(meter, ()) if one.device_kind in ("", device_kind)]
            turns = changes(named)
            known = turns, [None, *(_newest(named, turn) for turn in turns)]
            self._known[meter, device_kind] = known
        return known


def changes(prices: Iterable[PriceVersion]) -> list[datetime]:
    """Each moment at which some price begins or ends, once, in order."""
    turns = set()
    for price in prices:
        turns.add(price.valid_from)
        if price.valid_to is not None:
            turns.add(price.valid_to)
    return sorted(turns)


def price_at(
    prices: Iterable[PriceVersion],
    meter: str,
    device_kind: str,
    at: datetime,
    currency: str,
    account_id: str = "",
) -> PriceVersion | None:
    """The version in force for an account: of this very device kind its own, else the list's; else
    of the general kind its own, else the list's. Of each, the newest counts, if it has not ended.
    """
    return _newest(
        (
            price
            for price in prices
            if price.meter == meter
            and price.currency == currency
            and price.device_kind in ("", device_kind)
            and price.account_id in ("", account_id)
        ),
        at,
    )


def _newest(candidates: Iterable[PriceVersion], at: datetime) -> PriceVersion | None:
    newest: dict[tuple[bool, bool], PriceVersion] = {}
    for price in candidates:
        if price.valid_from <= at:
            series = price.device_kind != "", price.account_id != ""
            before = newest.get(series)
            if before is None or (before.valid_from, before.id) < (price.valid_from, price.id):
                newest[series] = price
    for _, price in sorted(newest.items(), key=lambda one: one[0], reverse=True):
        if price.valid_to is None or at < price.valid_to:
            return price
    return None


def split(
    quantities: Iterable[Quantity],
    prices: Iterable[PriceVersion],
    currency: str = "EUR",
    account_id: str = "",
) -> tuple[list[Line], list[Quantity]]:
    """Lines for what has a price, and the quantities that have none; nothing is dropped.

    A change of price inside the period makes two lines. Order and grouping of `quantities` do
    not matter. Raises ValueError for a negative quantity.
    """
    table = PriceTable(prices, currency, account_id)
    sums: defaultdict[tuple[str, str, PriceVersion, int], int] = defaultdict(int)
    unpriced = []
    for used in quantities:
        if used.quantity < 0:
            raise ValueError(f"negative quantity of {used.meter}: {used.quantity}")
        price = None
        if used.meter in UNITS_PER_PRICE:
            price = table.at(used.meter, used.device_kind, used.at)
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
    quantities: Iterable[Quantity],
    prices: Iterable[PriceVersion],
    currency: str = "EUR",
    account_id: str = "",
) -> list[Line]:
    """As `split`, but raises `Unpriced` where a price is missing."""
    lines, unpriced = split(quantities, prices, currency, account_id)
    if unpriced:
        raise Unpriced(unpriced)
    return lines


def exact_amount(quantity: int, price: PriceVersion, share: int = WHOLE) -> Fraction:
    """`quantity` units, or thousandths of them, at `price`, unrounded."""
    whole = quantity * Fraction(price.amount) / UNITS_PER_PRICE[price.meter]
    return whole if share == WHOLE else whole * share / WHOLE


def _order(line: Line) -> tuple[str, str, datetime, str, int]:
    return line.meter, line.device_kind, line.price.valid_from, line.price.id, -line.share
