"""Whatever happens, in whatever order: a hard budget is never overspent and nothing leaks.

Two hosts with two processes each, over the real shared table and the real PostgreSQL functions.
Every step that can be interrupted is one: an ask that is lost, answered late, or whose answer is
lost; a process or a whole host that dies with requests in flight; usage that is shipped late, or
twice; a day that ends; an amount that is edited while leases are out.
"""

import itertools
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.models import Budget as Row
from billing.models import BudgetWindow, Lease
from gateway import table
from gateway.books import Books, Line, Reservation, Short, Worst
from gateway.budgets import Budget
from gateway.leases import Leases, Sent, Wanted
from gateway.prices import TokenPrices
from gateway.records import Charge
from gateway.store import Store
from gateway.table import Table
from gateway.usage import Usage

AMOUNT = 300
# Shrinking a failure of this size takes minutes: set STOA_SHRINK=1 to see the smallest.
PHASES = tuple(Phase) if os.environ.get("STOA_SHRINK") else (Phase.explicit, Phase.generate)
# Two days before a night of Berlin that lacks an hour, and five before a month ends.
NOW_US = int(datetime(2026, 3, 27, 12, tzinfo=UTC).timestamp() * 1_000_000)
BUDGETS = (
    ("day", "day", "Europe/Berlin", 0),
    ("month", "month", "America/Los_Angeles", 20),
    ("total", "total", "UTC", 50),
)
DAY_US = 86_400_000_000
_number = itertools.count()


@dataclass
class Process:
    name: str
    books: Books
    leases: Leases


@dataclass
class Host:
    """A gateway host: its memory, its processes, and its spool of closed requests."""

    name: str
    memory: int = -1
    epoch: str = ""
    processes: list[Process] = field(default_factory=list)
    spool: list[tuple[str, tuple[Charge, ...]]] = field(default_factory=list)
    older: list[str] = field(default_factory=list)  # epochs whose charges are still in the spool


@dataclass
class Flight:
    host: Host
    process: Process
    reserved: Reservation
    worst: Worst


class BudgetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_us = NOW_US
        self.spent: dict[tuple[str, str], int] = {}  # what requests truly used
        self.most: dict[tuple[str, str], int] = {}  # the largest amount that was in force
        self.flights: list[Flight] = []
        self.answers: list[tuple[Process, dict[int, Sent], list[tuple[Any, ...]]]] = []
        self.asks: list[tuple[Host, Process, dict[int, Sent], str]] = []
        self.numbers = itertools.count()
        self.run = next(_number)
        self.budgets: list[Budget] = []
        for name, window, zone, allowance in BUDGETS:
            row = Row.objects.create(
                organization_id="org_x", subject="key", subject_id=f"key_{self.run}",
                name="", unit="tokens", amount=AMOUNT, allowance=allowance, window=window,
                time_zone=zone, hard=True, created_at=datetime.now(UTC),
            )  # fmt: skip
            self.budgets.append(
                Budget(row.id, "key", name, "tokens", AMOUNT, window, zone, True, allowance)
            )
        self.hosts = [Host(f"gw-{self.run}-{n}") for n in range(2)]
        for host in self.hosts:
            self.boot(host)

    def boot(self, host: Host) -> None:
        host.memory = table.create(64)
        host.epoch = table.epoch(host.memory)
        host.processes = [self.process(host) for _ in range(2)]

    def process(self, host: Host) -> Process:
        name = f"p{next(_number)}"
        books = Books(Table(host.memory, name))
        leases = Leases(books, Store("postgresql://nowhere"), host.name, 2, lambda: self.now_us)
        return Process(name, books, leases)

    def lines(self, process: Process) -> list[Line]:
        lines, _ = process.books.lines([(budget, "") for budget in self.budgets], self.now_us)
        for line in lines:
            key = line.budget.id, line.window
            limit = line.budget.amount + line.budget.allowance
            self.most[key] = max(limit, self.most.get(key, 0))
        return lines

    # --- what gateways do -----------------------------------------------------------------
    @rule(
        host=st.integers(0, 1),
        process=st.integers(0, 1),
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
        patient=st.booleans(),
    )
    def requests(self, host: int, process: int, sizes: list[int], patient: bool) -> None:
        """Several; where a lease is short, a patient one asks for more and tries again."""
        for size in sizes:
            if not self.request(host, process, size) and patient:
                self.ask(host, process, 2 * size, "answered")
                self.request(host, process, size)

    def request(self, host: int, process: int, size: int) -> bool:
        where = self.hosts[host]
        one = where.processes[process]
        worst = Worst(size, size, 1, TokenPrices())
        with one.books.table.locked():
            found = one.books.reserve(self.lines(one), worst, self.now_us)
        if isinstance(found, Short):
            return False
        self.flights.append(Flight(where, one, found, worst))
        return True

    @rule(
        host=st.integers(0, 1),
        process=st.integers(0, 1),
        need=st.one_of(st.just(0), st.integers(1, 120)),
        fate=st.sampled_from(("answered", "answered", "slow", "late", "answer lost", "lost")),
    )
    def ask(self, host: int, process: int, need: int, fate: str) -> None:
        """For `need` more, or to give back what is not used."""
        where = self.hosts[host]
        one = where.processes[process]
        asks = {
            line.name: Wanted(line, need=need, more=need > 0, waiting=[])
            for line in self.lines(one)
        }
        sent, rows = one.leases.compose(asks)
        if fate == "lost":
            return
        if fate == "slow":
            self.asks.append((where, one, sent, rows))
            return
        answers = billing_lease(where, rows)
        if fate == "answered":
            one.leases.apply(sent, answers)
        elif fate == "late":
            self.answers.append((one, sent, answers))

    @precondition(lambda self: self.asks)
    @rule(at=st.integers(0, 9))
    def slow_ask(self, at: int) -> None:
        """It reaches PostgreSQL only now, maybe after one that was composed later."""
        where, one, sent, rows = self.asks.pop(at % len(self.asks))
        one.leases.apply(sent, billing_lease(where, rows))

    @precondition(lambda self: self.answers)
    @rule(at=st.integers(0, 9))
    def late_answer(self, at: int) -> None:
        one, sent, answers = self.answers.pop(at % len(self.answers))
        one.leases.apply(sent, answers)

    @precondition(lambda self: self.flights)
    @rule(at=st.integers(0, 9), share=st.sampled_from((0.0, 0.3, 1.0, 1.0)))
    def end(self, at: int, share: float) -> None:
        flight = self.flights.pop(at % len(self.flights))
        used = self.use(flight, share)
        with flight.process.books.table.locked():
            charges = flight.process.books.settle(flight.reserved, used, 0)
        self.close(flight.host, charges)

    def use(self, flight: Flight, share: float) -> Usage:
        used = Usage(int(flight.worst.prompt * share), 0, int(flight.worst.output * share))
        for line in flight.reserved.lines:
            key = line.budget.id, line.window
            self.spent[key] = self.spent.get(key, 0) + used.input + used.output
        return used

    def close(self, host: Host, charges: tuple[Charge, ...]) -> None:
        if charges:
            host.spool.append((f"req-{self.run}-{next(self.numbers)}", charges))

    @rule(host=st.integers(0, 1), share=st.floats(0, 1), twice=st.booleans())
    def ship(self, host: int, share: float, twice: bool) -> None:
        where = self.hosts[host]
        count = int(len(where.spool) * share + 0.5)
        for _ in range(1 + twice):
            insert(where, where.spool[:count])
        del where.spool[:count]
        if not where.spool and where.older:
            with connection.cursor() as cursor:
                close = "SELECT billing_close_leases(%s, %s)"
                cursor.execute(close, [where.name, where.older])
            where.older = []

    # --- what goes wrong --------------------------------------------------------------------
    @rule(host=st.integers(0, 1), process=st.integers(0, 1), share=st.floats(0, 1))
    def process_dies(self, host: int, process: int, share: float) -> None:
        where = self.hosts[host]
        dead = where.processes[process]
        born = where.processes[process] = self.process(where)
        cut_off = self.cut(dead, share)
        with born.books.table.locked():
            for charges in cut_off:
                born.books.charge(charges, self.now_us)
        born.books.table.release(dead.name)

    @rule(host=st.integers(0, 1), share=st.floats(0, 1))
    def host_dies(self, host: int, share: float) -> None:
        """Its memory is gone, its disk is not."""
        where = self.hosts[host]
        for dead in where.processes:
            self.cut(dead, share)
        where.older.append(where.epoch)
        self.boot(where)

    def cut(self, dead: Process, share: float) -> list[tuple[Charge, ...]]:
        """What it had delivered of its requests stands in the spool of its host."""
        self.answers = [answer for answer in self.answers if answer[0] is not dead]
        self.asks = [ask for ask in self.asks if ask[1] is not dead]
        found = []
        for flight in [flight for flight in self.flights if flight.process is dead]:
            self.flights.remove(flight)
            used = self.use(flight, share)
            amount = used.input + used.output
            charges = tuple(
                Charge(one.budget_id, one.window, one.lease, one.unit, amount)
                for one in flight.reserved.charges()
                if amount
            )
            self.close(flight.host, charges)
            found.append(charges)
        return found

    @rule()
    def day_ends(self) -> None:
        self.now_us += DAY_US

    @rule(which=st.integers(0, len(BUDGETS) - 1), amount=st.integers(0, 600))
    def edit(self, which: int, amount: int) -> None:
        old = self.budgets[which]
        Row.objects.filter(id=old.id).update(amount=amount)
        fields = {name: getattr(old, name) for name in old.__struct_fields__}
        self.budgets[which] = Budget(**{**fields, "amount": amount})

    # --- what must hold ---------------------------------------------------------------------
    @invariant()
    def never_overspent(self) -> None:
        for key, spent in self.spent.items():
            assert spent <= self.most[key], key

    @invariant()
    def never_granted_more_than_there_is(self) -> None:
        for window in BudgetWindow.objects.filter(budget__in=[b.id for b in self.budgets]):
            leases = Lease.objects.filter(
                budget=window.budget_id, window=window.window, closed_at=None
            )
            out = sum(max(0, lease.granted - lease.settled) for lease in leases)
            key = window.budget_id, window.window
            assert window.spent + out <= self.most[key], key

    @invariant()
    def no_counter_has_more_than_was_granted(self) -> None:
        for host in self.hosts:
            granted = {lease.id: lease.granted for lease in Lease.objects.filter(holder=host.name)}
            one = host.processes[0]
            words = one.books.table.words
            for line in self.lines(one):
                with one.books.table.locked():
                    slot = one.books.table.find(line.name, line.ends_us, self.now_us)
                assert words[slot + table.GRANTED] <= granted.get(words[slot + table.LEASE], 0)

    def teardown(self) -> None:
        """Everything ends in good order: then nothing is held, out, or counted wrongly."""
        while self.flights:
            self.end(0, 0.5)
        self.answers.clear()
        self.asks.clear()
        for number, host in enumerate(self.hosts):
            self.ask(number, 0, 0, "answered")
            words = host.processes[0].books.table.words
            for line in self.lines(host.processes[0]):
                with host.processes[0].books.table.locked():
                    slot = host.processes[0].books.table.find(line.name, line.ends_us, self.now_us)
                assert words[slot + table.HELD] == 0
            self.ship(number, 1.0, twice=False)
        rows = BudgetWindow.objects.filter(budget__in=[b.id for b in self.budgets])
        booked = {(row.budget_id, row.window): row.spent for row in rows if row.spent}
        assert booked == {key: spent for key, spent in self.spent.items() if spent}
        for host in self.hosts:
            # Each has given back what it does not use; only days that are over keep theirs.
            for lease in Lease.objects.filter(holder=host.name, closed_at=None):
                if lease.window in {line.window for line in self.lines(host.processes[0])}:
                    assert lease.granted <= lease.settled, lease


def billing_lease(host: Host, rows: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT lease, seq, granted, cap, others FROM billing_lease(%s, %s, 2, %s)",
            [host.name, host.epoch, rows],
        )
        answers: list[tuple[Any, ...]] = cursor.fetchall()
    return answers


def insert(host: Host, closes: list[tuple[str, tuple[Charge, ...]]]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_usageinbox (request_id, gateway_id, key_id, project_id,"
            " endpoint_id, replica_id, operation, opened_at, closed_at, status, finish,"
            " counted_by, input_tokens, cached_tokens, output_tokens, charges)"
            " SELECT r ->> 0, %s, 'key', 'prj', 'ep', 'rep', 'chat', now(), now(), 200,"
            " 'complete', 'engine', 0, 0, 0, r -> 1 FROM jsonb_array_elements(%s::jsonb) r"
            " ON CONFLICT DO NOTHING",
            [host.name, json.dumps([[id, list(map(tuple_of, some))] for id, some in closes])],
        )


def tuple_of(charge: Charge) -> list[Any]:
    return [charge.budget_id, charge.window, charge.lease, charge.unit, charge.amount]


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.trap("raced-budget", "leaked-reservation", "window-reset")
def test_no_interleaving_overspends_a_budget_or_leaks_a_reservation() -> None:
    run_state_machine_as_test(
        BudgetMachine,
        settings=settings(
            max_examples=30,
            stateful_step_count=50,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- Interleavings that chance finds too seldom ---------------------------------------------
@pytest.fixture
def machine(transactional_db: None) -> BudgetMachine:
    return BudgetMachine()


def granted(machine: BudgetMachine, host: int) -> list[int]:
    one = machine.hosts[host].processes[0]
    slots = []
    for line in machine.lines(one):
        with one.books.table.locked():
            slots.append(one.books.table.find(line.name, line.ends_us, machine.now_us))
    return [one.books.table.words[slot + table.GRANTED] for slot in slots]


def test_an_answer_that_comes_after_a_later_ask_is_not_taken(machine: BudgetMachine) -> None:
    machine.ask(0, 0, 50, "late")
    machine.ask(0, 1, 0, "answered")
    machine.late_answer(0)
    assert set(granted(machine, 0)) == {0}
    machine.no_counter_has_more_than_was_granted()


def test_an_ask_that_arrives_after_a_later_one_changes_nothing(machine: BudgetMachine) -> None:
    machine.ask(0, 0, 10, "answered")
    machine.ask(0, 0, 0, "slow")
    machine.ask(0, 1, 100, "answered")
    assert min(granted(machine, 0)) >= 100
    machine.slow_ask(0)
    machine.no_counter_has_more_than_was_granted()
    # And the other host finds all of it taken that the first may spend.
    machine.ask(1, 0, AMOUNT, "answered")
    machine.never_granted_more_than_there_is()


def test_a_lost_answer_lets_nobody_else_spend_what_is_out(machine: BudgetMachine) -> None:
    """An edit down and up again, while the holder's counter still stands at the old amount."""
    machine.ask(0, 0, AMOUNT, "answered")
    machine.edit(0, 10)
    machine.ask(0, 0, 20, "answer lost")
    machine.edit(0, AMOUNT)
    machine.ask(1, 0, AMOUNT, "answered")
    machine.never_granted_more_than_there_is()
    assert granted(machine, 0)[0] + granted(machine, 1)[0] <= AMOUNT


@pytest.mark.trap("window-reset")
def test_a_month_ends_with_requests_under_way(machine: BudgetMachine) -> None:
    """They are settled in the month in which they began; the next one is whole from its start."""
    machine.budgets = [month] = [one for one in machine.budgets if one.window == "month"]
    limit = month.amount + month.allowance
    machine.now_us = us(3, 31, 23, 59)
    for host in (0, 1):
        machine.ask(host, 0, limit // 2, "answered")
        for number in (0, 1):
            machine.requests(host, number, [10, 20], patient=False)
    assert len(machine.flights) == 8
    machine.ask(0, 1, 0, "slow")  # what is asked for in March arrives in April
    machine.now_us = us(4, 1, 0, 1)
    machine.ask(0, 0, limit, "answered")
    assert granted(machine, 0) == [limit]  # nothing of it is missing
    assert machine.request(0, 0, month.amount // 2)
    while machine.flights:
        machine.end(0, 1.0)
    machine.slow_ask(0)
    machine.teardown()
    spent = BudgetWindow.objects.filter(budget=month.id).values_list("window", "spent")
    assert dict(spent) == {"2026-03": 2 * 4 * (10 + 20), "2026-04": month.amount}
    # March is settled too: of what was granted then, nothing is held by anybody.
    machine.now_us = us(3, 31, 23, 59)
    for process in (one.processes[0] for one in machine.hosts):
        (line,) = machine.lines(process)
        with process.books.table.locked():
            slot = process.books.table.find(line.name, line.ends_us, machine.now_us)
        assert process.books.table.words[slot + table.HELD] == 0


def us(month: int, day: int, hour: int, minute: int) -> int:
    """A time of 2026 in Los Angeles, in microseconds."""
    moment = datetime(2026, month, day, hour, minute, tzinfo=ZoneInfo("America/Los_Angeles"))
    return int(moment.timestamp() * 1_000_000)


def test_what_is_given_back_is_the_other_hosts(machine: BudgetMachine) -> None:
    machine.ask(0, 0, AMOUNT, "answered")
    assert machine.request(0, 0, 40)
    machine.ask(1, 0, 100, "answered")
    assert granted(machine, 1)[0] == 0
    machine.ask(0, 0, 0, "answered")
    machine.ask(1, 0, 100, "answered")
    assert granted(machine, 0)[0] == 80
    assert granted(machine, 1)[0] >= 100


def test_a_lease_ends_with_its_hosts_memory_once_the_spool_is_settled(
    machine: BudgetMachine,
) -> None:
    machine.ask(0, 0, AMOUNT, "answered")
    assert machine.request(0, 0, 40)
    machine.host_dies(0, 1.0)
    machine.ask(1, 0, 100, "answered")
    assert granted(machine, 1)[0] == 0  # its spool may hold any of it
    machine.ship(0, 1.0, twice=True)
    machine.ask(1, 0, 100, "answered")
    assert granted(machine, 1)[0] >= 100
    machine.teardown()
