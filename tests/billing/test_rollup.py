"""The sums of usage are those of its events, whatever happens, and a price cuts them exactly."""

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import errors, rating, services
from billing.books import ledger
from billing.meters import rollup, usage
from billing.models import Account, UsageEvent
from billing.pricing import charges, prices
from billing.reports import costs
from compliance import audit
from tests.billing.conftest import Sql
from tests.billing.dying import Killed, dying
from tests.billing.events import MONTH, NOW, minutes, publish, seconds, tokens

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
END = MONTH + timedelta(days=31)


def kept(sql: Sql) -> list[tuple[Any, ...]]:
    return sql("SELECT bucket, meter, basis, quantity, events FROM billing_usagehour ORDER BY 1, 2")


def verified() -> bool:
    return rollup.verify(MONTH - 40 * DAY, MONTH + 40 * DAY) == []


def test_an_hour_is_one_row_and_repetitions_change_nothing(sql: Sql, account: Account) -> None:
    events = [*minutes(account, NOW, 90), tokens(account, "req_1")]
    for _ in range(2):
        usage.record(events)
    assert kept(sql) == [
        (NOW, "device_seconds", "charge", 3600, 60),
        (NOW, "output_tokens", "attribution", 1000, 1),
        (NOW + HOUR, "device_seconds", "charge", 1800, 30),
    ]
    assert verified()


def test_usage_that_is_taken_back_leaves_no_sum(sql: Sql, account: Account) -> None:
    usage.record([seconds(account)])
    clash = seconds(account, quantity=61)
    with pytest.raises(errors.UsageConflict):
        usage.record([*minutes(account, NOW + HOUR, 3), clash])
    with pytest.raises(RuntimeError), transaction.atomic():
        usage.record(minutes(account, NOW + HOUR, 3))
        raise RuntimeError
    assert kept(sql) == [(NOW, "device_seconds", "charge", 60, 1)]


def test_a_price_in_mid_hour_cuts_what_is_there_and_what_comes(sql: Sql, account: Account) -> None:
    """Two rows, to the microsecond, whether the usage came before the price or after it."""
    turn = NOW + timedelta(minutes=30, microseconds=1)
    at = [NOW + timedelta(minutes=29), turn - timedelta(microseconds=1), turn]
    usage.record([seconds(account, at[0], id="a"), seconds(account, at[2], id="b")])
    publish("1.00", MONTH)
    publish("3.00", turn, now=NOW)
    usage.record([seconds(account, at[1], id="c"), seconds(account, NOW + HOUR, id="d")])
    assert kept(sql) == [
        (NOW, "device_seconds", "charge", 120, 2),
        (turn, "device_seconds", "charge", 60, 1),
        (NOW + HOUR, "device_seconds", "charge", 60, 1),
    ]
    assert verified()
    found = costs.by("hour", account.id, start=MONTH, end=END)
    assert [(line.unit_amount[:4], line.quantity) for line in found.lines] == [
        ("1.00", 120),
        ("3.00", 120),
    ]
    assert [(one.at, one.quantity) for one in rollup.used(account.id, MONTH, END)] == [
        (NOW, 120),
        (turn, 120),
    ]
    accrual = services.accrue(account.id, NOW, now=NOW + HOUR)
    assert accrual.amount == sum(
        (rating.rounded(Fraction(price) * used / 3600, 9) for price, used in ((1, 120), (3, 60))),
        Decimal(0),
    )


def test_a_price_that_ends_in_mid_hour_cuts_too(sql: Sql, account: Account) -> None:
    usage.record(minutes(account, NOW, 60))
    publish("1.00", MONTH)
    ends = NOW + timedelta(minutes=20)
    prices.withdraw(actor=audit.SYSTEM, meter="device_seconds", device_kind="cpu", at=ends, now=NOW)
    assert [(bucket, quantity) for bucket, _, _, quantity, _ in kept(sql)] == [
        (NOW, 1200),
        (ends, 2400),
    ]
    found = costs.by("endpoint", account.id, start=MONTH, end=END)
    assert found.charge_exact == "0.333333333"
    assert [one.quantity for one in found.unpriced] == [2400]


@pytest.mark.django_db(transaction=True)
def test_usage_and_prices_at_once_are_cut_right(transactional_db: None) -> None:
    """Writers race with publishers of prices within the same hour: every sum is still exact."""
    account = services.open_account(name="all", now=MONTH)
    publish("1", MONTH)
    events = minutes(account, NOW, 60)
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def run(work: Callable[[int], object], number: int) -> None:
        barrier.wait()
        try:
            for turn in range(number, 60, 2):
                work(turn)
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    def write(turn: int) -> None:
        usage.record(events[turn : turn + 2])

    def price(turn: int) -> None:
        if turn % 10 < 2:
            publish(str(2 + turn), NOW + timedelta(minutes=turn, seconds=1), now=NOW)

    threads = [
        threading.Thread(target=run, args=(work, number))
        for work in (write, price)
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert verified()
    found = costs.by("hour", account.id, start=NOW, end=NOW + HOUR)
    assert sum(line.quantity for line in found.lines) == 3600
    assert len(found.lines) == 13


class Late(threading.Thread):
    """Adds a second of usage to NOW's hour, and commits when it may."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account
        self.added, self.may_commit = threading.Event(), threading.Event()
        self.pid = 0

    def run(self) -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                ((self.pid,),) = cursor.fetchall()
                usage.record([seconds(self.account, NOW, 1, id="late")])
                self.added.set()
                assert self.may_commit.wait(60)
        finally:
            connection.close()

    def waits(self) -> bool:
        """For somebody who holds what it needs, and not merely for us."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [self.pid])
            ((blocked,),) = cursor.fetchall()
        return bool(self.pid and blocked)


@pytest.mark.django_db(transaction=True)
def test_an_hour_is_marked_by_usage_that_is_not_committed_as_it_is_accrued(
    transactional_db: None,
) -> None:
    account = services.open_account(name="any", now=MONTH)
    publish("3.60", MONTH)
    usage.record([seconds(account, NOW, 9, id="early")])
    late = Late(account)
    late.start()
    try:
        assert late.added.wait(60)
        assert services.accrue_due(NOW + HOUR) == 0  # it is left for the next run
    finally:
        late.may_commit.set()
        late.join()
    assert services.accrue_due(NOW + HOUR) == 1
    assert ledger.balance(f"unbilled:{account.id}") == Decimal("0.01")


@pytest.mark.django_db(transaction=True)
def test_usage_that_comes_while_its_hour_is_accrued_marks_it_anew(transactional_db: None) -> None:
    account = services.open_account(name="any", now=MONTH)
    publish("3.60", MONTH)
    usage.record([seconds(account, NOW, 9, id="early")])
    late = Late(account)
    late.may_commit.set()
    with transaction.atomic():
        services.accrue(account.id, NOW, now=NOW + HOUR)
        late.start()
        deadline = time.monotonic() + 60
        while late.is_alive() and not late.waits() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert late.waits() or not late.is_alive()
    late.join()
    assert services.unaccrued(MONTH, END) == [(account.id, NOW)]
    services.accrue_due(NOW + HOUR)
    assert ledger.balance(f"unbilled:{account.id}") == Decimal("0.01")


def test_what_is_given_back_counts_against_what_is_charged(account: Account) -> None:
    publish("3.60", MONTH)
    given = seconds(account, NOW + timedelta(minutes=1), 100, id="given", basis="credit")
    usage.record([seconds(account, NOW, 3600), given])
    found = costs.by("endpoint", account.id, start=MONTH, end=END)
    assert [(line.basis, line.quantity, line.amount) for line in found.lines] == [
        ("charge", 3600, "3.60"),
        ("credit", -100, "-0.10"),
    ]
    (row,) = found.rows
    assert (found.charge, row.amount, row.quantities) == ("3.50", "3.50", {"device_seconds": 3500})
    lines = charges.of_period(
        rollup.used(account.id, MONTH, END),
        prices.versions(),
        account_id=account.id,
        currency="EUR",
        start=MONTH,
        end=END,
    )
    assert sum(line.amount for line in lines) == Decimal("3.50")
    assert services.accrue(account.id, NOW, now=NOW + HOUR).amount == Decimal("3.5")
    assert ledger.balance("revenue:device_seconds") == Decimal("-3.5")


def test_a_period_that_begins_and_ends_within_an_hour_is_exact(account: Account) -> None:
    publish("3.60", MONTH)
    publish("7.20", NOW + timedelta(minutes=40), now=NOW)
    usage.record(minutes(account, NOW - HOUR, 180))
    draw = random.Random(3)
    for _ in range(20):
        start, end = sorted(NOW + timedelta(seconds=draw.randrange(-4000, 8000)) for _ in range(2))
        found = costs.by("project", account.id, start=start, end=end)
        at = [one.at for one in UsageEvent.objects.all() if start <= one.at < end]
        cents = sum(6 if moment < NOW + timedelta(minutes=40) else 12 for moment in at)
        assert Decimal(found.charge_exact) == Decimal(cents) / 100
    assert costs.by("project", account.id, start=NOW, end=NOW).rows == ()


def test_by_agent_and_by_topmost_run(account: Account, price_list: None) -> None:
    asked = [("agt_1", "run_1/run_2"), ("agt_2", "run_1"), ("", "run_3"), ("agt_1", "")]
    usage.record(
        tokens(account, f"req_{n}", agent=agent, run=run, quantity=10**n)
        for n, (agent, run) in enumerate(asked)
    )

    def by(grouping: costs.Grouping) -> list[tuple[str, int]]:
        found = costs.by(grouping, account.id, start=MONTH, end=NOW + timedelta(minutes=1))
        assert found.attribution_exact == "0.000444400"
        return [(row.key, row.quantities["output_tokens"]) for row in found.rows]

    assert by("agent") == [("", 100), ("agt_1", 1001), ("agt_2", 10)]
    assert by("run") == [("", 1000), ("run_1", 11), ("run_3", 100)]
    assert by("organization") == [("", 1111)]


def test_late_usage_of_any_age_is_accrued_and_nothing_else_is_looked_at(account: Account) -> None:
    publish("3.60", MONTH - 40 * DAY, now=MONTH - 40 * DAY)
    usage.record(minutes(account, NOW, 60))
    assert services.accrue_due(NOW + HOUR) == 1
    assert services.unaccrued(MONTH - 40 * DAY, END) == []
    old = MONTH - 35 * DAY
    usage.record([seconds(account, old, id="late"), tokens(account, "req_1", old)])
    assert services.unaccrued(MONTH - 40 * DAY, END) == [(account.id, rollup.hour_start(old))]
    assert services.accrue_due(NOW + HOUR) == 1
    assert services.accrue_due(NOW + HOUR) == 0
    assert ledger.balance(f"unbilled:{account.id}") == Decimal("3.66")


def test_what_has_no_price_is_told_once_and_waits_for_one(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    usage.record([*minutes(account, NOW, 60), seconds(account, NOW + HOUR)])
    assert [services.accrue_due(NOW + 2 * HOUR) for _ in range(3)] == [0, 0, 0]
    assert caplog.text.count("has no price") == 1
    assert len(services.unaccrued(MONTH, END)) == 2
    usage.record([seconds(account, NOW, id="more")])
    assert services.accrue_due(NOW + 2 * HOUR) == 0
    assert caplog.text.count("has no price") == 2
    publish("3.60", MONTH, now=NOW + 2 * HOUR)
    assert services.accrue_due(NOW + 2 * HOUR) == 2
    assert ledger.balance(f"unbilled:{account.id}") == Decimal("3.72")
    assert services.unaccrued(MONTH, END) == []


def test_usage_is_never_charged_in_another_currency(account: Account) -> None:
    """An account in dollars and a list in euro: unpriced, said, and posted nowhere."""
    abroad = Account.objects.create(name="abroad", currency="USD", created_at=MONTH)
    publish("3.60", MONTH)
    usage.record([seconds(account), seconds(abroad, id="x")])
    found = costs.by("hour", abroad.id, start=MONTH, end=END)
    assert (found.currency, found.charge, len(found.unpriced)) == ("USD", "0.00", 1)
    assert services.accrue_due(NOW + HOUR) == 1
    assert services.unaccrued(MONTH, END) == [(abroad.id, NOW)]
    publish("7.20", MONTH, now=NOW + HOUR, currency="USD")
    assert costs.by("hour", abroad.id, start=MONTH, end=END).charge == "0.12"
    with pytest.raises(errors.LedgerRefused, match="is kept in EUR"):
        services.accrue(abroad.id, NOW, now=NOW + HOUR)
    assert services.accrue_due(NOW + HOUR) == 0
    assert services.unaccrued(MONTH, END) == [(abroad.id, NOW)]


def test_an_account_that_nobody_knows_holds_up_no_other(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    publish("3.60", MONTH)
    usage.record([seconds(account), seconds(account, id="x", account_id="acc_gone")])
    assert services.accrue_due(NOW + HOUR) == 1
    assert "acc_gone: the hour of" in caplog.text
    assert services.unaccrued(MONTH, END) == [("acc_gone", NOW)]


def test_damage_is_found_and_cured(sql: Sql, account: Account) -> None:
    usage.record(minutes(account, NOW, 60))
    sql("UPDATE billing_usagehour SET quantity = quantity + 1")
    (found,) = rollup.verify(NOW, NOW + HOUR)
    assert (found.kept, found.counted) == ((3601, 60), (3600, 60))
    rollup.rebuild(NOW, NOW + HOUR)
    assert verified()
    sql("DELETE FROM billing_usagehour")
    with pytest.raises(CommandError, match="not those of their events"):
        call_command("billing", "sums", "2026-03")
    said = StringIO()
    call_command("billing", "sums", "2026-03", "--rebuild", stdout=said)
    assert "every sum is that of its events" in said.getvalue()
    for bad in (rollup.verify, rollup.rebuild):
        with pytest.raises(ValueError, match="within an hour"):
            bad(NOW, NOW + timedelta(minutes=5))


moments = st.integers(-3 * 24 * 60, 3 * 60).map(lambda m: NOW + timedelta(minutes=m, seconds=m % 7))
drawn = st.lists(
    st.tuples(
        moments,
        st.integers(1, 10**6),
        st.sampled_from(["device_seconds", "warm_seconds", "input_tokens"]),
        st.sampled_from(["charge", "charge", "credit", "attribution"]),
        st.sampled_from([1000, 250]),
    ),
    min_size=1,
    max_size=20,
)


def billed(events: list[usage.Event], account: Account) -> dict[str, int]:
    """What the hours owe, by the events alone: units of 10^-9 by meter."""
    versions = prices.versions()
    due: dict[str, int] = {}
    hours: dict[tuple[datetime, str], list[rating.Quantity]] = {}
    for one in events:
        if one.basis != "attribution":
            used = rating.Quantity(one.meter, one.quantity, one.at, one.device_kind, one.share)
            hours.setdefault((rollup.hour_start(one.at), one.basis), []).append(used)
    for (_, basis), quantities in hours.items():
        for line in rating.rate(quantities, versions):
            units = int(rating.rounded(line.exact, 9).scaleb(9))
            due[line.meter] = due.get(line.meter, 0) + (-units if basis == "credit" else units)
    return {meter: units for meter, units in due.items() if units}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(drawn, st.randoms(use_true_random=False))
def test_order_repetition_lateness_and_crashes_change_nothing(
    stream: list[tuple[datetime, int, str, str, int]], draw: random.Random
) -> None:
    """Events in any order, some twice, some late, with deaths between any two statements."""
    with transaction.atomic():
        account = services.open_account(name="any", now=MONTH)
        for meter in ("device_seconds", "warm_seconds", "input_tokens"):
            publish("2.49", MONTH - 40 * DAY, now=MONTH - 40 * DAY, meter=meter)
            publish("3.77", NOW - timedelta(minutes=25), now=MONTH, meter=meter)
        events = [
            seconds(account, at, quantity, id=f"e{n}", meter=meter, basis=basis, share=share)
            for n, (at, quantity, meter, basis, share) in enumerate(stream)
        ]
        deliveries = events + draw.choices(events, k=len(events))
        draw.shuffle(deliveries)
        while deliveries:
            size = draw.randint(1, 8)
            steps: list[Callable[[], object]] = [
                lambda batch=deliveries[:size]: usage.record(batch),  # type: ignore[misc]
                lambda: services.accrue_due(NOW + 4 * HOUR),
            ]
            for step in steps[: draw.choice([1, 2])]:
                try:
                    with transaction.atomic(), dying(draw.randint(1, 24)):
                        step()
                except Killed:
                    if draw.random() < 0.5:
                        step()
                        continue
                    break
            else:
                del deliveries[:size]
        usage.record(events)
        services.accrue_due(NOW + 4 * HOUR)
        assert verified()
        assert services.unaccrued(MONTH - 40 * DAY, END) == []
        due = billed(events, account)
        for meter in ("device_seconds", "warm_seconds", "input_tokens"):
            posted = int(ledger.balance(f"revenue:{meter}").scaleb(9))
            assert posted == -due.get(meter, 0)
        transaction.set_rollback(True)
