"""VAT in the national currency of an invoice in another one (Art. 91(2), Art. 230)."""

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal

from billing.sepa import target

_CENT = Decimal("0.01")


class RateRefused(ValueError):
    """The exchange rate at hand is not the one to use. The message says why."""


@dataclass(frozen=True)
class EuroRate:
    """So many units of `currency` for one euro, as the ECB published them on that day."""

    currency: str
    per_euro: Decimal
    published_on: date
    source: str

    def __post_init__(self) -> None:
        if not self.per_euro.is_finite() or self.per_euro <= 0:
            raise RateRefused(f"{self.per_euro} {self.currency} for a euro")


@dataclass(frozen=True)
class NationalVat:
    """The amount to state, and what made it. `rates` is empty where nothing was converted."""

    amount: Decimal
    currency: str
    rates: tuple[EuroRate, ...]


def national_vat(
    vat: Decimal,
    currency: str,
    national: str,
    chargeable_on: date,
    rates: tuple[EuroRate, ...] = (),
) -> NationalVat:
    """Convert by way of the euro, rounded once, half up, to two decimals.

    Raises RateRefused when a rate is missing or was not the latest published.
    """
    if currency == national:
        return NationalVat(vat, national, ())
    into = _rate(currency, rates, chargeable_on)
    out = _rate(national, rates, chargeable_on)
    amount = vat
    if into:
        amount /= into.per_euro
    if out:
        amount *= out.per_euro
    used = tuple(rate for rate in (into, out) if rate)
    return NationalVat(amount.quantize(_CENT, ROUND_HALF_UP), national, used)


def _rate(currency: str, rates: tuple[EuroRate, ...], on: date) -> EuroRate | None:
    if currency == "EUR":
        return None
    for rate in rates:
        if rate.currency == currency:
            _check_day(rate, on)
            return rate
    raise RateRefused(f"no rate of the ECB for {currency}")


def _check_day(rate: EuroRate, on: date) -> None:
    """The latest rate is of the last settling day; before its afternoon, of the one before."""
    last = target.on_or_before(on)
    if rate.published_on not in (last, target.on_or_before(last - timedelta(days=1))):
        raise RateRefused(
            f"the rate of {rate.currency} is of {rate.published_on}, wanted is that of {last}"
        )
