"""Limits and budgets of real gateways: several processes, several hosts, one PostgreSQL."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing.models import Budget, BudgetWindow, Lease, Price, UsageInbox
from compliance import audit
from controlplane.tenancy.limits import update_project
from controlplane.tenancy.models import ApiKey
from tests.gateway.fake_engine import CACHED_TOKENS, PROMPT_TOKENS, FakeEngine
from tests.gateway.house import NOW, House, Road, eventually
from tests.gateway.test_process import CHAT, KEY, Process, engine
from tests.gateway.wire import Connection, Response

__all__ = ["engine"]  # a fixture


def ask(gateway: Process, how: str = "tokens=5", **more: Any) -> Response:
    headers = more.pop("headers", {})
    body = {"model": "tiny", "messages": [], "user": how, "max_tokens": 20, **more}
    with Connection(gateway.port) as client:
        client.post(CHAT, body, key=KEY, headers=headers)
        return client.response()


def crowd(gateways: list[Process], requests: int, **more: Any) -> list[Response]:
    with ThreadPoolExecutor(16) as pool:
        turns = [gateways[n % len(gateways)] for n in range(requests)]
        return list(pool.map(lambda gateway: ask(gateway, **more), turns))


def budget(subject: str, subject_id: str, unit: str, amount: int, **fields: Any) -> Budget:
    made = {"window": "total", "hard": True, "name": "", "created_at": NOW, **fields}
    return Budget.objects.create(
        organization_id=_organization(), subject=subject, subject_id=subject_id, unit=unit,
        amount=amount, **made,
    )  # fmt: skip


def _organization() -> str:
    return ApiKey.objects.get().project.organization_id


class Hosts(list[Process]):
    """Two gateway hosts with two workers each. Set budgets and limits, then start them: so that
    every worker knows of them."""

    def __init__(self, folder: Path, database_port: int) -> None:
        super().__init__()
        for number in range(2):
            (folder / str(number)).mkdir()
            settings = {"STOA_GATEWAY_WORKERS": "2", "STOA_GATEWAY_HOSTS": "2"}
            settings["STOA_GATEWAY_ID"] = f"gw-{number}"
            self.append(Process(folder / str(number), database_port, **settings))

    def start(self, hosts: int = 2) -> None:
        for process in self[:hosts]:
            process.start()


@pytest.fixture
def gateways(engine: FakeEngine, road: Road, tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(tmp_path, road.port)
    yield made
    for process in made:
        if process.process is not None:
            process.end(signal.SIGKILL)


def settled(gateways: Hosts) -> None:
    """All of it is booked: the gateways have ended in good order."""
    for gateway in gateways:
        if gateway.process is not None:
            assert gateway.end(signal.SIGTERM) == 0, gateway.log


def test_a_rate_limit_holds_over_processes(gateways: Hosts) -> None:
    ApiKey.objects.update(requests_per_minute=20)  # ten for each host
    gateways.start(1)
    replies = crowd(gateways[:1], 40)
    statuses = Counter(reply.status for reply in replies)
    assert statuses.keys() == {200, 429}
    # What flows in meanwhile, beside what the bucket held: one in six seconds.
    assert statuses[200] <= 10 + 5
    refused = next(reply for reply in replies if reply.status == 429)
    error = refused.error
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 6
    passed = next(reply for reply in replies if reply.status == 200)
    assert passed.headers["x-ratelimit-limit-requests"] == "20"
    assert passed.headers["x-ratelimit-reset-requests"][-1] == "s"


def test_requests_at_once_are_bounded_over_processes(engine: FakeEngine, gateways: Hosts) -> None:
    ApiKey.objects.update(concurrency=6)  # three for each host
    gateways.start(1)
    replies = crowd(gateways[:1], 12, how="tokens=3;delay=0.1")
    assert engine.most_at_once == 3
    refused = [reply for reply in replies if reply.status == 429]
    assert refused and "requests at once" in refused[0].error["message"]


def test_parallel_calls_on_two_hosts_never_overrun_a_budget(house: House, gateways: Hosts) -> None:
    key = ApiKey.objects.get()
    row = budget("key", key.id, "calls", 30)
    gateways.start()
    replies = crowd(gateways, 80)
    statuses = Counter(reply.status for reply in replies)
    assert statuses.keys() <= {200, 429}, [reply.body for reply in replies]
    error = next(reply for reply in replies if reply.status == 429)
    assert error.error["type"] == "insufficient_quota"
    assert error.error["code"] == "budget_exceeded"
    assert error.headers["x-should-retry"] == "false"
    # Whoever is left out while the other host holds a rest gets it a moment later.
    eventually(
        lambda: all(ask(gateway).status == 429 for gateway in gateways for _ in range(3)),
    )
    settled(gateways)
    served = UsageInbox.objects.filter(charges__contains=[[row.id]], status=200).count()
    assert served == 30
    assert BudgetWindow.objects.get(budget=row).spent == 30
    assert all(lease.granted == lease.settled for lease in Lease.objects.filter(budget=row))


@pytest.mark.trap("raced-budget")
def test_of_two_hundred_calls_at_once_one_passes_a_budget_of_one(
    engine: FakeEngine, gateways: Hosts
) -> None:
    row = budget("key", ApiKey.objects.get().id, "calls", 1)
    gateways.start()
    with ThreadPoolExecutor(64) as pool:
        turns = [gateways[n % 2] for n in range(200)]
        replies = list(pool.map(ask, turns))
    assert Counter(reply.status for reply in replies) == {200: 1, 429: 199}
    assert len(engine.seen) == 1
    settled(gateways)
    assert BudgetWindow.objects.get(budget=row).spent == 1


def test_money_is_charged_exactly(engine: FakeEngine, gateways: Hosts) -> None:
    for meter, amount in (
        ("input_tokens", "0.1"),
        ("cached_tokens", "0.05"),
        ("output_tokens", "0.4"),
    ):
        Price.objects.create(
            meter=meter, amount=Decimal(amount), valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            created_at=NOW,
        )  # fmt: skip
    key = ApiKey.objects.get()
    row = budget("key", key.id, "nano_eur", 10**9)
    gateways.start()
    reply = ask(gateways[0], "tokens=7")
    fresh = PROMPT_TOKENS - CACHED_TOKENS
    nano = -(-(fresh * 100 + CACHED_TOKENS * 50 + 7 * 400) // 1)
    assert reply.headers["x-stoa-cost"] == f"0.{nano:09d}"
    streamed = ask(gateways[0], "tokens=7", stream=True)
    assert f": x-stoa-cost: 0.{nano:09d}\n".encode() in streamed.body
    settled(gateways)
    rows = UsageInbox.objects.filter(charges__contains=[[row.id]])
    assert BudgetWindow.objects.get(budget=row).spent == sum(one.nano_eur for one in rows) > 0
    for one in rows:
        ((id, window, _, unit, amount),) = one.charges
        assert (id, window, unit, amount) == (row.id, "total", "nano_eur", one.nano_eur)


def test_a_run_has_a_budget_of_its_own(gateways: Hosts) -> None:
    project = ApiKey.objects.get().project_id
    row = budget("run", project, "calls", 3, allowance=2)  # of which headers say nothing
    first = {"x-stoa-run": "research/summaries", "x-stoa-agent": "writer"}
    gateways.start(1)
    replies = [ask(gateways[0], headers=first) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    left = [reply.headers["x-stoa-run-remaining-calls"] for reply in replies[:3]]
    assert left == ["2", "1", "0"]
    ref = replies[2].headers["x-stoa-run-id"]
    (above, own) = replies[2].headers["x-stoa-budget-warning"].split(", ")
    assert own == f"run;budget={row.id};percent=100;of={ref};hard" and ref not in above
    assert "x-stoa-budget-warning" not in replies[1].headers
    # The run above it has spent it too; another run has not.
    assert ask(gateways[0], headers={"x-stoa-run": "research"}).status == 429
    other = ask(gateways[0], headers={"x-stoa-run": "other"})
    assert other.headers["x-stoa-run-remaining-calls"] == "2"
    assert other.headers["x-stoa-run-id"].startswith("run_")
    settled(gateways)
    used = {one.run.count("/"): one for one in UsageInbox.objects.exclude(run="")}
    assert used.keys() == {0, 1}
    assert "research" not in used[1].run and used[1].agent.startswith("agt_")
    assert BudgetWindow.objects.filter(budget=row).count() == 3


def test_a_budget_that_only_warns_says_so_on_answers(gateways: Hosts) -> None:
    row = budget("key", ApiKey.objects.get().id, "calls", 10, hard=False)
    gateways.start()

    def warned(gateway: Process, **how: Any) -> str | None:
        reply = ask(gateway, **how)
        assert reply.status == 200
        return reply.headers.get("x-stoa-budget-warning")

    assert warned(gateways[0]) is None
    eventually(lambda: Lease.objects.filter(budget=row).exists())
    assert [warned(gateways[0]) for _ in range(6)] == [None] * 6
    said = [warned(gateways[0]) for _ in range(2)]
    assert said == [f"key;budget={row.id};percent={spent}" for spent in (80, 90)]
    # A stream's head counts what was spent before it.
    slow = {"how": "tokens=4;delay=0.1", "stream": True}
    assert warned(gateways[0], **slow) == f"key;budget={row.id};percent=90"
    # Another host hears of it too, and nobody is refused or holds any of it.
    eventually(lambda: BudgetWindow.objects.get(budget=row).spent == 10)
    eventually(
        lambda: (warned(gateways[1]) or "").startswith(f"key;budget={row.id};percent=1"),
    )
    settled(gateways)
    assert all(lease.granted == 0 for lease in Lease.objects.filter(budget=row))


def test_a_run_makes_no_more_calls_than_its_project_lets_it(house: House, gateways: Hosts) -> None:
    policy = {"max_calls": 12, "calls_per_minute": {}, "repeats": {}}
    update_project(actor=audit.SYSTEM, project=house.project, now=NOW, run_policy=policy)
    row = Budget.objects.get()
    gateways.start()
    runs = ("night", "night/a", "night/b", "night/b/c")

    def crowd_of(run: str) -> list[Response]:
        return crowd(gateways, 8, headers={"x-stoa-run": run})

    with ThreadPoolExecutor(4) as pool:
        replies = [reply for some in pool.map(crowd_of, runs) for reply in some]
    statuses = Counter(reply.status for reply in replies)
    assert statuses.keys() <= {200, 403} and statuses[403] >= 20
    refused = next(reply for reply in replies if reply.status == 403)
    assert refused.error["code"] == "run_limit" and "more than 12 calls" in refused.error["message"]
    assert refused.headers["x-should-retry"] == "false"
    eventually(
        lambda: all(
            ask(gateways[n % 2], headers={"x-stoa-run": run}).status == 403
            for n, run in enumerate((*runs, *runs))
        ),
    )
    fresh = ask(gateways[0], headers={"x-stoa-run": "other"})
    assert fresh.headers["x-stoa-run-remaining-calls"] == "11"
    settled(gateways)
    spent = BudgetWindow.objects.filter(budget=row).values_list("spent", flat=True)
    assert sorted(spent) == [1, 12]


def test_an_answer_is_cut_to_what_the_budget_buys(engine: FakeEngine, gateways: Hosts) -> None:
    budget("key", ApiKey.objects.get().id, "tokens", 2000)
    gateways.start()
    assert ask(gateways[0], max_tokens=100_000).status == 200
    (asked,) = [seen.body["max_completion_tokens"] for seen in engine.seen]
    assert 1000 < asked < 2000
    assert "max_tokens" not in engine.seen[0].body


@pytest.mark.trap("leaked-reservation")
def test_a_killed_worker_frees_what_its_requests_held(engine: FakeEngine, gateways: Hosts) -> None:
    gateway = gateways[0]
    row = budget("key", ApiKey.objects.get().id, "calls", 12)
    gateways.start()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(_quietly, gateway) for _ in range(4)]
        eventually(lambda: sum(seen.body["user"] == SLOW for seen in engine.seen) >= 4)
        for worker in workers(gateway):
            os.kill(worker, signal.SIGKILL)
        for each in running:
            each.result(20)
    # Nothing of it was delivered, but each was a call; the rest of the budget is there again.
    eventually(lambda: BudgetWindow.objects.filter(budget=row, spent=4).exists())
    eventually(lambda: Counter(ask(gateway).status for _ in range(3))[429] == 3, within_s=30)
    settled(gateways)
    assert BudgetWindow.objects.get(budget=row).spent == 12


SLOW = "tokens=100;delay=0.2"


def _quietly(gateway: Process) -> None:
    try:
        ask(gateway, SLOW)
    except (OSError, EOFError):
        return


def workers(gateway: Process) -> list[int]:
    assert gateway.process is not None
    pid = gateway.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_outage_spends_the_leases_and_no_more(road: Road, gateways: Hosts) -> None:
    key = ApiKey.objects.get()
    row = budget("key", key.id, "calls", 40)
    gateways.start()
    assert ask(gateways[0]).status == 200
    eventually(lambda: BudgetWindow.objects.get(budget=row).spent == 1)
    leased = sum(lease.granted for lease in Lease.objects.filter(budget=row)) - 1
    road.cut()
    replies = crowd(gateways, 80)
    statuses = Counter(reply.status for reply in replies)
    assert statuses.keys() == {200, 503}
    code = next(reply for reply in replies if reply.status == 503).error["code"]
    assert code == "budget_unavailable"
    assert statuses[200] == leased  # whoever holds a lease spends it, to the last
    road.mend()
    eventually(lambda: ask(gateways[0]).status in (200, 429))
    eventually(
        lambda: all(ask(gateway).status == 429 for gateway in gateways for _ in range(3)),
        within_s=30,
    )
    settled(gateways)
    assert BudgetWindow.objects.get(budget=row).spent == 40
