"""What a month will come to: between bounds, at the prices and terms that will hold."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.meters import usage
from billing.models import Account
from billing.pricing.charges import Commitment, Terms, Used
from billing.rating import PriceVersion
from billing.reports import forecast, outlook
from billing.reports.forecast import Forecast
from tests.billing.events import minutes, publish
from tests.billing.test_charges import ACCOUNT, END, HOUR, NOON, START, hourly, used
from tests.month import backtest

DAY = timedelta(days=1)


def ahead(
    history: list[Used], prices: list[PriceVersion], terms: Terms | None = None, **fields: Any
) -> Forecast:
    named: dict[str, Any] = {
        "account_id": ACCOUNT,
        "currency": "EUR",
        "start": START,
        "end": END,
        "now": NOON,
    }
    return forecast.to_month_end(history, prices, terms or Terms(), **named | fields)


def steady(count: int, quantity: int = HOUR, **fields: Any) -> list[Used]:
    """The same in each of the hours before now."""
    return [used(quantity, NOON - timedelta(hours=n), **fields) for n in range(1, count + 1)]


def test_what_goes_on_evenly_is_known_well() -> None:
    found = ahead(steady(7 * 24), [hourly("1.00")])
    assert found.so_far == Decimal("168.00")
    # 16.5 days of 24 euro are to come: 564.00.
    assert found.low == found.expected == found.high == 564
    assert found.days == 7


def test_days_that_differ_make_a_range_and_few_days_a_wide_one() -> None:
    working = [one for one in steady(7 * 24) if (one.at + DAY / 2).day % 2]
    found = ahead(working, [hourly("1.00")])
    assert found.so_far <= found.low < found.expected < found.high
    assert 300 < found.expected < 400
    # Two digits: nobody knows the third.
    assert all(str(one).rstrip("0.").strip("0")[2:] == "" for one in (found.low, found.high))
    one_day = ahead(steady(20), [hourly("1.00")])
    assert one_day.low == one_day.so_far == 20
    assert one_day.high > one_day.expected > 400


def test_what_has_ended_does_not_go_on_but_may() -> None:
    old = [used(HOUR, NOON - 3 * DAY - timedelta(hours=n)) for n in range(48)]
    found = ahead(old, [hourly("1.00")])
    assert found.low == found.expected == found.so_far == 48
    assert found.high > 48


def test_the_minimum_and_prices_to_come_are_in_it() -> None:
    least = Terms(commitments=(Commitment("cmt_1", START, Decimal("999.99")),))
    found = ahead(steady(7 * 24), [hourly("1.00")], least)
    assert found.low == found.high == Decimal("999.99")
    assert found.so_far == 168
    nothing = ahead([], [hourly("1.00")], least)
    assert nothing.expected == Decimal("999.99")
    assert nothing.days == nothing.so_far == 0
    doubled = [hourly("1.00"), hourly("2.00", END - DAY)]
    assert ahead(steady(7 * 24), doubled).expected == 564 + 24
    over = ahead(steady(7 * 24), [hourly("1.00")], now=END - timedelta(hours=1))
    assert over.expected >= over.so_far


def test_what_goes_on_without_a_price_is_said_and_not_guessed() -> None:
    ending = [hourly("1.00", valid_to=END - DAY)]
    found = ahead(steady(7 * 24), ending)
    assert found.expected == 564 - 24
    assert found.unpriced == ("device_seconds gpu",)
    assert ahead(steady(5, meter="warm_seconds"), ending).unpriced == ("warm_seconds gpu",)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, 14 * 24), st.integers(0, 10**6), st.sampled_from([1000, 250])),
        max_size=30,
    ),
    st.integers(0, 300),
)
def test_the_range_is_in_order_and_never_below_what_is_owed(
    rows: list[tuple[int, int, int]], least: int
) -> None:
    history = [used(n, NOON - timedelta(hours=h), share=share) for h, n, share in rows]
    terms = Terms(commitments=(Commitment("cmt_1", START, Decimal(least)),))
    found = ahead(history, [hourly("0.37", START - DAY)], terms)
    assert found.so_far <= found.low <= found.expected <= found.high
    assert found.high >= least
    assert ahead(history[::-1], [hourly("0.37", START - DAY)], terms) == found


@pytest.mark.parametrize("day", backtest.DAYS)
def test_as_many_months_end_within_the_range_as_it_says(day: int) -> None:
    """Four of five, by a sample that may be off by a tenth and more; docs/billing.md has more."""
    held = backtest.of(backtest.companies(30, seed=1), day)
    assert held.months >= 28
    assert 0.65 <= held.share <= 0.95
    assert held.width < 1.2


@pytest.mark.django_db
def test_it_is_made_of_the_accounts_own_usage(account: Account) -> None:
    publish("1.00", START)
    usage.record(minutes(account, NOON - 2 * DAY, 2 * 24 * 60))
    found = outlook.to_month_end(account.id, now=NOON)
    assert found.so_far == Decimal("48.00")
    assert found.expected == 48 + Decimal("396")  # 16.5 days
    shown = outlook.as_json(found, "EUR")
    assert (shown["so_far"], shown["days"]) == ("48.00", 2)
