"""What was agreed with one account beyond prices: free allowances, a monthly minimum, tiers.

Pure. Rows are never edited: of those that regulate the same, the newest that began by the start
of a month holds for all of it, and one of nothing ends the agreement.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Protocol, TypeVar

from billing.rating import UNITS_PER_PRICE, WHOLE


class CurrencyMismatch(ValueError):
    """An amount is not in the account's currency. Nothing here converts."""

    code = "currency_mismatch"


@dataclass(frozen=True)
class Allowance:
    """Free each month: `quantity` units of `meter` (of any device kind, if that is empty; of parts
    of a device, thousandths of a unit count), or `amount` of what all together costs."""

    id: str
    valid_from: datetime
    meter: str = ""
    device_kind: str = ""
    quantity: int = 0
    amount: Decimal = Decimal(0)
    currency: str = "EUR"
    note: str = ""

    def __post_init__(self) -> None:
        _money(self.amount)
        _quantity(self.quantity)
        if self.meter:
            _known(self.meter)
        if (self.quantity and not self.meter) or (self.amount and self.meter):
            raise ValueError("an allowance is a quantity of a meter or an amount, not both")

    @property
    def series(self) -> tuple[str, str]:
        return self.meter, self.device_kind


@dataclass(frozen=True)
class Commitment:
    """At least `amount` is paid each month, before VAT."""

    id: str
    valid_from: datetime
    amount: Decimal
    currency: str = "EUR"
    note: str = ""

    def __post_init__(self) -> None:
        _money(self.amount)

    @property
    def series(self) -> tuple[str, str]:
        return "", ""


@dataclass(frozen=True)
class Tier:
    """Of the month's units of `meter` beyond `over`, `discount` thousandths of the price are taken
    off. Tiers of a device kind of its own stand instead of those of all kinds together."""

    id: str
    valid_from: datetime
    meter: str
    over: int
    discount: int
    device_kind: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _known(self.meter)
        _quantity(self.over)
        if type(self.discount) is not int or not 0 <= self.discount <= WHOLE:
            raise ValueError(f"a discount is 0 to {WHOLE} thousandths, not {self.discount!r}")

    @property
    def series(self) -> tuple[str, str, int]:
        return self.meter, self.device_kind, self.over


class _Dated(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def valid_from(self) -> datetime: ...
    @property
    def series(self) -> tuple[object, ...]: ...


_T = TypeVar("_T", bound=_Dated)


@dataclass(frozen=True)
class Terms:
    """Every row there is for one account, past and to come; `within` says what holds."""

    allowances: tuple[Allowance, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    tiers: tuple[Tier, ...] = ()

    def within(self, start: datetime, currency: str) -> "Terms":
        """What holds in the month that begins at `start`: a kind's own before the general, and in
        an order that depends on nothing else. Raises `CurrencyMismatch`."""
        found = Terms(
            tuple(one for one in _newest(self.allowances, start) if one.quantity or one.amount),
            tuple(one for one in _newest(self.commitments, start) if one.amount),
            tuple(one for one in _newest(self.tiers, start) if one.discount),
        )
        free = [(one.id, one.currency) for one in found.allowances if one.amount]
        for id, other in (*free, *((one.id, one.currency) for one in found.commitments)):
            if other != currency:
                raise CurrencyMismatch(f"{id} is in {other}, not in {currency}")
        return found


NO_TERMS = Terms()


def _newest(rows: Iterable[_T], start: datetime) -> list[_T]:
    newest: dict[tuple[object, ...], _T] = {}
    for row in sorted(rows, key=lambda row: (row.valid_from, row.id)):
        if row.valid_from <= start:
            newest[row.series] = row
    return sorted(newest.values(), key=lambda row: (row.series[1] == "", row.series, row.id))


def _money(amount: Decimal) -> None:
    if type(amount) is not Decimal or not amount.is_finite() or amount < 0:
        raise ValueError(f"an amount is a Decimal from zero up, not {amount!r}")
    if (Fraction(amount) * 100).denominator != 1:
        raise ValueError(f"an amount is whole cents, not {amount}")


def _quantity(quantity: int) -> None:
    if type(quantity) is not int or quantity < 0:
        raise ValueError(f"a quantity is a whole number from zero up, not {quantity!r}")


def _known(meter: str) -> None:
    if meter not in UNITS_PER_PRICE:
        raise ValueError(f"no such meter: {meter!r}")
