"""Device-seconds reserved ahead: on every hard budget or on none, whoever else reserves."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from billing.models import Budget, Lease
from billing.spending import budgets, counters, reserving
from billing.spending.budgets import Owner
from billing.spending.reserving import Ask, Payer
from compliance import audit
from tests.billing.events import MONTH, NOW, publish

PAYER = Payer("org_a", "prj_a", "cpu", 2)
SECOND = 2 * 10**9  # nanoeuro: two devices at 3600 an hour


@pytest.fixture
def price(db: None) -> None:
    publish("3600", MONTH)


def make(subject: str, seconds: float, **facts: Any) -> Budget:
    of = {"organization": "org_a", "project": "prj_a"}[subject]
    wanted: dict[str, Any] = {"unit": "nano_eur", "window": "total", **facts}
    return budgets.create(
        actor=audit.SYSTEM,
        owner=Owner("org_a", "eu-de-1", subject, of),
        amount=int(seconds * SECOND),
        now=NOW,
        **wanted,
    )


def reserve(holder: str, seconds: int, least: int | None = None, since: datetime = NOW) -> bool:
    short = since + timedelta(seconds=seconds if least is None else least)
    ask = Ask(holder, PAYER, since, short, since + timedelta(seconds=seconds))
    return not reserving.reserve([ask], reserving.payable([PAYER]))


def held(budget: Budget) -> float:
    rows = Lease.objects.filter(budget=budget, closed_at=None)
    return round(sum(row.granted - row.settled for row in rows) / SECOND, 3)


def settle(holder: str, payer: reserving.Payer, pieces: list[tuple[datetime, int]]) -> None:
    counted = [(at, seconds, "device_seconds") for at, seconds in pieces]
    reserving.settle([reserving.Served(holder, payer, counted)])


@pytest.mark.usefixtures("price")
def test_every_hard_budget_pays_or_none() -> None:
    whole, part = make("organization", 101), make("project", 50)
    make("project", 0, hard=False, window="day")
    assert not reserve("rep_1", 60)
    assert (held(whole), held(part)) == (0, 0)
    assert reserve("rep_1", 40)
    assert (held(whole), held(part)) == (40, 40)
    assert not reserve("rep_2", 40)
    assert held(whole) == 40
    assert reserve("rep_1", 60, least=45)  # as far as it goes
    assert (held(whole), held(part)) == (60, 50)
    assert reserve("rep_1", 10)  # and back
    assert (held(whole), held(part)) == (10, 10)


@pytest.mark.usefixtures("price")
def test_what_was_served_is_settled_from_its_lease_and_the_rest_is_freed() -> None:
    whole, warns = make("organization", 101), make("project", 5, hard=False)
    assert reserve("rep_1", 60)
    settle("rep_1", PAYER, [(NOW, 2 * 20), (NOW + timedelta(minutes=1), 2 * 5)])
    current = counters.current([whole, warns], NOW)
    assert {status.spent for status in current.values()} == {25 * SECOND}
    assert held(whole) == 35
    assert reserving.holders() == ["rep_1"]
    assert reserving.close(["rep_1"], now=NOW) == 1
    assert (held(whole), reserving.holders()) == (0, [])
    assert reserve("rep_2", 75)
    assert not reserve("rep_3", 2)


@pytest.mark.usefixtures("price")
def test_a_share_reserves_and_spends_its_part() -> None:
    whole = make("organization", 100)
    part = Payer("org_a", "prj_a", "cpu", 1, share=250)  # an eighth of two devices
    ask = Ask("rep_1", part, NOW, NOW + timedelta(minutes=1), NOW + timedelta(minutes=1))
    assert not reserving.reserve([ask], reserving.payable([part]))
    assert held(whole) == 7.5
    settle("rep_1", part, [(NOW, 33)])
    assert counters.current([whole], NOW)[whole.id].spent == 33 * SECOND // 8


@pytest.mark.usefixtures("price")
def test_the_dearest_price_of_the_time_is_reserved() -> None:
    whole = make("organization", 1000)
    publish("7200", NOW + timedelta(seconds=30), now=NOW)
    assert reserve("rep_1", 30)
    assert held(whole) == 30
    assert reserve("rep_1", 31)
    assert held(whole) == 62
    after = NOW + timedelta(seconds=30)
    settle("rep_1", PAYER, [(NOW, 2 * 30), (after, 2)])
    assert counters.current([whole], NOW)[whole.id].spent == 30 * SECOND + 2 * SECOND


def test_what_has_no_price_is_bounded_by_nothing(db: None) -> None:
    make("organization", 0)
    assert reserve("rep_1", 60)
    settle("rep_1", PAYER, [(NOW, 60)])
    assert not Lease.objects.exists()


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    publish("3600", MONTH)
    yield
    connection.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("committed")
def test_many_at_once_get_what_there_is_and_no_more() -> None:
    whole, part = make("organization", 101), make("project", 1000)
    outcomes: list[bool] = []

    def ask(number: int) -> None:
        try:
            outcomes.append(reserve(f"rep_{number}", 20))
            settle(f"rep_{number}", PAYER, [(NOW, 2 * 10)] if outcomes[-1] else [])
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    paid = outcomes.count(True)
    assert paid == 5  # a settled half is spent all the same
    for budget in (whole, part):
        assert counters.current([budget], NOW)[budget.id].spent == paid * 10 * SECOND
        assert held(budget) == paid * 10
    assert Decimal(whole.amount) >= paid * 20 * SECOND
