"""What an account owes for a period: usage, prices and terms become the lines of an invoice.

Pure and exact: no Django, no I/O, no float. Everything is decided by sums for each key (project,
endpoint, meter, device kind, share, price), so the order of usage and how it was cut do not
matter. The steps: each sum at its price; free quantities off, dearest first; discounts of volume
for what lies beyond their thresholds, dearest first; the free amount; and what is missing to the
monthly minimum. Each line is `quantity` x `unit_amount` / `unit_size`, rounded once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from billing.pricing.terms import NO_TERMS
from billing.pricing.terms import Allowance as Allowance
from billing.pricing.terms import Commitment as Commitment
from billing.pricing.terms import Terms as Terms
from billing.pricing.terms import Tier as Tier
from billing.rating import (
    UNITS_PER_PRICE,
    WHOLE,
    PriceTable,
    PriceVersion,
    Quantity,
    Unpriced,
    rounded,
)

CHARGE, CREDIT = "charge", "credit"
KINDS = ("usage", "credit", "allowance", "tier", "commitment", "adjustment")
_EXACT = Context(prec=80)


@dataclass(frozen=True)
class Used:
    """So many units of a meter on one basis, all at prices of the moment `at`."""

    project_id: str
    endpoint_id: str
    meter: str
    device_kind: str
    share: int
    basis: str  # "charge", or "credit": given back
    at: datetime
    quantity: int

    def __post_init__(self) -> None:
        if type(self.quantity) is not int or self.quantity < 0:
            raise ValueError(f"a quantity is a whole number from 0 up, not {self.quantity!r}")
        if self.basis not in (CHARGE, CREDIT):
            raise ValueError(f"what is of basis {self.basis!r} is not owed")
        if type(self.share) is not int or not 0 < self.share <= WHOLE:
            raise ValueError(f"a share is 1 to {WHOLE} thousandths, not {self.share!r}")


@dataclass(frozen=True)
class Charge:
    """One line before VAT: `quantity` (negative where something is given) of units of which
    `unit_size` cost `unit_amount`, `exact`, and rounded once to the cent as `amount`.

    `start`, `end`: from when to when its price held within the period. `price_id` names the price,
    or the terms' row for what is no usage.
    """

    kind: str
    project_id: str
    endpoint_id: str
    meter: str
    device_kind: str
    share: int
    price_id: str
    unit_amount: Decimal
    unit_size: int
    quantity: int
    exact: Fraction
    amount: Decimal
    start: datetime
    end: datetime
    note: str = ""


class _Key(NamedTuple):
    project_id: str
    endpoint_id: str
    meter: str
    device_kind: str
    share: int


_NOBODY = _Key("", "", "", "", WHOLE)


class _What(NamedTuple):
    """What a line is of: lines of the same can be added and subtracted."""

    key: _Key
    price_id: str
    unit_amount: Decimal
    unit_size: int


@dataclass
class _Sum:
    """What was used and given back of one key at one price."""

    key: _Key
    price: PriceVersion
    start: datetime
    end: datetime
    used: int = 0
    given: int = 0
    left: int = field(init=False, default=0)  # units that terms may still take off

    @property
    def order(self) -> tuple[Decimal, _Key, datetime, str]:
        """The dearest first."""
        return -self.price.amount, self.key, self.start, self.price.id

    def line(self, kind: str, quantity: int, thousandths: int = WHOLE, note: str = "") -> Charge:
        """`thousandths` of the price for `quantity` units."""
        unit = _part(_part(self.price.amount, self.key.share), thousandths)
        size = UNITS_PER_PRICE[self.key.meter]
        what = _What(self.key, self.price.id, unit, size)
        return _charge(kind, what, quantity, self.start, self.end, note)


class Month:
    """Sums of a period, to which usage is added as it comes; memory for each key, not event."""

    def __init__(
        self,
        prices: Iterable[PriceVersion],
        *,
        account_id: str,
        currency: str,
        start: datetime,
        end: datetime,
    ) -> None:
        self._table = PriceTable(prices, currency, account_id)
        self._currency, self._start, self._end = currency, start, end
        self._sums: dict[tuple[_Key, str], _Sum] = {}
        self._unpriced: defaultdict[tuple[str, str, int], list[Quantity]] = defaultdict(list)

    def add(self, used: Used) -> None:
        """Raises ValueError for what is not of the period."""
        if not self._start <= used.at < self._end:
            raise ValueError(f"usage at {used.at} is not of {self._start} to {self._end}")
        price = None
        if used.meter in UNITS_PER_PRICE:
            price = self._table.at(used.meter, used.device_kind, used.at)
        if price is None:
            # One of each is enough to say it aloud, however much of it there is.
            seen = self._unpriced[used.meter, used.device_kind, used.share]
            total = used.quantity + (seen.pop().quantity if seen else 0)
            seen.append(Quantity(used.meter, total, used.at, used.device_kind, used.share))
            return
        key = _Key(used.project_id, used.endpoint_id, used.meter, used.device_kind, used.share)
        found = self._sums.get((key, price.id))
        if found is None:
            found = self._sums[key, price.id] = _Sum(key, price, *self._span(key, price))
        if used.basis == CHARGE:
            found.used += used.quantity
        else:
            found.given += used.quantity

    def lines(self, terms: Terms = NO_TERMS) -> list[Charge]:
        """Raises `Unpriced` where a price is missing; `terms.CurrencyMismatch`."""
        if self._unpriced:
            raise Unpriced(one for seen in self._unpriced.values() for one in seen)
        terms = terms.within(self._start, self._currency)
        sums = sorted(self._sums.values(), key=lambda one: one.order)
        lines = []
        for one in sums:
            one.left = max(0, one.used - one.given)
            lines += [one.line("usage", one.used)] if one.used else []
            lines += [one.line("credit", -one.given)] if one.given else []
        for allowance in terms.allowances:
            lines += _free_quantity(allowance, sums)
        lines += _discounts(terms.tiers, sums)
        for allowance in terms.allowances:
            if allowance.amount:
                free = min(allowance.amount, max(total(lines), Decimal(0)))
                lines += self._fixed("allowance", allowance.id, -1, free, allowance.note)
        for commitment in terms.commitments:
            missing = max(commitment.amount - total(lines), Decimal(0))
            lines += self._fixed("commitment", commitment.id, 1, missing, commitment.note)
        return sorted(lines, key=_order)

    def _span(self, key: _Key, price: PriceVersion) -> tuple[datetime, datetime]:
        spans = self._table.spans(key.meter, key.device_kind, self._start, self._end)
        held = [(since, until) for since, until, one in spans if one and one.id == price.id]
        return held[0][0], held[-1][1]

    def _fixed(self, kind: str, id: str, sign: int, amount: Decimal, note: str) -> Iterator[Charge]:
        if amount:
            what = _What(_NOBODY, id, rounded(Fraction(amount)), 1)
            yield _charge(kind, what, sign, self._start, self._end, note)


def of_period(
    used: Iterable[Used],
    prices: Iterable[PriceVersion],
    terms: Terms = NO_TERMS,
    *,
    account_id: str,
    currency: str,
    start: datetime,
    end: datetime,
) -> list[Charge]:
    """The lines of one account for the month from `start` to before `end` (aware).

    Raises `rating.Unpriced` where usage has no price, `terms.CurrencyMismatch`, and ValueError for
    usage that is not of the period.
    """
    month = Month(prices, account_id=account_id, currency=currency, start=start, end=end)
    for one in used:
        month.add(one)
    return month.lines(terms)


def adjustments(
    was: Iterable[Charge],
    now: Iterable[Charge],
    *,
    start: datetime,
    end: datetime,
    note: str = "",
) -> list[Charge]:
    """What to bill for a period again: `now` less `was`, by difference of quantities for each key.

    `was`: all that was billed for the period, earlier adjustments included; `now`: what it comes
    to with late usage. The sum of both kinds of lines is what `now` says, to the cent: what single
    roundings leave is one line of its own. `start`, `end`: the period's.
    """
    amounts: defaultdict[str, Decimal] = defaultdict(Decimal)
    quantities: defaultdict[_What, int] = defaultdict(int)
    dates: dict[_What, tuple[datetime, datetime]] = {}
    owed = Decimal(0)
    for sign, lines in ((-1, was), (1, now)):
        for line in lines:
            owed += sign * line.amount
            if line.meter:
                what = _what(line)
                quantities[what] += sign * line.quantity
                dates[what] = line.start, line.end
            elif line.price_id:
                amounts[line.price_id] += sign * line.amount
    made = [
        _charge("adjustment", what, quantity, *dates[what], note)
        for what, quantity in quantities.items()
        if quantity
    ]
    for price_id, amount in amounts.items():
        made += _fixed_difference(price_id, amount, start, end, note)
    made.sort(key=_order)
    # What roundings left has no price, and so is not compared the next time.
    return made + _fixed_difference("", owed - total(made), start, end, f"rounding {note}".strip())


def total(lines: Iterable[Charge]) -> Decimal:
    """The sum of the lines' amounts, in whole cents."""
    return sum((line.amount for line in lines), Decimal("0.00"))


def _fixed_difference(
    price_id: str, amount: Decimal, start: datetime, end: datetime, note: str
) -> list[Charge]:
    if not amount:
        return []
    what = _What(_NOBODY, price_id, abs(amount), 1)
    return [_charge("adjustment", what, 1 if amount > 0 else -1, start, end, note)]


def _free_quantity(allowance: Allowance, sums: Sequence[_Sum]) -> Iterator[Charge]:
    free = allowance.quantity * WHOLE
    for one in sums:
        if _covers(allowance, one):
            units = min(one.left, free // one.key.share)
            if units:
                one.left -= units
                free -= units * one.key.share
                yield one.line("allowance", -units, note=allowance.note)


def _discounts(tiers: Sequence[Tier], sums: Sequence[_Sum]) -> Iterator[Charge]:
    scales: defaultdict[tuple[str, str], list[Tier]] = defaultdict(list)
    for tier in tiers:
        scales[tier.meter, tier.device_kind].append(tier)
    for (meter, kind), scale in scales.items():
        scale.sort(key=lambda tier: tier.over)
        passed = 0  # thousandths of units
        # The dearest come last, and so furthest beyond the thresholds.
        for one in reversed(sums):
            own = (meter, one.key.device_kind) in scales
            if not _covers(scale[0], one) or (own and kind != one.key.device_kind):
                continue
            bounds = [_below(tier.over, passed, one) for tier in scale] + [one.left]
            for tier, (since, until) in zip(scale, pairwise(bounds), strict=True):
                if until > since:
                    yield one.line("tier", since - until, tier.discount, tier.note)
            passed += one.left * one.key.share


def _below(over: int, passed: int, one: _Sum) -> int:
    """How many of its units begin before the threshold; only whole ones are discounted."""
    return min(one.left, max(0, -((passed - over * WHOLE) // one.key.share)))


def _covers(term: Allowance | Tier, one: _Sum) -> bool:
    return term.meter == one.key.meter and term.device_kind in ("", one.key.device_kind)


def _what(line: Charge) -> _What:
    key = _Key(line.project_id, line.endpoint_id, line.meter, line.device_kind, line.share)
    return _What(key, line.price_id, line.unit_amount, line.unit_size)


def _charge(
    kind: str, what: _What, quantity: int, start: datetime, end: datetime, note: str
) -> Charge:
    exact = quantity * Fraction(what.unit_amount) / what.unit_size
    return Charge(
        kind, *what.key, what.price_id, what.unit_amount, what.unit_size, quantity, exact,
        rounded(exact), start, end, note,
    )  # fmt: skip


def _part(amount: Decimal, thousandths: int) -> Decimal:
    """Exact: no price has as many digits as the context."""
    return (
        amount
        if thousandths == WHOLE
        else _EXACT.multiply(amount, Decimal(thousandths)).scaleb(-3, _EXACT)
    )


def _order(line: Charge) -> tuple[object, ...]:
    where = line.meter == "", line.project_id, line.endpoint_id
    what = line.meter, line.device_kind, -line.share, line.start
    return *where, *what, KINDS.index(line.kind), line.price_id, line.unit_amount
