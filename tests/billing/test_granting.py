"""What many replicas get of the same budgets: what one after the other would, never too much."""

import json
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing.models import Budget, BudgetWindow, Lease
from billing.spending import budgets, granting, reserving
from billing.spending.granting import Counter, Held, Need
from billing.spending.reserving import Ask, Payer
from compliance import audit
from tests.billing.events import MONTH, NOW, publish
from tests.billing.test_reserving import SECOND, make

COUNTERS: list[Counter] = [("bud_a", "total"), ("bud_b", "2026-03-04")]
amounts = st.integers(0, 30)


@st.composite
def needs(draw: st.DrawFn) -> list[Need]:
    of = draw(st.lists(st.sampled_from(COUNTERS), min_size=1, max_size=2, unique=True))
    found = [(counter, draw(amounts), draw(amounts)) for counter in of]
    return [Need(counter, min(one, two), max(one, two)) for counter, one, two in found]


@st.composite
def leases(draw: st.DrawFn) -> dict[tuple[str, Counter], Held]:
    keys = st.tuples(st.sampled_from("abcd"), st.sampled_from(COUNTERS))
    found = draw(st.dictionaries(keys, st.tuples(amounts, amounts)))
    return {key: Held(n, *facts) for n, (key, facts) in enumerate(found.items())}


@given(st.lists(needs(), max_size=4), leases(), st.tuples(st.integers(-20, 90), amounts))
def test_nobody_gets_what_is_not_there_and_everybody_all_or_nothing(
    wanted: list[list[Need]],
    held: dict[tuple[str, Counter], Held],
    free: tuple[int, int],
) -> None:
    asked = list(zip("abcd", wanted, strict=False))
    left = dict(zip(COUNTERS, free, strict=True))
    grants, refused, short = granting.share(asked, left, held)
    before = dict(zip(COUNTERS, free, strict=True))
    has = {key: one.left for key, one in held.items()}
    for grant in grants:
        has[grant.holder, grant.counter] = grant.left
    moved: defaultdict[Counter, int] = defaultdict(int)
    for (holder, counter), now in has.items():
        old = held.get((holder, counter), Held(0)).left
        moved[counter] += max(now, 0) - max(old, 0)
        assert now == old or holder not in refused
    for counter in COUNTERS:
        assert left[counter] == before[counter] - moved[counter]
        assert left[counter] >= min(0, before[counter])  # what was cut before is not cut by us
    for holder, some in asked:
        got = [has.get((holder, need.counter), 0) for need in some]
        if holder not in refused:
            assert all(need.least <= one <= need.full for one, need in zip(got, some, strict=True))
        for one, need in zip(got, some, strict=True):
            assert one == need.full or need.counter in short or holder in refused
    # As if each had come alone.
    again = dict(zip(COUNTERS, free, strict=True))
    alone = [granting.share([one], again, held) for one in asked]
    assert [refused, short] == [set().union(*(one[n] for one in alone)) for n in (1, 2)]
    assert [(g.holder, g.counter, g.left) for g in grants] == [
        (g.holder, g.counter, g.left) for one in alone for g in one[0]
    ]


PAYERS = [Payer("org_a", "prj_a", "cpu", 1), Payer("org_a", "prj_b", "cpu", 2)]
OTHER = Payer("org_b", "prj_c", "cpu", 1)


def asks(holders: list[str], seconds: int, least: int | None = None, *of: Payer) -> list[Ask]:
    payers = of or (PAYERS[0],)
    short = NOW + timedelta(seconds=seconds if least is None else least)
    until = NOW + timedelta(seconds=seconds)
    return [
        Ask(holder, payers[n % len(payers)], NOW, short, until) for n, holder in enumerate(holders)
    ]


def reserve(some: list[Ask]) -> set[str]:
    return reserving.reserve(some, reserving.payable(one.payer for one in some))


def budget(subject: str, of: str, seconds: float, **facts: Any) -> Budget:
    organization = "org_b" if of in ("org_b", "prj_c") else "org_a"
    return budgets.create(
        actor=audit.SYSTEM,
        owner=budgets.Owner(organization, "eu-de-1", subject, of),
        amount=int(seconds * SECOND / 2),
        now=NOW,
        **{"unit": "nano_eur", "window": "total", **facts},
    )


def out(budget: Budget) -> int:
    rows = Lease.objects.filter(budget=budget, closed_at=None)
    return sum(max(row.granted - row.settled, 0) for row in rows)


def spent(budget: Budget) -> int:
    return sum(BudgetWindow.objects.filter(budget=budget).values_list("spent", flat=True))


@pytest.fixture
def price(db: None) -> None:
    publish("3600", MONTH)


@pytest.mark.usefixtures("price")
def test_two_thousand_cost_as_many_statements_as_two() -> None:
    """Of one organization; the rows are written in the same statements."""
    whole, part = make("organization", 10**6), make("project", 10**6)
    some = asks([f"rep_{n:04}" for n in range(2)], 60)
    budgets_of = reserving.payable(one.payer for one in some)
    counts: list[int] = []
    for many in (2, 600, 600):  # the last ones hold it already, and reserve further
        some = asks([f"rep_{n:04}" for n in range(many)], 60 + len(counts))
        with counted() as statements:
            assert reserving.reserve(some, budgets_of) == set()
        counts.append(len(statements))
    assert max(counts) == counts[0] <= 9, statements
    assert Lease.objects.filter(budget=whole).count() == 600
    assert out(whole) == out(part) == 600 * (62 * SECOND // 2 + 6)


class counted:
    """What is asked of the database."""

    def __enter__(self) -> list[str]:
        self._found: list[str] = []

        def keep(run: Any, sql: str, *args: Any) -> Any:
            self._found.append(sql)
            return run(sql, *args)

        self._wrapper = connection.execute_wrapper(keep)
        self._wrapper.__enter__()
        return self._found

    def __exit__(self, *args: Any) -> None:
        self._wrapper.__exit__(None, None, None)


@pytest.mark.usefixtures("price")
def test_some_are_paid_and_some_not_and_those_hold_nothing() -> None:
    whole = make("organization", 10**6)
    small = budget("project", "prj_a", 101)
    refused = reserve(asks(["rep_3", "rep_1", "rep_2"], 40))
    assert refused == {"rep_3"}
    assert set(Lease.objects.values_list("holder", flat=True)) == {"rep_1", "rep_2"}
    assert out(small) == out(whole) == 2 * (40 * SECOND // 2 + 4)
    assert reserve(asks(["rep_1", "rep_2", "rep_3"], 60, 30)) == {"rep_3"}  # as far as it goes
    assert int(small.amount) - 10 <= out(small) <= int(small.amount)


@pytest.mark.usefixtures("price")
def test_a_budget_that_was_deleted_meanwhile_bounds_nobody() -> None:
    gone, stays = budget("organization", "org_a", 1), budget("project", "prj_a", 100)
    some = asks(["rep_1"], 40)
    found = reserving.payable(one.payer for one in some)
    budgets.delete(actor=audit.SYSTEM, budget=gone, region="eu-de-1", now=NOW)
    assert reserving.reserve(some, found) == set()
    assert out(stays) > 0 == out(gone)


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    publish("3600", MONTH)
    yield
    connection.close()


class Fray:
    """Sweeps, single replicas, gateways and meters of three payers, each in a thread."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.seed = seed
        self.bounds = [
            budget("organization", "org_a", chance.randint(100, 900)),
            budget("project", "prj_a", chance.randint(100, 900), window="day"),
            budget("project", "prj_b", chance.randint(100, 900)),
            budget("organization", "org_b", chance.randint(100, 300)),
        ]
        self.over: list[tuple[int, int]] = []
        self.failed: list[BaseException] = []

    def work(self, number: int) -> None:
        dice = random.Random(self.seed * 100 + number)
        try:
            for _ in range(40):
                self.step(dice, number)
                self.check()
        except BaseException as error:
            self.failed.append(error)
        finally:
            connection.close()

    def step(self, dice: random.Random, number: int) -> None:
        # A replica is metered and ended by one at a time.
        some = {dice.randrange(12) for _ in range(dice.choice((1, 12)))}
        of = {f"rep_{n:02}_{number}": (*PAYERS, OTHER)[n % 3] for n in some}
        match dice.randrange(5):
            case 0:
                self.gateway(dice, f"gw-{number}")
            case 1:
                settle(dice, of)
            case 2:
                reserving.close(list(of), now=NOW)
            case _:
                seconds = dice.choice((5, 20, 60))
                reserve([asks([name], seconds, 3, payer)[0] for name, payer in of.items()])

    def gateway(self, dice: random.Random, name: str) -> None:
        one = dice.choice(self.bounds)
        window = "2026-03-15" if one.window == "day" else "total"
        ask = [[one.id, window, dice.randrange(1, 5), dice.randrange(1, 99), 10**10, True]]
        with connection.cursor() as cursor:
            statement = "SELECT * FROM billing_lease(%s, 'e', 3, %s::jsonb)"
            cursor.execute(statement, [name, json.dumps(ask)])

    def check(self) -> None:
        with connection.cursor() as cursor:  # one statement, so one moment
            cursor.execute(
                "SELECT b.amount, COALESCE((SELECT sum(w.spent) FROM billing_budgetwindow w"
                " WHERE w.budget_id = b.id), 0) + COALESCE((SELECT sum(greatest("
                "l.granted - l.settled, 0)) FROM billing_lease l WHERE l.budget_id = b.id"
                " AND l.closed_at IS NULL), 0) FROM billing_budget b"
            )
            self.over += [(int(a), int(b)) for a, b in cursor.fetchall() if b > a]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_overspent_whoever_reserves_and_settles_at_once(seed: int) -> None:
    fray = Fray(seed)
    threads = [threading.Thread(target=fray.work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not fray.failed
    assert not fray.over
    assert sum(map(spent, fray.bounds)) > 0
    assert Lease.objects.exists()


def settle(dice: random.Random, of: dict[str, Payer]) -> None:
    """A second of some that hold enough for it on each of their budgets."""
    found = reserving.payable(of.values())
    served = []
    for name, payer in of.items():
        mine = found[payer.organization_id, payer.project_id]
        held = reserving.covered([name], mine)
        if len(held) == len(mine) and min(held.values(), default=0) >= 2 * SECOND:
            served.append(reserving.Served(name, payer, [(NOW, payer.devices, "device_seconds")]))
    with transaction.atomic():
        reserving.settle(served)
