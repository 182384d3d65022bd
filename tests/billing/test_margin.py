"""What devices cost their owner, and what they brought in."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.db import DatabaseError

from billing import errors
from billing.reports import margin
from billing.reports.models import OwnedCost
from compliance import audit
from tests.billing.events import MONTH

Sql = Callable[..., list[tuple[Any, ...]]]
HOUR = 3600
DAY = timedelta(days=1)


def capacity(owned_h: int, held_h: int, start: datetime = MONTH, kind: str = "h200") -> Any:
    return margin.Capacity(
        kind, start, start + DAY, Fraction(owned_h * HOUR), Fraction(held_h * HOUR)
    )


def cost(amount: str, valid_from: datetime = MONTH, kind: str = "h200") -> OwnedCost:
    return OwnedCost(device_kind=kind, amount=Decimal(amount), valid_from=valid_from)


def test_every_owned_second_is_sold_given_away_or_idle() -> None:
    sold = margin.Sold("h200", Fraction(60 * HOUR), Fraction(180), given_back=Fraction(3, 2))
    (row,) = margin.of([capacity(192, 72)], [sold], [cost("0.75")])
    assert (row.owned_h, row.sold_h) == (Decimal("192.00"), Decimal("60.00"))
    assert (row.given_away_h, row.idle_h) == (Decimal("12.00"), Decimal("120.00"))
    assert (row.revenue, row.given_back) == (Decimal("180.00"), Decimal("1.50"))
    assert (row.cost, row.margin) == (Decimal("144.00"), Decimal("36.00"))
    assert row.cost_per_sold_hour == Decimal("2.40")
    assert margin.as_json([row])[0]["margin"] == "36.00"


def test_a_cost_that_changes_holds_from_its_day_on() -> None:
    costs = [cost("1"), cost("2", MONTH + DAY)]
    cuts = margin.cuts(costs, MONTH, MONTH + 2 * DAY)
    assert cuts == [MONTH, MONTH + DAY, MONTH + 2 * DAY]
    (row,) = margin.of([capacity(24, 0, at) for at in cuts[:2]], [], costs)
    assert (row.cost, row.margin) == (Decimal("72.00"), Decimal("-72.00"))
    assert row.cost_per_sold_hour is None


def test_what_nobody_has_said_the_cost_of_has_no_margin() -> None:
    sold = margin.Sold("h200", Fraction(HOUR), Fraction(3))
    (row,) = margin.of([capacity(24, 1)], [sold], [cost("1", kind="other")])
    assert (row.cost, row.margin, row.revenue) == (None, None, Decimal("3.00"))


def test_a_cost_is_said_once_and_never_edited(sql: Sql) -> None:
    def say(amount: str) -> OwnedCost:
        return margin.set_cost(
            actor=audit.SYSTEM,
            device_kind="h200",
            amount=Decimal(amount),
            valid_from=MONTH,
            now=MONTH,
        )

    first = say("1.20")
    assert say("1.20").id == first.id
    with pytest.raises(errors.PriceRefused, match="exists"):
        say("1.30")
    for amount in ("-1", "NaN", "1000000", "0.0000000000001"):
        with pytest.raises(errors.PriceRefused):
            say(amount)
    with pytest.raises(errors.PriceRefused, match="kind"):
        margin.set_cost(
            actor=audit.SYSTEM, device_kind="", amount=Decimal(1), valid_from=MONTH, now=MONTH
        )
    with pytest.raises(DatabaseError):
        sql("UPDATE billing_ownedcost SET amount = 0")
    assert OwnedCost.objects.count() == 1
