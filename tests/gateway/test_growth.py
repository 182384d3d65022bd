"""What a request, its booking and its upkeep read does not grow with the usage that is kept.

Told by PostgreSQL's own count of rows read, so whichever plan it chose: a scan, or an index that
leads to too much, would show.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection

from billing import services
from billing.meters import runs, usage
from billing.models import Account, Budget, BudgetWindow, Lease, UsageEvent, UsageInbox
from billing.reports import costs
from compliance.privacy import retention
from controlplane.endpoints.models import Endpoint
from gateway import shipping
from gateway.records import Charge, CloseRecord
from tests.workers import served
from tests.workers.served import MONTH, NOON
from workers import metering

pytestmark = [pytest.mark.django_db, pytest.mark.trap("usage-table")]

KEPT = 100_000
NOW = NOON + timedelta(minutes=1)
# Requests of a month that were booked, and their tokens, of a hundred other projects; each was a
# run with a budget and a lease of its own, which is over.
_REQUESTS = """
INSERT INTO billing_usageinbox (request_id, gateway_id, key_id, project_id, endpoint_id,
    replica_id, operation, opened_at, closed_at, status, finish, counted_by, input_tokens,
    cached_tokens, output_tokens, run, received_at, booked_at)
SELECT 'req_old_' || n, 'gw_1', 'key_x', 'prj_' || n %% 100, 'ep_' || n %% 100, 'rep_1', 'chat',
    t, t, 200, 'complete', 'engine', 100, 30, 50, 'run_' || n, t, t
FROM generate_series(%(first)s::int, %(last)s::int) n,
    LATERAL (SELECT %(now)s::timestamptz - (n %% 40000) * interval '1 minute' AS t) _"""
_EVENTS = """
INSERT INTO billing_usageevent (id, at, account_id, project_id, key_id, endpoint_id, replica_id,
    request_id, region, device_kind, meter, basis, quantity, flags)
SELECT request_id || ':' || m.name, closed_at, replace(project_id, 'prj', 'acc'), project_id,
    key_id, endpoint_id, replica_id, request_id, 'eu-de-1', 'cpu', m.name, 'attribution', 50, '[]'
FROM billing_usageinbox, (VALUES ('input_tokens'), ('output_tokens')) m(name)
WHERE booked_at IS NOT NULL ON CONFLICT DO NOTHING"""
_WINDOWS = """
INSERT INTO billing_budgetwindow (budget_id, "window", spent, calls, first_at, last_at)
SELECT %(budget)s, 'total/run_' || n, 1, 1, t, t
FROM generate_series(%(first)s::int, %(last)s::int) n,
    LATERAL (SELECT %(now)s::timestamptz - (n %% 40000) * interval '1 minute' AS t) _"""
_LEASES = """
INSERT INTO billing_lease (id, budget_id, "window", holder, epoch, granted, settled, seq, closed_at)
SELECT n, %(budget)s, 'total/run_' || n, 'gw_1', 'before', 1, 1, 1, %(now)s
FROM generate_series(%(first)s::int, %(last)s::int) n"""
_READ = """
SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint
FROM pg_stat_xact_user_tables WHERE relname LIKE 'billing%'"""


class Books:
    """An account of its own between a hundred others, and what is done about one request."""

    def __init__(self) -> None:
        self.endpoint: Endpoint = served.endpoint()
        self.account: Account = self.endpoint.project.organization.account
        self.budget = Budget.objects.create(
            organization_id="org_1", subject="run", subject_id=self.endpoint.project_id,
            unit="calls", amount=10**9, window="total", created_at=MONTH,
        )  # fmt: skip
        self.rows = 0
        self.number = 0

    def fill(self, rows: int) -> None:
        asked: dict[str, Any] = {
            "first": self.rows + 1, "last": rows, "now": NOW - timedelta(days=1),
            "budget": self.budget.id,
        }  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute("SELECT stoa_ensure_partition('billing_usageevent', '2026-02-01')")
            cursor.execute("SELECT stoa_ensure_partition('billing_usageevent', '2026-03-01')")
            for statement in (_REQUESTS, _EVENTS, _WINDOWS, _LEASES):
                cursor.execute(statement, asked)
            cursor.execute("ANALYZE")
        self.rows = rows

    def ship(self) -> None:
        self.number += 1
        window, lease = f"total/run_new_{self.number}", 10**9 + self.number
        at_us = int(NOON.timestamp() * 1e6)
        closed = CloseRecord(
            f"req_new_{self.number}", "key_1", self.endpoint.project_id, self.endpoint.id, "rep_1",
            "chat", at_us, at_us, status=200, finish="complete", counted_by="engine",
            input_tokens=100, cached_tokens=30, output_tokens=50, run=f"run_new_{self.number}",
            charges=(Charge(self.budget.id, window, lease, "calls", 1),),
        )  # fmt: skip
        asks = json.dumps([[self.budget.id, window, lease, 1, 1, True]])
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM billing_lease('gw_1', 'now', 1, %s)", [asks])
            cursor.execute(shipping._INSERT, ["gw_1", msgspec.json.encode([closed]).decode()])

    def page(self, **asked: str) -> None:
        project = self.endpoint.project_id
        found = usage.page([self.account.id], [project], MONTH, NOW, limit=1000, **asked)
        assert len(found) == 3
        assert (
            usage.page([self.account.id], [project], MONTH, NOW, limit=1000, after=found[-2].id)
            == found[-1:]
        )


# What is done about a request, and what its owner asks. Each must find the one that was shipped.
STEPS: dict[str, Callable[[Books], object]] = {
    "lease, ship and settle": lambda books: books.ship(),
    "book": lambda books: metering.book_requests(NOW),
    "meter": lambda books: metering.meter_replicas(NOW),
    "accrue": lambda books: services.unaccrued(NOW - timedelta(hours=6), NOW),
    "costs of a month": lambda books: (
        costs.by(
            "hour", books.account.id, start=MONTH, end=NOW, project_id=books.endpoint.project_id
        ).rows
    ),
    "an export": lambda books: list(usage.rows(books.account.id, MONTH, NOW)),
    "a page of usage": lambda books: books.page(),
    "usage of a request": lambda books: books.page(request_id="req_new_1"),
    "runs": lambda books: runs.used(books.endpoint.project_id, "run", start=MONTH, end=NOW),
    "prune": lambda books: retention.carry_out("request_inbox", NOW),
}


def read(step: Callable[[Books], object], books: Books) -> int:
    """Rows of billing's tables that PostgreSQL read for it."""
    with connection.cursor() as cursor:
        cursor.execute(_READ)
        ((before,),) = cursor.fetchall()
        step(books)
        cursor.execute(_READ)
        ((after,),) = cursor.fetchall()
    return int(after - before)


def test_what_is_read_for_a_request_does_not_grow_with_the_usage_kept() -> None:
    books = Books()
    books.fill(KEPT)
    found = {name: read(step, books) for name, step in STEPS.items()}
    assert UsageInbox.objects.count() == KEPT + 1
    assert UsageEvent.objects.count() == 2 * KEPT + 3
    assert BudgetWindow.objects.get(window="total/run_new_1").spent == 1
    assert Lease.objects.get(window="total/run_new_1").settled == 1
    assert max(found.values()) < KEPT / 1000, found
