"""What a month will come to: a range, made of what it has come to so far. Pure: no Django.

Each thing that is used goes on as it did, hour of the day by hour of the day, over the last week
at most; the days to come differ from one another as what the days behind cost, all things together.
The prices and terms that will hold then are applied to the sum, as an invoice will: free
quantities, tiers, the minimum. How often the range held is in docs/billing.md.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from billing.pricing import charges
from billing.pricing.charges import CHARGE, Charge, Used
from billing.pricing.terms import NO_TERMS, Terms
from billing.rating import UNITS_PER_PRICE, PriceTable, PriceVersion

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LEVEL = 7 * DAY  # of which what is usual is made: each day of the week is in it once
LOOK_BACK = 2 * LEVEL  # in which it is seen how long a thing may rest and go on all the same
_LEAST = timedelta(microseconds=1)
# Four times of five the month ends within the range. If days were alike and independent, 1.28
# would be right; with what else widens it, this is (`python -m tests.month.backtest`).
_Z = 1.1
_DIGITS = 2  # that are worth saying of something that nobody knows


@dataclass(frozen=True)
class Forecast:
    """To the month's end, in the account's currency and before VAT. `so_far` is exact to the
    cent; what is not known has two digits. `days`: how many of them it was made of. `unpriced`:
    meters and kinds that go on without a price, and stand in no amount."""

    so_far: Decimal
    low: Decimal
    expected: Decimal
    high: Decimal
    days: int
    unpriced: tuple[str, ...] = ()


class _What(NamedTuple):
    project_id: str
    endpoint_id: str
    meter: str
    device_kind: str
    share: int


def to_month_end(
    history: Iterable[Used],
    prices: Iterable[PriceVersion],
    terms: Terms = NO_TERMS,
    *,
    account_id: str,
    currency: str,
    start: datetime,
    end: datetime,
    now: datetime,
) -> Forecast:
    """`history`: usage from `start`, or from `LOOK_BACK` before `now` if that is earlier, up to
    `now`, in sums of an hour at most. `start`, `end`: the month's. Raises `CurrencyMismatch`."""
    versions = list(prices)
    table = PriceTable(versions, currency, account_id)
    known, unpriced, courses = _sorted_out(history, table, start, now)

    def billed(used: Iterable[Used]) -> list[Charge]:
        return charges.of_period(
            used, versions, terms, account_id=account_id, currency=currency, start=start, end=end
        )

    apart = _apart(courses, table, now, end)
    ways: dict[str, list[Used]] = {"low": [], "expected": [], "high": []}
    for what, course in courses.items():
        for since, until, price in table.spans(what.meter, what.device_kind, now, max(now, end)):
            units = course.usual(since, until)
            if price is None and units:
                unpriced.add(_named(what))
                continue
            for way, factor in course.factors(apart).items():
                used = Used(*what, CHARGE, since, round(units * factor))
                ways[way].append(used)
    so_far = charges.total(line for line in billed(known) if line.kind != "commitment")
    low, expected, high = (charges.total(billed([*known, *more])) for more in ways.values())
    if low < high:
        low, high = _coarse(low, ROUND_FLOOR), _coarse(high, ROUND_CEILING)
        expected = _coarse(expected, ROUND_HALF_UP)
    return Forecast(
        so_far=so_far,
        low=max(so_far, low),
        expected=max(so_far, expected),
        high=max(so_far, high),
        days=max((math.ceil((now - one.first) / DAY) for one in courses.values()), default=0),
        unpriced=tuple(sorted(unpriced)),
    )


class _Course:
    """How one thing was used, hour by hour since `first`, at most LEVEL ago."""

    def __init__(self, now: datetime) -> None:
        self._now, self.first, self.last = now, now, now - LOOK_BACK
        self._at: set[datetime] = set()
        self._hours: defaultdict[int, int] = defaultdict(int)  # of the day
        self._days: defaultdict[int, int] = defaultdict(int)  # before now

    def add(self, at: datetime, quantity: int) -> None:
        self._at.add(at)
        self.last = max(self.last, at)
        self.first = min(self.first, max(at, self._now - LEVEL))
        if at >= self._now - LEVEL:
            self._hours[at.hour] += quantity
            # An hour that began a day ago is of the last day.
            self._days[(self._now - at - _LEAST) // DAY] += quantity

    @cached_property
    def ended(self) -> bool:
        """It rests for longer than it ever did, and for more than a day."""
        order = sorted(self._at)
        rests = [after - before for before, after in pairwise(order)]
        return self._now - self.last > max([DAY, *rests])

    @property
    def days(self) -> list[int]:
        """Units of each whole day behind, the last one first."""
        return [self._days[day] for day in range((self._now - self.first) // DAY)]

    def usual(self, since: datetime, until: datetime) -> float:
        """Units from `since` to `until`, each hour as much as it had on an average day."""
        lived = (self._now - self.first) / HOUR
        total, at = 0.0, since
        while at < until:
            following = min(until, (at + HOUR).replace(minute=0, second=0, microsecond=0))
            if lived < 24:
                usual = sum(self._hours.values()) / max(lived, 1.0)
            else:
                usual = self._hours[at.hour] / (lived / 24)
            total += usual * ((following - at) / HOUR)
            at = following
        return total

    def factors(self, apart: float | None) -> dict[str, float]:
        """By how much the days to come may be less or more than usual. `apart`: see `_apart`."""
        goes_on = float(not self.ended)
        if apart is None:
            return {"low": 0.0, "expected": goes_on, "high": 2.0}
        return {"low": goes_on * max(0.0, 1 - apart), "expected": goes_on, "high": 1 + apart}


def _apart(
    courses: dict[_What, _Course], table: PriceTable, now: datetime, end: datetime
) -> float | None:
    """How far from usual, as a part of it, all that goes on may cost until `end`. None: less than
    two days say little, it may have ended, or begun."""
    totals: defaultdict[int, float] = defaultdict(float)
    days = 0
    for what, course in courses.items():
        price = table.at(what.meter, what.device_kind, now)
        if price is None or course.ended:
            continue
        unit = float(price.amount) * what.share / UNITS_PER_PRICE[what.meter]
        days = max(days, len(course.days))
        for day, units in enumerate(course.days):
            totals[day] += units * unit
    ahead = max(0.0, (end - now) / DAY)
    if days < 2 or not any(totals.values()):
        return None
    each = [totals[day] for day in range(days)]
    spread = statistics.stdev(each) / statistics.fmean(each)
    # Chance of the days to come, and what so few days behind can tell of the average.
    return _Z * spread * math.sqrt(ahead + ahead**2 / days) / ahead if ahead else 0.0


def _sorted_out(
    history: Iterable[Used], table: PriceTable, start: datetime, now: datetime
) -> tuple[list[Used], set[str], dict[_What, _Course]]:
    known: list[Used] = []
    unpriced: set[str] = set()
    courses: dict[_What, _Course] = {}
    for one in history:
        what = _What(one.project_id, one.endpoint_id, one.meter, one.device_kind, one.share)
        if table.at(one.meter, one.device_kind, one.at) is None:
            unpriced.add(_named(what))
            continue
        if start <= one.at < now:
            known.append(one)
        if now - LOOK_BACK <= one.at < now and one.basis == CHARGE:
            courses.setdefault(what, _Course(now)).add(one.at, one.quantity)
    return known, unpriced, courses


def _named(what: _What) -> str:
    return f"{what.meter} {what.device_kind}".strip()


def _coarse(amount: Decimal, rounding: str) -> Decimal:
    """With as many digits as are worth saying, and two decimals."""
    if not amount:
        return amount
    last = max(-2, amount.adjusted() - (_DIGITS - 1))
    return amount.quantize(Decimal(1).scaleb(last), rounding).quantize(Decimal("0.01"))
