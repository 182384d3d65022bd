"""What a month will come to: a range, made of what it has come to so far. Pure: no Django.

Each thing that is used goes on as it did, hour of the day by hour of the day, over the last week
at most; the days to come differ from one another as the days behind did. The prices and terms that
will hold then are applied to the sum, as an invoice will: free quantities, tiers, the minimum.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import NamedTuple

from billing.pricing import charges
from billing.pricing.charges import CHARGE, Charge, Used
from billing.pricing.terms import NO_TERMS, Terms
from billing.rating import PriceTable, PriceVersion

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LOOK_BACK = 7 * DAY
_LEAST = timedelta(microseconds=1)
# Four times of five the month ends within the range, if days go on as they went.
_Z = 1.28
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

    ways: dict[str, list[Used]] = {"low": [], "expected": [], "high": []}
    for what, course in courses.items():
        for since, until, price in table.spans(what.meter, what.device_kind, now, max(now, end)):
            units = course.usual(since, until)
            if price is None and units:
                unpriced.add(_named(what))
                continue
            for way, factor in course.factors(end).items():
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
    """How one thing was used, hour by hour since `first`."""

    def __init__(self, now: datetime) -> None:
        self._now, self.first, self.last = now, now, now - LOOK_BACK
        self._hours: defaultdict[int, int] = defaultdict(int)  # of the day
        self._days: defaultdict[int, int] = defaultdict(int)  # before now

    def add(self, at: datetime, quantity: int) -> None:
        self.first, self.last = min(self.first, at), max(self.last, at)
        self._hours[at.hour] += quantity
        # An hour that began a day ago is of the last day.
        self._days[(self._now - at - _LEAST) // DAY] += quantity

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

    def factors(self, end: datetime) -> dict[str, float]:
        """By how much the days to come may be less or more than usual, all together."""
        ahead, days = max(0.0, (end - self._now) / DAY), (self._now - self.first) // DAY
        idle = self._now - self.last > DAY
        totals = [self._days[day] for day in range(days)]
        if len(totals) < 2 or not sum(totals):
            # One day says little: it may have ended, or begun.
            return {"low": 0.0, "expected": float(not idle), "high": 2.0}
        spread = statistics.stdev(totals) / statistics.fmean(totals)
        # Chance of the days to come, and what so few days behind can tell of the average.
        apart = _Z * spread * math.sqrt(ahead + ahead**2 / days) / ahead if ahead else 0.0
        return {
            "low": 0.0 if idle else max(0.0, 1 - apart),
            "expected": float(not idle),
            "high": 1 + apart,
        }


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
