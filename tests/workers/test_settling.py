"""Serving, keep-warm and asleep seconds apart, what a move gives back, and hourly digests."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import Sum

from billing.meters import digests, usage
from billing.models import BudgetWindow, MeterFinding, MeteringDigest, UsageEvent
from billing.pricing import prices
from billing.spending import budgets
from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import lifecycle
from controlplane.endpoints.models import Activity, AsleepInterval, ServingInterval, Transition
from controlplane.endpoints.states import Reason, State
from tests.endpoints.world import World
from tests.workers import served
from tests.workers.node_stand import Stand
from tests.workers.served import MONTH, NOON
from workers import digesting, metering, settling, sleeping
from workers.agent.records import Phase

pytestmark = pytest.mark.django_db
LATER = NOON + timedelta(hours=1)


def price(meter: str, amount: str, kind: str = "cpu") -> None:
    prices.publish(
        actor=audit.SYSTEM,
        meter=meter,
        device_kind=kind,
        amount=Decimal(amount),
        valid_from=MONTH,
        now=MONTH,
    )


def asked(endpoint_id: str, at: datetime, in_flight: int, worker: int = 0) -> None:
    row = Activity.objects.create(
        endpoint_id=endpoint_id, gateway_id="gw", worker=worker, in_flight=in_flight, waiting=0
    )
    Activity.objects.filter(id=row.id).update(at=at)


# --- serving and warm ---------------------------------------------------------------------------


def test_without_a_price_of_its_own_no_second_is_apart() -> None:
    of = served.endpoint()
    price("warm_seconds", "0.01", kind="")  # not of this kind
    served.interval(of, NOON, 200.0)
    metering.meter_replicas(LATER)
    assert served.totals() == {"device_seconds": 180}


def test_what_nobody_asked_of_a_ready_replica_is_warm() -> None:
    of = served.endpoint(device_count=2)
    price("warm_seconds", "0.06")
    served.interval(of, NOON, 125.0, ended_at=NOON + timedelta(seconds=125))
    # From 10 to 23.5: a row at once, then every 5 s, then the one that says it is over.
    for second, in_flight in ((10.0, 1), (15.0, 2), (20.0, 1), (23.5, 1), (90.0, 0)):
        asked(of.id, NOON + timedelta(seconds=second), in_flight)
    asked(of.id, NOON + timedelta(seconds=22.5), 3, worker=1)
    asked(of.id, NOON + timedelta(seconds=119.4), 3)  # and once more after a quiet time
    metering.meter_replicas(LATER)
    minutes = {
        (event.at - NOON, event.meter): event.quantity
        for event in UsageEvent.objects.order_by("at")
    }
    minute = timedelta(minutes=1)
    assert minutes == {
        (0 * minute, "device_seconds"): 2 * 15,  # 9 to 24: a row says the second before it
        (0 * minute, "warm_seconds"): 2 * 45,
        (1 * minute, "device_seconds"): 2 * 2,
        (1 * minute, "warm_seconds"): 2 * 58,
        (2 * minute, "warm_seconds"): 2 * 5,
    }
    before = list(UsageEvent.objects.values())
    assert metering.meter_replicas(LATER) == 0
    assert list(UsageEvent.objects.values()) == before


# --- asleep -------------------------------------------------------------------------------------


@pytest.mark.parametrize("priced", [True, False])
def test_seconds_asleep_are_a_line_where_they_have_a_price(
    world: World, tmp_path: Path, priced: bool
) -> None:
    stand = Stand(world, tmp_path)
    if priced:
        price("asleep_seconds", "0.02")
    stand.enter(Phase.READY)
    stand.report()
    stand.later(10)
    stand.report()
    assert stand_sleeps(stand)
    for _ in range(30):
        stand.later(5)
        stand.report()
    stand.stop(after_s=0.0)
    sleeping.meter(world.now)
    metering.meter_replicas(world.now)
    slept = UsageEvent.objects.filter(meter="asleep_seconds")
    assert sum(event.quantity for event in slept) == (150 if priced else 0)
    assert AsleepInterval.objects.get().metered_s == 150
    assert served.totals()["device_seconds"] == 10
    assert sleeping.meter(world.now) == 0


def stand_sleeps(stand: Stand) -> bool:
    moved = lifecycle.advance(
        stand.replica.id, State.ASLEEP, reason=Reason.IDLE, now=stand.world.now
    )
    stand.enter(Phase.ASLEEP)
    stand.report()
    return moved


# --- moves --------------------------------------------------------------------------------------


def test_a_move_by_the_platform_bills_no_second_twice() -> None:
    of = served.endpoint()
    served.interval(of, NOON, 100.0, ended_at=NOON + timedelta(seconds=100), fault="node_drain")
    new = served.interval(of, NOON + timedelta(seconds=57.5), 300.0)
    grown = served.interval(of, NOON + timedelta(seconds=20), 300.0)  # its tenant wanted more
    for interval, reason in ((new, Reason.NODE_DRAIN), (grown, Reason.SCALE_UP)):
        Transition.objects.create(
            replica=interval.replica, to_state=State.REQUESTED, reason=reason, at=NOON
        )
    metering.meter_replicas(LATER)
    assert settling.give_back(LATER) == 2
    back = {e.at - NOON: e.quantity for e in UsageEvent.objects.filter(basis="credit")}
    assert back == {timedelta(0): 3, timedelta(minutes=1): 40}
    assert settling.give_back(LATER) == 0
    [finding] = MeterFinding.objects.all()
    assert (finding.kind, finding.seconds) == ("moved", 43)
    # One successor stands in for one: a second that goes has none.
    served.interval(of, NOON, 100.0, ended_at=NOON + timedelta(seconds=99), fault="node_drain")
    metering.meter_replicas(LATER)
    assert settling.give_back(LATER) == 0


def test_budgets_have_back_what_is_given_back() -> None:
    of = served.endpoint()
    organization = of.project.organization
    owner = budgets.Owner(organization.id, "eu-de-1", "organization", organization.id)

    def spent(window: str, made: datetime) -> Callable[[], int]:
        budget = budgets.create(
            actor=audit.SYSTEM, owner=owner, unit="nano_eur", amount=10**9, window=window, now=made
        )
        mine = BudgetWindow.objects.filter(budget=budget)
        return lambda: mine.aggregate(all=Sum("spent"))["all"] or 0

    old = spent("total", MONTH)
    served.interval(of, NOON, 90.0, ended_at=NOON + timedelta(seconds=90), fault="engine_died")
    metering.meter_replicas(LATER)
    assert old() == 3_000_000  # nanoeuro, at 0.12 EUR an hour
    new = spent("month", LATER)
    for written in (1, 0):  # the 30 seconds of its last minute, once
        assert settling.give_back(LATER) == written
        assert old() == 2_000_000
        assert new() == 0


def test_what_was_billed_beyond_what_was_agreed_in_the_end_is_given_back() -> None:
    of = served.endpoint()
    interval = served.interval(of, NOON, 200.0, ended_at=NOON + timedelta(seconds=200))
    metering.meter_replicas(LATER)
    # Its node turns out to have been dead.
    for seconds, credited in ((150, 50), (150, 50), (130, 70)):
        ServingInterval.objects.filter(id=interval.id).update(
            ended_at=NOON + timedelta(seconds=seconds)
        )
        settling.give_back(LATER)
        assert sum(e.quantity for e in UsageEvent.objects.filter(basis="credit")) == credited
    assert MeterFinding.objects.filter(kind="overbilled").exists()


# --- digests ------------------------------------------------------------------------------------


def event(account: str, number: int, at: datetime) -> usage.Event:
    return usage.Event(
        id=f"evt:{account}:{number}",
        at=at,
        account_id=account,
        project_id="prj_1",
        endpoint_id="ep_1",
        region="eu-de-1",
        meter="device_seconds",
        basis="charge",
        quantity=number,
        device_kind="cpu",
    )


def test_each_hour_is_digested_and_what_comes_late_once_more() -> None:
    organization = served.endpoint().project.organization
    mine, log = organization.account_id, organization.id
    hour = timedelta(hours=1)
    usage.record(event(mine, n, NOON + timedelta(minutes=n)) for n in range(1, 4))
    now = NOON + 3 * hour + timedelta(minutes=6)
    assert digesting.digest(now) == 3  # two of them idle
    assert digesting.digest(now) == 0
    rows = list(MeteringDigest.objects.order_by("number"))
    assert [(row.hour - NOON, row.events) for row in rows] == [
        (0 * hour, 3),
        (hour, 0),
        (2 * hour, 0),
    ]
    assert [row.previous_sha256 for row in rows] == ["", rows[0].sha256, rows[1].sha256]
    assert AuditEvent.objects.filter(action="metering.digest", log_id=log).count() == 3
    assert digests.verify(mine, NOON, now) == []
    usage.record([event(mine, 9, NOON + timedelta(minutes=59))])
    assert digests.verify(mine, NOON, now) == [
        "the usage of 2026-03-15 12:00 (4 events) is not what digest 1 covers (3)"
    ]
    assert digesting.digest(now) == 1
    assert digests.verify(mine, NOON, now) == []
    assert MeteringDigest.objects.filter(hour=NOON).count() == 2


def test_a_digest_shows_what_somebody_changed() -> None:
    mine = served.endpoint().project.organization.account_id
    usage.record(event(mine, n, NOON + timedelta(minutes=n)) for n in range(1, 4))
    digesting.digest(NOON + timedelta(hours=3))
    with pytest.raises(DatabaseError, match="refused"), transaction.atomic():
        MeteringDigest.objects.update(events=2)
    with connection.cursor() as cursor:  # the tables' owner can
        cursor.execute("ALTER TABLE billing_meteringdigest DISABLE TRIGGER append_only_rows")
        cursor.execute("UPDATE billing_meteringdigest SET events = 2 WHERE number = 1")
        cursor.execute("ALTER TABLE billing_meteringdigest ENABLE ALWAYS TRIGGER append_only_rows")
    wrong = digests.verify(mine, NOON, NOON + timedelta(hours=3))
    assert wrong == [
        "digest 1 of 2026-03-15 12:00 is not what it says",
        "the usage of 2026-03-15 12:00 (3 events) is not what digest 1 covers (2)",
    ]
