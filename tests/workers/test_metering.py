"""Metering: each request and each served second becomes usage once, whatever breaks in between."""

import itertools
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet

from billing import rating
from billing.books import ledger
from billing.meters import rollup, usage
from billing.models import LedgerTransaction, UsageEvent, UsageInbox
from billing.reports import costs
from billing.spending import reserving
from compliance.privacy import retention
from controlplane.endpoints import running
from controlplane.endpoints.models import ServingInterval
from tests.billing.dying import Killed, dying
from tests.workers import served
from tests.workers.served import MONTH, NOON
from workers import metering

pytestmark = pytest.mark.django_db
LATER = NOON + timedelta(hours=1)
TOKENS = {"input_tokens": 70, "cached_tokens": 30, "output_tokens": 50}


def times(number: int) -> dict[str, int]:
    return {meter: count * number for meter, count in TOKENS.items()}


def test_a_request_becomes_three_events_that_only_attribute() -> None:
    endpoint = served.endpoint()
    served.request(endpoint, agent="agt_1", run="run_1/run_2")
    assert metering.book_requests(LATER) == 1
    assert served.totals() == TOKENS
    event = UsageEvent.objects.get(meter="cached_tokens")
    assert event.id == "req_1:cached_tokens"
    assert (event.basis, event.account_id) == (
        "attribution",
        endpoint.project.organization.account_id,
    )
    assert (event.region, event.key_id, event.replica_id) == ("eu-de-1", "key_1", "rep_1")
    assert (event.at, event.flags) == (NOON + timedelta(seconds=2), [])
    assert (event.agent, event.run) == ("agt_1", "run_1/run_2")
    assert UsageInbox.objects.get().booked_at == LATER
    assert metering.book_requests(LATER) == 0


def test_on_a_shared_endpoint_others_owe_for_their_tokens() -> None:
    endpoint, other = served.endpoint("ours"), served.endpoint("theirs")
    endpoint.shared_at = MONTH
    endpoint.save()
    served.request(endpoint, 1)
    served.request(endpoint, 2, project_id=other.project_id)
    assert metering.book_requests(LATER) == 2
    owed = UsageEvent.objects.filter(basis="charge")
    assert {event.request_id for event in owed} == {"req_2"}
    assert {event.account_id for event in owed} == {other.project.organization.account_id}
    assert {event.endpoint_id for event in UsageEvent.objects.all()} == {endpoint.id}


@pytest.mark.parametrize(
    "fields",
    [
        {"shared_at": None},
        {"shared_at": NOON + timedelta(hours=1)},
        {"shared_at": MONTH, "unshared_at": NOON - timedelta(hours=1)},
        {"shared_at": MONTH, "region_code": "eu-fr-1"},
    ],
)
def test_who_may_not_call_an_endpoint_is_not_booked(fields: dict[str, Any]) -> None:
    endpoint, other = served.endpoint("ours"), served.endpoint("theirs")
    with connection.cursor() as cursor:  # the region pin would refuse one of them
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE endpoints_endpoint DISABLE TRIGGER region_pin")
    type(endpoint).objects.filter(id=endpoint.id).update(**fields)
    served.request(endpoint, 1, project_id=other.project_id)
    assert metering.book_requests(LATER) == 0
    assert "is not of project" in UsageInbox.objects.get().problem
    assert not UsageEvent.objects.exists()


def test_what_was_cut_off_or_estimated_says_so() -> None:
    endpoint = served.endpoint()
    served.request(endpoint, finish="client_gone", counted_by="delivered")
    metering.book_requests(LATER)
    for event in UsageEvent.objects.all():
        assert event.flags == ["client_gone", "delivered"]


def test_nothing_used_is_no_event_and_more_cached_than_sent_is_settled() -> None:
    endpoint = served.endpoint()
    served.request(endpoint, 1, input_tokens=0, cached_tokens=0, output_tokens=0, status=503)
    served.request(endpoint, 2, input_tokens=10, cached_tokens=25, output_tokens=0)
    assert metering.book_requests(LATER) == 2
    event = UsageEvent.objects.get()
    assert (event.meter, event.quantity) == ("cached_tokens", 10)
    assert event.flags == ["cached_above_input"]


def test_a_batch_has_a_limit_and_the_rest_comes_next() -> None:
    endpoint = served.endpoint()
    for number in range(5):
        served.request(endpoint, number)
    assert [metering.book_requests(LATER, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert served.totals() == times(5)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"endpoint_id": "ep_nobody"}, "no endpoint"),
        ({"project_id": "prj_other"}, "is not of project"),
        ({"output_tokens": -1}, "no such token counts"),
        ({"input_tokens": 2**62}, "no such token counts"),
        ({"closed_at": LATER + timedelta(minutes=6)}, "which cannot be"),
        ({"closed_at": MONTH - timedelta(days=400)}, "which cannot be"),
    ],
)
def test_what_cannot_be_booked_is_set_aside_and_holds_up_nobody(
    fields: dict[str, Any], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = served.endpoint()
    served.request(endpoint, 1, **fields)
    served.request(endpoint, 2)
    assert metering.book_requests(LATER) == 1
    assert served.totals() == TOKENS
    odd = UsageInbox.objects.get(request_id="req_1")
    assert odd.booked_at is None
    assert problem in odd.problem
    assert "req_1 cannot be booked" in caplog.text
    assert metering.book_requests(LATER) == 0
    retention.carry_out("request_inbox", LATER + timedelta(days=400))
    assert UsageInbox.objects.filter(request_id="req_1").exists()


def test_what_was_set_aside_can_be_tried_again() -> None:
    endpoint = served.endpoint()
    served.request(endpoint, closed_at=LATER + timedelta(minutes=10))
    metering.book_requests(LATER)
    assert metering.retry_problems() == 1
    assert metering.book_requests(LATER + timedelta(minutes=10)) == 1
    assert served.totals() == TOKENS


def test_a_request_that_contradicts_recorded_usage_is_set_aside_alone() -> None:
    endpoint = served.endpoint()
    served.request(endpoint, 1)
    metering.book_requests(LATER)
    retention.carry_out("request_inbox", LATER + timedelta(days=31))
    assert not UsageInbox.objects.exists()
    served.request(endpoint, 1)  # delivered again after its row was pruned: the same usage
    assert metering.book_requests(LATER) == 1
    retention.carry_out("request_inbox", LATER + timedelta(days=31))
    served.request(endpoint, 1, output_tokens=51)
    served.request(endpoint, 2)
    assert metering.book_requests(LATER) == 1
    assert served.totals() == times(2)
    assert "other content" in UsageInbox.objects.get(request_id="req_1").problem


def test_what_a_gateway_counted_cannot_be_edited_nor_dropped_unbooked() -> None:
    served.request(served.endpoint())
    found = UsageInbox.objects.all()
    attacks: list[Callable[[QuerySet[UsageInbox]], object]] = [
        lambda rows: rows.update(output_tokens=0),
        lambda rows: rows.update(output_tokens=0, booked_at=LATER),
        lambda rows: rows.delete(),
    ]
    for attack in attacks:
        with pytest.raises(DatabaseError), transaction.atomic():
            attack(found)
    metering.book_requests(LATER)
    with pytest.raises(DatabaseError), transaction.atomic():
        found.update(booked_at=None)
    assert retention.carry_out("request_inbox", LATER + timedelta(days=29)) == 0
    assert retention.carry_out("request_inbox", LATER + timedelta(days=31)) == 1


def _dies(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """The process ends right after this step has done its work."""
    step = getattr(owner, name)

    def last(*args: Any, **kwargs: Any) -> Any:
        step(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, last)


def test_booking_that_is_killed_between_any_two_statements_books_once() -> None:
    """Among its requests one cannot be booked, and one clashes with what is recorded."""
    endpoint = served.endpoint()
    served.request(endpoint, 0)
    metering.book_requests(LATER)
    retention.carry_out("request_inbox", LATER + timedelta(days=31))
    served.request(endpoint, 0, output_tokens=51)
    served.request(endpoint, 1)
    served.request(endpoint, 2, project_id="prj_other")
    served.request(endpoint, 3)
    deaths = 0
    for deaths in itertools.count():
        try:
            with transaction.atomic(), dying(deaths + 1):
                metering.book_requests(LATER)
            break
        except Killed:
            assert served.totals() == times(1)
            assert UsageInbox.objects.filter(booked_at=None, problem="").count() == 4
    assert deaths > 20
    assert served.totals() == times(3)
    problems = UsageInbox.objects.exclude(problem="").values_list("request_id", flat=True)
    assert sorted(problems) == ["req_0", "req_2"]
    assert rollup.verify(MONTH, MONTH + timedelta(days=31)) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("owner", "name"),
    [(usage, "record"), (reserving, "settle"), (metering, "_replica_events")],
)
def test_metering_that_is_killed_anywhere_and_repeated_meters_once(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    served.interval(served.endpoint(), NOON, 600)
    with monkeypatch.context() as patch:
        _dies(patch, owner, name)
        with pytest.raises(Killed):
            metering.meter_replicas(LATER)
    assert served.totals() == {}
    assert metering.meter_replicas(LATER) == 10
    assert metering.meter_replicas(LATER) == 0
    assert served.totals() == {"device_seconds": 600}


@pytest.mark.django_db(transaction=True)
def test_two_bookers_at_once_book_everything_once() -> None:
    endpoint = served.endpoint()
    for number in range(300):
        served.request(endpoint, number)
    booked: list[int] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(3)

    def book() -> None:
        barrier.wait()
        try:
            booked.extend(metering.book_requests(LATER, limit=40) for _ in range(8))
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=book) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(booked) == 300
    assert served.totals() == times(300)


@pytest.mark.django_db(transaction=True)
def test_two_meters_at_once_meter_every_second_once() -> None:
    endpoint = served.endpoint()
    for number in range(5):
        served.interval(endpoint, NOON + timedelta(seconds=7 * number), 900)
    barrier = threading.Barrier(3)
    failures: list[BaseException] = []

    def meter() -> None:
        barrier.wait()
        try:
            for minute in range(1, 20):
                metering.meter_replicas(NOON + timedelta(minutes=minute))
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=meter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # Open stretches: all minutes that were over when their 900 seconds ended.
    whole = sum(900 - 7 * number for number in range(5))
    assert served.totals() == {"device_seconds": whole}
    assert sum(ServingInterval.objects.values_list("metered_s", flat=True)) == whole


def test_seconds_are_charged_for_each_device_by_the_minute() -> None:
    endpoint = served.endpoint(device_count=4)
    stretch = served.interval(endpoint, NOON + timedelta(seconds=15), 110.0)
    assert metering.meter_replicas(NOON + timedelta(seconds=125)) == 2
    first, second = UsageEvent.objects.order_by("at")
    assert first.id == f"{stretch.replica_id}:{stretch.id}:{int(NOON.timestamp())}"
    assert (first.at, first.quantity) == (NOON, 45 * 4)
    assert (second.quantity, second.basis, second.device_kind) == (60 * 4, "charge", "cpu")
    stretch.refresh_from_db()
    assert stretch.metered_s == 105


def test_a_shared_device_is_charged_by_what_is_held_of_it() -> None:
    """The event keeps the seconds and the share; what they cost is exact, running or metered."""
    endpoint = served.endpoint(device_share=333)
    served.interval(endpoint, NOON, 70.0)
    assert metering.meter_replicas(NOON + timedelta(seconds=70)) == 1
    event = UsageEvent.objects.get()
    assert (event.quantity, event.share, event.basis) == (60, 333, "charge")
    account = endpoint.project.organization.account_id
    now = NOON + timedelta(seconds=70)
    found = costs.so_far(account, now=now, running=running.running(account, now=now))
    (line,) = found.lines
    price = Fraction(line.unit_amount)
    assert (line.share, line.quantity) == (333, 70)
    assert found.charge_exact == f"{rating.rounded(70 * price / 3600 * 333 / 1000, 9):f}"


def test_the_end_of_a_stretch_and_its_late_report_are_metered() -> None:
    stretch = served.interval(served.endpoint(), NOON, 70.4, ended_at=NOON + timedelta(seconds=75))
    metering.meter_replicas(LATER)
    assert served.totals() == {"device_seconds": 70}
    ServingInterval.objects.filter(id=stretch.id).update(served_s=74.9)
    assert metering.meter_replicas(LATER) == 1
    assert served.totals() == {"device_seconds": 74}


def test_our_own_clock_bounds_what_a_node_says() -> None:
    served.interval(served.endpoint(), NOON, 1e9, ended_at=NOON + timedelta(seconds=90))
    assert metering.meter_replicas(LATER) == 2
    assert served.totals() == {"device_seconds": 90}
    assert metering.meter_replicas(LATER) == 0


def test_seconds_on_both_sides_of_a_month_lie_in_their_months() -> None:
    start = MONTH - timedelta(seconds=30)
    served.interval(served.endpoint(), start, 90, ended_at=start + timedelta(seconds=90))
    metering.meter_replicas(LATER)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tableoid::regclass::text, quantity FROM billing_usageevent ORDER BY at"
        )
        assert cursor.fetchall() == [
            ("billing_usageevent_2026_02", 30),
            ("billing_usageevent_2026_03", 60),
        ]


def test_one_contradicting_stretch_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = served.endpoint()
    stretches = [served.interval(endpoint, NOON, 60) for _ in range(3)]
    metering.meter_replicas(LATER)
    ServingInterval.objects.filter(id=stretches[1].id).update(
        metered_s=0, started_at=NOON + timedelta(seconds=10)
    )
    ServingInterval.objects.update(served_s=120)
    assert metering.meter_replicas(LATER) == 2
    assert f"{stretches[1].id} cannot be metered" in caplog.text
    assert served.totals() == {"device_seconds": 300}


def test_order_and_interruptions_do_not_change_what_is_billed() -> None:
    """The same month twice: once in order, once shuffled, doubled and looked at at random times."""
    draw = random.Random(11)
    stretches = [
        (NOON + timedelta(seconds=draw.random() * 5000), draw.random() * 400) for _ in range(12)
    ]
    sums = []
    for name in ("tidy", "wild"):
        endpoint = served.endpoint(name, device_count=2)
        pieces = [
            served.interval(endpoint, start, 0, ended_at=start + timedelta(seconds=length))
            for start, length in stretches
        ]
        if name == "wild":
            draw.shuffle(pieces)
            for piece in pieces * 2:
                whole = (piece.ended_at - piece.started_at).total_seconds()  # type: ignore[operator]
                ServingInterval.objects.filter(id=piece.id).update(
                    served_s=whole / draw.choice([2, 3])
                )
                metering.meter_replicas(NOON + timedelta(seconds=draw.random() * 6000))
        for piece in pieces:
            whole = (piece.ended_at - piece.started_at).total_seconds()  # type: ignore[operator]
            ServingInterval.objects.filter(id=piece.id).update(served_s=whole)
        metering.meter_replicas(LATER + timedelta(hours=2))
        metering.accrue_hours(LATER + timedelta(hours=2))
        account_id = endpoint.project.organization.account_id
        of_account = UsageEvent.objects.filter(account_id=account_id)
        sums.append(
            (
                sum(of_account.values_list("quantity", flat=True)),
                ledger.balance(f"unbilled:{account_id}"),
            )
        )
    assert sums[0] == sums[1]
    assert sums[0][0] > 0


def test_past_hours_are_accrued_and_only_what_changed_is_looked_at() -> None:
    endpoint = served.endpoint()
    served.interval(endpoint, NOON, 3600, ended_at=NOON + timedelta(hours=1))
    served.request(endpoint)
    metering.meter_replicas(LATER)
    metering.book_requests(LATER)
    assert metering.accrue_hours(LATER - timedelta(seconds=1)) == 0
    assert metering.accrue_hours(LATER) == 1
    assert metering.accrue_hours(LATER) == 0
    account_id = endpoint.project.organization.account_id
    assert ledger.balance(f"unbilled:{account_id}") == Decimal("0.12")
    assert LedgerTransaction.objects.count() == 1
    served.interval(endpoint, NOON, 60, ended_at=NOON + timedelta(minutes=1))  # came late
    metering.meter_replicas(LATER)
    assert metering.accrue_hours(LATER) == 1
    assert ledger.balance(f"unbilled:{account_id}") == Decimal("0.122")


def test_after_an_outage_every_hour_of_it_is_accrued() -> None:
    endpoint = served.endpoint()
    for day in range(3):
        start = NOON + timedelta(days=day)
        served.interval(endpoint, start, 60, ended_at=start + timedelta(minutes=1))
        if day == 0:
            metering.meter_replicas(start + timedelta(hours=1))
            assert metering.accrue_hours(start + timedelta(hours=1)) == 1
    metering.meter_replicas(NOON + timedelta(days=3))
    assert metering.accrue_hours(NOON + timedelta(days=3)) == 2


def test_usage_without_a_price_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = served.endpoint(device_kind="nvidia-h200")
    served.interval(endpoint, NOON, 60, ended_at=NOON + timedelta(minutes=1))
    metering.meter_replicas(LATER)
    assert metering.accrue_hours(LATER) == 0
    assert "has no price" in caplog.text
