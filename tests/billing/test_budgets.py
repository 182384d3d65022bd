"""Budgets: set, changed and taken away with their events; counted, told, and written off."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F

from billing import errors, pseudonyms
from billing.models import Budget, BudgetWindow, Lease, UsageInbox
from billing.spending import budgets, counters, leases
from billing.spending.budgets import COUNTERS_MAX, PER_RUN_MAX, PER_SUBJECT_MAX, Owner
from compliance import audit
from compliance.models import AuditEvent
from gateway import budgets as gateway_budgets
from gateway.budgets import Budgets, Run
from gateway.records import CHARGES_MAX
from gateway.runs import Runs
from tests.billing.conftest import Sql

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
EURO = 10**9
ORG, PROJECT, KEY = "org_a", "prj_a", "key_a"


def owner(subject: str = "project", subject_id: str = PROJECT) -> Owner:
    return Owner(ORG, "eu-de-1", subject, subject_id)


def make(of: Owner | None = None, **changed: Any) -> Budget:
    wanted: dict[str, Any] = {"unit": "nano_eur", "amount": 5 * EURO, "window": "month"}
    return budgets.create(actor=audit.SYSTEM, owner=of or owner(), now=NOW, **(wanted | changed))


def spend(budget: Budget, amount: int, *, window: str = "2026-03", lease: int = 0) -> None:
    """As a gateway delivers it."""
    UsageInbox.objects.create(
        request_id=f"req-{UsageInbox.objects.count()}",
        gateway_id="gw-1",
        key_id=KEY,
        project_id=PROJECT,
        endpoint_id="ep_a",
        replica_id="rep_a",
        operation="chat.completions",
        opened_at=NOW,
        closed_at=NOW,
        status=200,
        finish="complete",
        counted_by="engine",
        input_tokens=1,
        cached_tokens=0,
        output_tokens=1,
        charges=[[budget.id, window, lease, budget.unit, amount]],
    )


def lease(sql: Sql, budget: Budget, id: int, needed: int, window: str = "2026-03") -> int:
    asks = json.dumps([[budget.id, window, id, 1, needed, True]])
    statement = "SELECT granted FROM billing_lease('gw-1', 'epoch-1', 1000000000, %s::jsonb)"
    return int(sql(statement, asks)[0][0])


def test_verbs_leave_their_events_and_changes() -> None:
    budget = make(allowance=EURO)
    budgets.update(
        actor=audit.SYSTEM, budget=budget, region="eu-de-1", now=NOW, amount=7 * EURO, hard=True
    )
    budgets.update(actor=audit.SYSTEM, budget=budget, region="eu-de-1", now=NOW, amount=7 * EURO)
    budgets.delete(actor=audit.SYSTEM, budget=budget, region="eu-de-1", now=NOW)
    events = AuditEvent.objects.filter(target_id=budget.id).order_by("id")
    assert [each.action for each in events] == ["budget.create", "budget.update", "budget.delete"]
    assert {each.log_id for each in events} == {ORG}
    for verb in (budgets.update, budgets.delete):
        with pytest.raises(errors.BudgetConflict, match="deleted"):
            verb(actor=audit.SYSTEM, budget=budget, region="eu-de-1", now=NOW)
    assert make().id != budget.id  # its place is free again


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"unit": "dollars"}, "unit"),
        ({"window": "week"}, "window"),
        ({"time_zone": "Europe/Atlantis"}, "time_zone"),
        ({"time_zone": "../UTC"}, "time_zone"),
        ({"amount": -1}, "amount"),
        ({"amount": 10**18 + 1}, "amount"),
        ({"allowance": -1}, "allowance"),
        ({"allowance": 1, "hard": False}, "allowance"),
        ({"agent": "planner"}, "agent"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.BudgetRefused) as refused:
        make(**wrong)
    assert refused.value.field == field
    assert not Budget.objects.exists()


def test_a_soft_budget_cannot_keep_an_allowance() -> None:
    budget = make(allowance=EURO)
    change: dict[str, Any] = {"actor": audit.SYSTEM, "region": "eu-de-1", "now": NOW}
    with pytest.raises(errors.BudgetRefused):
        budgets.update(budget=budget, hard=False, **change)
    assert budgets.update(budget=budget, hard=False, allowance=0, **change).hard is False


def fill(of: Owner) -> int:
    """As many budgets as the subject may have."""
    made = 0
    for unit in ("nano_eur", "tokens", "calls"):
        for window in ("day", "month", "total"):
            try:
                make(of, unit=unit, window=window)
            except errors.BudgetConflict as refused:
                assert refused.code == "too_many_budgets"
                return made
            made += 1
    return made


def test_no_request_meets_more_budgets_than_its_record_holds() -> None:
    places = {"organization": ORG, "project": PROJECT, "key": KEY, "agent": PROJECT, "run": PROJECT}
    made = {subject: fill(owner(subject, id)) for subject, id in places.items()}
    assert made == {**dict.fromkeys(places, PER_SUBJECT_MAX), "run": PER_RUN_MAX}
    with pytest.raises(errors.BudgetConflict):
        make(owner("agent"), unit="calls", agent="planner")
    for calls in (7, 9):
        budgets.limit_calls(actor=audit.SYSTEM, owner=owner("root", PROJECT), calls=calls, now=NOW)
    Budget.objects.create(
        organization_id=ORG,
        subject="organization",
        subject_id=ORG,
        unit="nano_eur",
        amount=1,
        window="total",
        by_billing=True,
        created_at=NOW,
    )
    with connection.cursor() as cursor:
        cursor.execute(
            'SELECT budget_id, subject, subject_id, unit, amount, "window", time_zone, hard,'
            " allowance, name FROM billing_budget b, LATERAL (SELECT b.id AS budget_id) i"
        )
        index = Budgets(gateway_budgets.Budget(*row) for row in cursor.fetchall())
    run = Run(refs=("run_1", "run_2", "run_3", "run_4"), agent="agt_1")
    assert ("root", "/run_1") in {
        (budget.subject, suffix) for budget, suffix in index.of(ORG, PROJECT, KEY, run, shared=True)
    }
    found = index.of(ORG, PROJECT, KEY, run, shared=True)
    assert len(found) == CHARGES_MAX == COUNTERS_MAX


def test_what_billing_sets_nobody_else_changes() -> None:
    own = make(owner(), window="total")
    theirs = Budget.objects.create(
        organization_id=ORG,
        subject="organization",
        subject_id=ORG,
        unit=own.unit,
        amount=1,
        window="total",
        by_billing=True,
        created_at=NOW,
    )
    place: dict[str, Any] = {"budget": theirs, "region": "eu-de-1", "now": NOW}
    place["actor"] = audit.SYSTEM
    with pytest.raises(errors.BudgetConflict) as refused:
        budgets.update(**place, amount=10**12)
    assert refused.value.code == "budget_of_billing"
    with pytest.raises(errors.BudgetConflict):
        budgets.delete(**place)
    theirs.refresh_from_db()
    assert (theirs.amount, theirs.deleted_at) == (1, None)


def test_named_agents_share_the_room_of_every_agent() -> None:
    place = owner("agent")
    for name in ("a", "b"):
        for unit in ("nano_eur", "tokens", "calls"):
            make(place, unit=unit, agent=name)
    make(place)
    for more in ({"agent": "a", "window": "day"}, {"unit": "tokens"}):
        with pytest.raises(errors.BudgetConflict) as refused:
            make(place, **more)
        assert refused.value.code == "too_many_budgets"
    with pytest.raises(errors.BudgetConflict) as refused:
        make(place, agent="a")
    assert refused.value.code == "budget_exists"


def test_an_agent_is_named_as_the_gateway_names_it() -> None:
    budget = make(owner("agent"), agent="planner")
    headers = {b"x-stoa-agent": b"planner", b"x-stoa-run": b"night/summaries"}
    asked = Runs(settings.KEY_PEPPER).of(PROJECT, headers, None)
    assert asked.agent == budget.name
    key = pseudonyms.key(settings.KEY_PEPPER)
    assert asked.refs[-1] == pseudonyms.run(key, PROJECT, "night/summaries")
    assert "planner" not in str(list(AuditEvent.objects.values()))
    with pytest.raises(errors.BudgetRefused):
        make(owner("agent"), agent="the planner")


def test_status_is_of_the_window_in_the_budgets_zone(sql: Sql) -> None:
    budget = make(window="day", time_zone="Pacific/Auckland")
    spend(budget, EURO, window="2026-03-05")  # there it is tomorrow
    spend(budget, EURO, window="2026-03-04")
    assert lease(sql, budget, 1, 3 * EURO, "2026-03-05") == 3 * EURO
    spend(budget, EURO // 2, window="2026-03-05", lease=1)
    status = counters.current([budget], NOW)[budget.id]
    assert status == counters.Status("2026-03-05", 3 * EURO // 2, 2, 5 * EURO // 2, 7 * EURO // 2)


def test_agents_and_runs_have_a_counter_each() -> None:
    budget = make(owner("run"), window="total")
    for run in ("run_1", "run_2", "run_1"):
        spend(budget, EURO, window=f"total/{run}")
    assert counters.current([budget], NOW) == {}
    rows = counters.of(budget).order_by("-id")
    found = [(each.window, each.spent) for each in counters.statuses(budget, rows)]
    assert found == [("total/run_2", EURO), ("total/run_1", 2 * EURO)]


@pytest.mark.parametrize("hard", [True, False])
def test_each_threshold_is_told_once_a_window(hard: bool) -> None:
    budget = make(hard=hard, amount=100)
    told = AuditEvent.objects.filter(action="budget.threshold")

    def look() -> list[int]:
        return [
            percent
            for row, percent in counters.crossed(datetime.now(UTC))
            if counters.note(row, percent, region="eu-de-1", now=NOW)
        ]

    spend(budget, 79)
    assert look() == []
    spend(budget, 1)
    assert look() == [80]
    assert look() == []
    spend(budget, 25)
    assert look() == [100]
    spend(budget, 100, window="2026-04")
    assert look() == [100]  # not of 80 as well
    assert told.count() == 3
    ((row, percent),) = [(BudgetWindow.objects.get(budget=budget, window="2026-04"), 100)]
    assert not counters.note(row, percent, region="eu-de-1", now=NOW)  # somebody was faster
    assert counters.crossed(datetime.now(UTC) + timedelta(days=2)) == []


def test_an_amount_near_the_end_of_64_bits_is_compared_right() -> None:
    budget = make(amount=10**18)
    spend(budget, 10**18 * 4 // 5)
    assert [percent for _, percent in counters.crossed(datetime.now(UTC))] == [80]


def test_what_a_lost_gateway_held_is_freed_by_who_says_so(sql: Sql) -> None:
    budget, tokens = make(), make(unit="tokens", amount=1000)
    lease(sql, budget, 1, 4 * EURO)
    lease(sql, tokens, 2, 500)
    spend(budget, EURO, lease=1)
    assert lease(sql, budget, 3, 4 * EURO) == EURO
    out = StringIO()
    call_command("leases", "--json", stdout=out)
    (held,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert held == {
        "holder": "gw-1",
        "epoch": "epoch-1",
        "leases": 3,
        "outstanding": {"nano_eur": 4 * EURO, "tokens": 500},
    }
    out = StringIO()
    call_command("leases", "--write-off", "gw-1", "epoch-1", "--json", stdout=out)
    assert json.loads(out.getvalue()) == held
    assert not Lease.objects.filter(closed_at=None).exists()
    event = AuditEvent.objects.get(action="lease.write_off")
    assert (event.log_id, event.target_id) == (audit.PLATFORM, "gw-1")
    assert lease(sql, budget, 4, 4 * EURO) == 4 * EURO
    spend(budget, EURO, lease=1)  # it was not lost after all: it counts
    assert counters.current([budget], NOW)[budget.id].spent == 2 * EURO
    with pytest.raises(CommandError, match="holds nothing"):
        call_command("leases", "--write-off", "gw-2", "epoch-1", stdout=StringIO())
    with pytest.raises(errors.BudgetConflict):
        leases.write_off(actor=audit.SYSTEM, holder="gw-1", epoch="epoch-0", now=NOW)
    call_command("leases", stdout=(text := StringIO()))
    assert "gw-1" in text.getvalue()


def test_runs_that_are_over_for_long_are_forgotten(sql: Sql) -> None:
    runs, whole = make(owner("run"), window="total"), make(window="total")
    long_ago = datetime.now(UTC) - timedelta(days=100)
    for run in ("old", "held", "new"):
        spend(runs, EURO, window=f"total/{run}")
    spend(whole, EURO, window="total")
    lease(sql, runs, 1, EURO, "total/old")
    lease(sql, runs, 2, 3 * EURO, "total/held")
    spend(runs, EURO, window="total/old", lease=1)
    leases.open_leases().filter(id=1).update(granted=F("settled"))  # given back
    lease(sql, runs, 3, EURO, "total/new")
    lease(sql, whole, 4, EURO, "total")
    leases.open_leases().filter(id=4).update(closed_at=long_ago)
    BudgetWindow.objects.exclude(window="total/new").update(last_at=long_ago)
    assert counters.prune(datetime.now(UTC) - timedelta(days=90)) == 3
    # What a gateway holds may still be spent; a whole project's total is never forgotten.
    left = BudgetWindow.objects.order_by("id").values_list("window", flat=True)
    assert list(left) == ["total/held", "total/new", "total"]
    assert list(Lease.objects.order_by("id").values_list("id", flat=True)) == [2, 3]


def test_the_models_are_what_the_migrations_make() -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=(out := StringIO()))
    assert "No changes" in out.getvalue()
