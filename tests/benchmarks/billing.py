"""Usage from the spool to the ledger: how many events a second, and how much memory.

A real PostgreSQL as `make up` starts it, with requests of many organizations in its inbox as
gateways ship them, three events each (input, cached input, output), of three hours. Timed is what
the worker does: `book` makes usage of them (sums by the hour with it), `accrue` rates the hours and
posts them to the ledger. `rate` reads the events out again and prices each by itself, as who
recomputes an invoice from raw usage does; all three must come to the same money.

Peers, in the same run on the same PostgreSQL: the very same rows by COPY into a table without an
index or a check (what no honest way can beat), and by the obvious way: a transaction, an INSERT
and an UPDATE of a sum for each event.

The end of a month is a part of its own, with a month of usage of companies in four countries: its
hours are posted, then processes side by side make invoices, one of which is killed with SIGKILL in
the middle and begins again. In the end each company has one invoice of all that it used, once.
"""

import argparse
import itertools
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import django
import psycopg

from tests.benchmarks.books.closing import Closed
from tests.benchmarks.books.peers import bare_copy, one_by_one
from tests.benchmarks.books.stand import standing
from tests.benchmarks.books.timing import Timed, peak_mb, timed
from tests.benchmarks.peers.arithmetic import number, table
from tests.figures import figure

if TYPE_CHECKING:
    from tests.benchmarks.books.world import World

START = datetime(2026, 11, 3, 9, tzinfo=UTC)
BATCH = 10_000  # requests of one transaction, as the worker books them
EACH = 3  # events of a request


# --- the way of the house -----------------------------------------------------------------------
def book(world: "World") -> tuple[int, float]:
    """Requests that became usage; peak memory when a fifth of them had."""
    from workers import metering

    done, early = 0, 0.0
    now = world.end + timedelta(hours=1)
    while booked := metering.book_requests(now, limit=BATCH):
        done += booked
        if not early and done * 5 >= world.requests:
            early = peak_mb()
    return done, early or peak_mb()


def accrue(world: "World") -> int:
    """Hours of accounts that were posted."""
    from billing import services

    return services.accrue_due(world.end + timedelta(hours=1))


def rate() -> tuple[int, Fraction]:
    """Every event at its price, one by one: how many that were, and what they owe, unrounded."""
    from django.db import connection, transaction

    from billing import rating
    from billing.pricing import prices

    count, owed = 0, Fraction(0)
    versions = prices.versions()
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(
            "SELECT account_id, basis, meter, quantity, at, device_kind, share"
            " FROM billing_usageevent ORDER BY account_id, basis"
        )
        for (account, basis), rows in itertools.groupby(cursor, key=lambda row: row[:2]):
            counted = itertools.count()
            quantities = (rating.Quantity(*row[2:]) for row, _ in zip(rows, counted, strict=False))
            lines = rating.rate(quantities, versions, "EUR", account)
            count += next(counted)
            if basis == "charge":
                owed += sum((line.exact for line in lines), Fraction(0))
    return count, owed


def check(world: "World", events: int, owed: Fraction, posted: int) -> None:
    """Nothing was lost or counted twice on any of the three ways."""
    from django.db import connection

    from billing.books.ledger import balance
    from billing.meters import rollup
    from billing.models import Meter, UsageInbox

    assert events == EACH * world.requests, f"{events} events of {world.requests} requests"
    assert not UsageInbox.objects.filter(booked_at=None).exists()
    assert rollup.verify(START, world.end + rollup.HOUR) == []
    ledger = -sum(Fraction(balance(f"revenue:{meter}")) for meter in Meter.values)
    # Each hour of an account, meter and price was rounded once, to nine decimals.
    assert abs(ledger - owed) <= Fraction(posted * len(Meter.values), 10**9)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM billing_usagehour")
        ((rows,),) = cursor.fetchall()
    print(
        f"{events:,} events, {rows:,} sums, {posted:,} postings: {float(owed):,.6f} EUR", flush=True
    )


# --- parts --------------------------------------------------------------------------------------
def ingest(arguments: argparse.Namespace) -> None:
    """From the spool to rated and posted, and rating by itself."""
    with standing() as postgres:
        django.setup()
        from django.db import connections

        from tests.benchmarks.books.world import World

        superuser = postgres.url("postgres")
        world = World(arguments.organizations, START)
        world.deliver(arguments.events // EACH)
        with psycopg.connect(superuser, autocommit=True) as admin:
            admin.execute("VACUUM ANALYZE")
        print(f"{world.requests:,} requests of {arguments.organizations} organizations", flush=True)
        with timed() as booking:
            requests, early = book(world)
        with timed() as accruing:
            posted = accrue(world)
        with timed() as rating:
            events, owed = rate()
        peak = peak_mb()
        check(world, events, owed, posted)
        assert requests == world.requests
        bare = bare_copy(superuser, events)
        naive = one_by_one(superuser)
        connections.close_all()
    both = booking + accruing
    steps = {"book": booking, "accrue": accruing, "book and accrue": both, "rate": rating}
    rows = [[name, *map(number, (events / t.wall, t.wall, t.here, t.there))]
            for name, t in steps.items()]  # fmt: skip
    rows += [["COPY, bare table", number(bare), "", "", ""]]
    rows += [["one by one", number(naive), "", "", ""]]
    print(table(["", "events/s", "s", "cpu s here", "cpu s database"], rows), flush=True)
    name = "billing.ingest_events_per_s"
    figure(name, events / both.wall, "events/s", vs="COPY into a bare table", than=bare)
    figure(name, events / both.wall, "events/s", vs="one by one", than=naive, case="naive")
    figure("billing.rate_events_per_s", events / rating.wall, "events/s")
    figure("billing.rate_events_per_s", events / accruing.wall, "events/s", case="by sums, posted")
    figure("billing.peak_rss_mb", peak, "MiB", vs="after a fifth of the events", than=early)


def month_end(arguments: argparse.Namespace) -> None:
    """A month's usage posted and made into invoices, with a kill in the middle."""
    with standing() as postgres:
        django.setup()
        logging.getLogger("httpx").setLevel(logging.WARNING)
        from django.db import connections

        from billing import services
        from tests.benchmarks.books import closing, month
        from tests.billing.vat.fake_vies import State, serving
        from tests.month import customers

        vies, began = State(), time.monotonic()
        companies = customers.found(arguments.month_organizations, month.BORN, 7, vies)
        month.price_tokens()
        born = time.monotonic()
        events = month.fill(companies, arguments.month_events)
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
            admin.execute("VACUUM ANALYZE")
        filled = time.monotonic()
        print(
            f"{len(companies):,} companies in {born - began:.0f} s, {events:,} events in"
            f" {filled - born:.0f} s",
            flush=True,
        )
        with timed() as accruing:
            hours = services.accrue_due(month.CLOSED)
        print(f"{hours:,} hours posted in {accruing.wall:.0f} s", flush=True)
        with serving(vies) as url:
            done = closing.close(arguments.month_workers, len(companies), url)
        owed = month.check(companies)
        connections.close_all()
    _tell_month(events, len(companies), accruing, done)
    print(f"{owed and float(owed):,.2f} EUR billed, each second and token once", flush=True)


def _tell_month(events: int, companies: int, accruing: Timed, done: Closed) -> None:
    cpu = sum(one["cpu_s"] for one in done.said)
    issued = sum(one["outcomes"].get("final", 0) for one in done.said)
    statements = sum(one["statements"] for one in done.said)
    rows = [
        ["hours to the ledger", number(accruing.wall), number(accruing.here), ""],
        ["invoices", number(done.seconds), number(cpu), number(statements / issued)],
    ]
    print(f"killed after {done.killed_after} accounts of its own, and begun again")
    print(table(["", "s", "cpu s here", "statements an invoice"], rows), flush=True)
    tell = partial(
        figure,
        events=str(events),
        organizations=str(companies),
        processes=str(len(done.said)),
    )
    name = "billing.month_end_s"
    tell(name, accruing.wall + done.seconds, "s")
    tell(name, done.seconds, "s", case="invoices alone")
    largest = max(done.said, key=lambda one: float(one["peak_mb"]))
    tell(
        "billing.peak_rss_mb",
        largest["peak_mb"],
        "MiB",
        vs="after a fifth of the accounts",
        than=largest["early_mb"],
        case="month end",
    )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "ingest": ingest,
    "month_end": month_end,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=600_000)
    parser.add_argument("--organizations", type=int, default=1000)
    parser.add_argument("--month-events", type=int, default=1_000_000)
    parser.add_argument("--month-organizations", type=int, default=200)
    parser.add_argument("--month-workers", type=int, default=2, help="processes that close it")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--part", choices=[*PARTS], help="only this one")
    only.add_argument(
        "--month-only", dest="part", action="store_const", const="month_end", help="as --part does"
    )
    arguments = parser.parse_args()
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(arguments)


if __name__ == "__main__":
    main()
