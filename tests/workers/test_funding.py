"""Scaling pays from the budgets: nothing is made or kept that a hard budget does not pay for."""

import json
import random
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from billing.credit import credits
from billing.models import (
    Account,
    Budget,
    BudgetWindow,
    Customer,
    Lease,
    UsageEvent,
)
from billing.spending import budgets
from billing.spending.budgets import Owner
from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import funding, services
from controlplane.endpoints.conditions import Status, summarize
from controlplane.endpoints.models import Endpoint, Replica, Scaling, ServingInterval
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.tenancy.models import Notice
from tests.billing import invoices
from tests.endpoints.world import ACTOR, START, World, said
from tests.workers import served
from workers import funds, metering, provisioning, upkeep

HOUR = 120_000_000  # nanoeuro of a CPU at list price
PER_S = HOUR / 3600

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def price_list(db: None) -> None:
    served.serving_prices(START)


def budget(world: World, amount: int, subject: str = "organization", **facts: Any) -> Budget:
    organization = world.project.organization
    of = organization.id if subject == "organization" else world.project.id
    wanted: dict[str, Any] = {"unit": "nano_eur", "window": "total", **facts}
    return budgets.create(
        actor=audit.SYSTEM,
        owner=Owner(organization.id, organization.region_code, subject, of),
        amount=amount,
        now=world.now,
        **wanted,
    )


def raise_to(budget: Budget, amount: int, world: World) -> None:
    budgets.update(
        actor=audit.SYSTEM, budget=budget, region="eu-de-1", now=world.now, amount=amount
    )


def sweep(world: World) -> None:
    provisioning.sweep(now=world.now)


def live(endpoint: Endpoint) -> list[Replica]:
    return list(Replica.objects.filter(endpoint=endpoint, state__in=LIVE).order_by("id"))


def serve(world: World, node: Node, seconds: int, ready: dict[str, float], step: int = 5) -> None:
    """Time passes: the node serves and drains as it is told, minutes are metered, all is swept."""
    for _ in range(seconds // step):
        world.later(step)
        reports = []
        for replica in Replica.objects.filter(node=node, released_at=None):
            if replica.state == State.DRAINING or replica.state not in LIVE:
                reports.append(said(replica.id, wire.Phase.STOPPED, ready_s=ready[replica.id]))
                continue
            ready[replica.id] = ready.get(replica.id, -step) + step
            reports.append(said(replica.id, wire.Phase.READY, ready_s=ready[replica.id]))
        world.report(node, *reports)
        metering.meter_replicas(world.now)
        funding.close_ended(world.now)
        sweep(world)


def test_what_was_decided_is_reserved_for_a_burst_included(world: World) -> None:
    """Ten replicas are decided for twenty workers; the budget pays for three for so long."""
    node = world.node(devices=10)
    few = budget(world, int(3.5 * settings.RESERVE_S * PER_S))
    endpoint = world.endpoint(min_replicas=0, max_replicas=10, engine_args={"max_num_seqs": 4})
    services.declare_burst(actor=ACTOR, endpoint=endpoint, now=world.now, workers=28, in_s=0)
    sweep(world)
    assert [r.state for r in live(endpoint)] == ["placed"] * 3
    assert Scaling.objects.get(endpoint=endpoint).replicas == 10
    assert 0 <= held(few) <= few.amount
    sweep(world)
    endpoint.refresh_from_db()
    assert len(live(endpoint)) == 3 and endpoint.unfunded_at == world.now
    raise_to(few, int(11 * settings.RESERVE_S * PER_S), world)
    world.later(funding.RETRY_S)
    world.heartbeat(node)
    sweep(world)
    assert [r.state for r in live(endpoint)] == ["placed"] * 10
    assert {r.transitions.earliest("id").reason for r in live(endpoint)} == {Reason.SCHEDULED}


def spent(budget: Budget) -> int:
    return BudgetWindow.objects.filter(budget=budget).aggregate(all=Sum("spent"))["all"] or 0


def held(budget: Budget) -> int:
    rows = Lease.objects.filter(budget=budget, closed_at=None)
    return sum(row.granted - row.settled for row in rows)


def owed() -> float:
    """Nanoeuro of all usage there is, at list price."""
    seconds = UsageEvent.objects.filter(meter="device_seconds").aggregate(all=Sum("quantity"))
    return (seconds["all"] or 0) * PER_S


def condition(endpoint: Endpoint) -> tuple[str, str]:
    endpoint.refresh_from_db()
    summary = summarize(endpoint, live(endpoint))
    (funded,) = [one for one in summary.conditions if one.type == "Funded"]
    return funded.status, funded.reason


def test_what_cannot_be_paid_for_is_not_made(world: World, node: Node) -> None:
    enough = int(PER_S * settings.RESERVE_S) + 100
    small = budget(world, enough // 2)
    endpoint = world.endpoint()
    sweep(world)
    assert live(endpoint) == []
    assert condition(endpoint) == ("False", "budget_exhausted")
    assert summarize(endpoint, []).status is Status.PENDING
    assert not Lease.objects.exists()  # what was granted of it went back
    raise_to(small, enough, world)
    world.later(funding.RETRY_S - 1)
    sweep(world)
    assert live(endpoint) == []  # not asked again at once
    world.later(1)
    world.heartbeat(node)
    sweep(world)
    assert [replica.state for replica in live(endpoint)] == [State.PLACED]
    assert condition(endpoint) == ("True", "")
    assert enough - 100 <= held(small) <= enough


def test_one_of_two_is_made_where_one_can_be_paid(world: World, node: Node) -> None:
    budget(world, int(PER_S * settings.RESERVE_S * 1.5), "project")
    endpoint = world.endpoint(min_replicas=2, max_replicas=2)
    sweep(world)
    assert len(live(endpoint)) == 1
    assert condition(endpoint) == ("False", "budget_exhausted")


def test_serving_ends_within_the_budget_and_everything_is_settled(world: World, node: Node) -> None:
    amount = int(PER_S * 900)
    small, warns = budget(world, amount), budget(world, 1, "project", hard=False, window="day")
    endpoint = world.endpoint()
    ready: dict[str, float] = {}
    sweep(world)
    serve(world, node, 600, ready)
    (replica,) = live(endpoint)
    assert replica.state == State.READY
    serve(world, node, 600, ready)
    assert live(endpoint) == []
    replica.refresh_from_db()
    stopped = replica.transitions.get(to_state=State.DRAINING)
    assert stopped.reason == Reason.BUDGET_EXHAUSTED
    assert condition(endpoint) == ("False", "budget_exhausted")
    # Each minute is rounded up to a whole nanoeuro.
    assert owed() <= spent(small) <= owed() + 60
    assert amount - PER_S * settings.RESERVE_S / 5 <= spent(small) <= amount
    assert spent(warns) == spent(small)
    assert upkeep.note_budgets(timezone.now()) == 2
    told = AuditEvent.objects.filter(action="budget.threshold")
    assert set(told.values_list("target_id", flat=True)) == {small.id, warns.id}
    assert set(told.values_list("region", flat=True)) == {"eu-de-1"}
    assert upkeep.note_budgets(timezone.now()) == 0
    assert held(small) == 0
    assert not Lease.objects.filter(closed_at=None).exists()
    metering.meter_replicas(world.now)
    assert owed() <= spent(small) <= owed() + 60  # nothing is settled twice


def test_scaling_and_gateways_share_one_book(world: World, node: Node) -> None:
    reserve = int(PER_S * settings.RESERVE_S)
    small = budget(world, 2 * reserve)
    ask = [[small.id, "total", 7, 1, reserve + reserve // 2, True]]
    statement = "SELECT granted FROM billing_lease('gw-1', 'e', 1, %s::jsonb)"
    with connection.cursor() as cursor:
        cursor.execute(statement, [json.dumps(ask)])
    endpoint = world.endpoint()
    sweep(world)
    assert live(endpoint) == []
    ask = [[small.id, "total", 7, 2, 0, False]]  # it gives everything back
    with connection.cursor() as cursor:
        cursor.execute(statement, [json.dumps(ask)])
    world.later(funding.RETRY_S)
    sweep(world)
    assert len(live(endpoint)) == 1
    ask = [[small.id, "total", 7, 3, 2 * reserve, True]]
    with connection.cursor() as cursor:
        cursor.execute(statement, [json.dumps(ask)])
        assert cursor.fetchone()[0] <= reserve


def test_a_new_budget_bounds_what_serves_already(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    ready: dict[str, float] = {}
    sweep(world)
    serve(world, node, 120, ready)
    assert not Lease.objects.exists()  # nothing bounded it
    small = budget(world, int(PER_S * 10))
    serve(world, node, 10, ready)
    assert live(endpoint) == []
    serve(world, node, 60, ready)
    assert held(small) == 0


def test_minutes_are_settled_in_the_window_that_they_are_of(world: World, node: Node) -> None:
    """A day of Auckland ends at 11:00 UTC in March."""
    world.later(22 * 3600 + 57 * 60)  # 10:57 UTC
    world.heartbeat(node)
    daily = budget(world, int(PER_S * 3600), window="day", time_zone="Pacific/Auckland")
    world.endpoint()
    ready: dict[str, float] = {}
    sweep(world)
    windows = set(Lease.objects.values_list("window", flat=True))
    assert windows == {"2026-03-05", "2026-03-06"}  # five minutes ahead reach into the next day
    serve(world, node, 600, ready)
    counted = dict(BudgetWindow.objects.filter(budget=daily).values_list("window", "spent"))
    assert counted.keys() == windows
    assert 100 * PER_S < counted["2026-03-05"] <= 180 * PER_S + 10
    assert owed() <= sum(counted.values()) <= owed() + 60


def test_an_endpoint_that_nobody_asks_for_forgets_the_refusal(world: World, node: Node) -> None:
    budget(world, 0)
    endpoint = world.endpoint(min_replicas=0)
    Endpoint.objects.update(wake_requested_at=world.now)
    sweep(world)
    assert condition(endpoint) == ("False", "budget_exhausted")
    Endpoint.objects.update(wake_requested_at=None)
    world.later(4 * funding.RETRY_S)
    sweep(world)
    assert condition(endpoint) == ("True", "")


def outage(world: World, node: Node, seconds: int, ready: dict[str, float]) -> None:
    """Nodes and gateways serve on, and nobody reserves, meters or reports."""
    world.later(seconds)
    for replica_id in ready:
        ready[replica_id] += seconds
    serve(world, node, 5, ready)


def test_an_outage_of_ours_overruns_no_hard_budget(world: World, node: Node) -> None:
    amount = int(PER_S * 700)
    small = budget(world, amount)
    endpoint = world.endpoint()
    ready: dict[str, float] = {}
    sweep(world)
    serve(world, node, 300, ready)
    outage(world, node, 3600, ready)
    assert [replica.state for replica in live(endpoint)] == [State.DRAINING]
    serve(world, node, 120, ready)
    assert live(endpoint) == []
    assert owed() <= spent(small) <= min(amount, owed() + 60)
    # What was reserved when it began is owed; what was served beyond is the platform's loss.
    assert 300 + settings.RESERVE_S * 0.4 <= owed() / PER_S <= 300 + settings.RESERVE_S
    assert held(small) == 0
    assert not ServingInterval.objects.filter(funding.unmetered(world.now)).exists()


@pytest.mark.parametrize("bound", ["pays", "gone", "none"])
def test_what_is_served_in_an_outage_is_owed_where_it_can_be_paid(
    world: World, node: Node, bound: str
) -> None:
    large = budget(world, int(PER_S * 20_000), hard=bound != "none")
    endpoint = world.endpoint()
    ready: dict[str, float] = {}
    sweep(world)
    serve(world, node, 300, ready)
    if bound == "gone":
        budgets.delete(actor=audit.SYSTEM, budget=large, region="eu-de-1", now=world.now)
    outage(world, node, 3600, ready)
    serve(world, node, 60, ready)
    assert [replica.state for replica in live(endpoint)] == [State.READY]
    assert 3900 <= owed() / PER_S <= 3965  # minutes that are over


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_spending_stays_within_and_nothing_leaks(
    world: World, node: Node, seed: int
) -> None:
    """Replicas come and go, budgets are edited upwards, sweeps and meters are missed."""
    chance = random.Random(seed)
    amount = int(PER_S * chance.randint(400, 1500))
    small = budget(world, amount, allowance=int(PER_S * chance.randint(0, 100)))
    endpoint = world.endpoint(min_replicas=2, max_replicas=2)
    ready: dict[str, float] = {}
    sweep(world)
    for _ in range(30):
        match chance.randrange(6):
            case 0:
                Endpoint.objects.filter(id=endpoint.id).update(stopped_at=world.now)
            case 1:
                Endpoint.objects.filter(id=endpoint.id).update(stopped_at=None)
            case 2 if chance.random() < 0.3:
                amount += int(PER_S * 100)
                raise_to(small, amount, world)
            case 3:
                world.later(5)  # nobody sweeps
                world.heartbeat(node)
            case 4 if chance.random() < 0.3:
                outage(world, node, 600, ready)
        serve(world, node, chance.choice((5, 20, 60)), ready)
        small.refresh_from_db()
        assert spent(small) + held(small) <= small.amount + small.allowance
    Endpoint.objects.filter(id=endpoint.id).update(stopped_at=world.now)
    serve(world, node, 120, ready)
    assert live(endpoint) == []
    assert held(small) == 0
    assert not ServingInterval.objects.filter(funding.unmetered(world.now)).exists()
    assert owed() <= spent(small) <= owed() + UsageEvent.objects.count()
    assert spent(small) <= small.amount + small.allowance


def test_prepaid_credit_is_a_hard_stop_and_more_of_it_starts_again(world: World) -> None:
    """A cent is 300 s of a CPU. What is used up drains, within the credit; a top-up serves on."""
    node = world.node()
    organization = world.project.organization
    prepaid(organization.account)
    give(organization.account_id, 4, "first", world)
    endpoint = world.endpoint()
    ready: dict[str, float] = {}
    for _ in range(5):
        funds.tend(world.now)
        sweep(world)
        serve(world, node, 300, ready)
    assert live(endpoint) == []
    assert condition(endpoint) == ("False", "budget_exhausted")
    most = 4 * 10**7
    assert most * 0.85 <= owed() <= most
    (bound,) = Budget.objects.filter(by_billing=True)
    assert (bound.organization_id, bound.hard, bound.window) == (organization.id, True, "total")
    # Whether an hour was accrued or not, the same is available.
    before = bound.amount
    metering.accrue_hours(world.now + timedelta(hours=1))
    funds.tend(world.now)
    bound.refresh_from_db()
    assert abs(bound.amount - before) <= 10**7
    assert spent(bound) <= bound.amount <= most + 10**7
    told = {key.split(":")[1] for key in Notice.objects.values_list("key", flat=True)}
    assert {"80"} <= told <= {"80", "95", "100"}
    give(organization.account_id, 100, "second", world)
    funds.tend(world.now)
    assert not Notice.objects.filter(closed_at=None, key__endswith=":104").exists()
    world.later(funding.RETRY_S)
    world.heartbeat(node)
    sweep(world)
    assert [replica.state for replica in live(endpoint)] == [State.PLACED]


def test_a_limit_bounds_open_invoices_and_usage_and_no_customer_is_unbounded(
    world: World,
) -> None:
    account = world.project.organization.account
    funds.tend(world.now)
    assert not Budget.objects.exists()
    customer = prepaid(account, mode="postpaid", credit_limit=119_00)
    funds.tend(world.now)
    (bound,) = Budget.objects.filter(by_billing=True)
    assert bound.amount == 100 * 10**9  # of which 19 % go to the VAT
    customer.credit_limit = None
    customer.save()
    funds.tend(world.now)
    bound.refresh_from_db()
    assert bound.deleted_at == world.now


def give(account_id: str, cents: int, key: str, world: World) -> None:
    credits.give(account_id, cents, key=key, actor=audit.SYSTEM, now=world.now)


def prepaid(account: Account, **facts: Any) -> Customer:
    wanted: dict[str, Any] = {"mode": "prepaid", **facts}
    return invoices.customer(account, invoices.entity(), **wanted)
