"""The audit log: events a second beside a hash chain, what an event adds to a verb, and checking.

A real PostgreSQL as `make up` starts it (fsync on), with processes that write as the web process
does. Each transaction changes a row, records its event (`audit.record`) and then works for 10 ms
more before it commits. Beside the writers the sequencer runs as the worker runs it; afterwards each
log must be contiguous and its root the one that its bodies give.

The peer, in the same run on the same PostgreSQL: the same events in a hash chain for each
organization, whose head is locked, read and moved on in the same transaction. (Its events are not
queued for the tree.)
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import IO

import psycopg

from compliance.log import merkle
from tests.benchmarks.books.stand import standing
from tests.benchmarks.peers.arithmetic import number, table
from tests.compliance.bundles import rate
from tests.figures import figure
from workers.local.installation import ROOT

WORK_S = 0.010
TABLES = """
CREATE TABLE bench_thing (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE bench_head (log text PRIMARY KEY, hash bytea NOT NULL);
GRANT ALL ON bench_thing, bench_head TO stoa_app;
"""
TREE, CHAIN = "tree", "head_lock_chain"


def owner(number_: int) -> str:
    return f"org_{number_:026d}"


# --- a writer: its own process, as many threads as it is told ---------------------------------


def transact(mode: str, log: str, work_s: float) -> None:
    from django.db import connection, transaction

    from compliance import audit

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO bench_thing (name) VALUES (%s)", ["something"])
        if mode == CHAIN:
            cursor.execute("SELECT hash FROM bench_head WHERE log = %s FOR UPDATE", [log])
        if mode:
            event = audit.record(
                actor=audit.Actor("user", "usr_01k00000000000000000000000", "session"),
                action="endpoint.scale",
                target=audit.Target("endpoint", "ep_01k00000000000000000000000"),
                log=log,
                region="eu-de-1",
                change=[audit.Change("max_replicas", 1, 4)],
                now=datetime.now(UTC),
            )
        if mode == CHAIN:
            cursor.execute(
                "UPDATE bench_head SET hash = sha256(hash || (SELECT body FROM"
                " compliance_auditevent WHERE id = %s)) WHERE log = %s",
                [event, log],
            )
        time.sleep(work_s)


def write(mode: str, threads: int, organizations: int, seconds: float, first: int) -> None:
    """Waits for a line, writes for `seconds`, says how many transactions were committed."""
    import django

    django.setup()
    counts = [0] * threads
    transact("", owner(0), 0.0)  # connects
    print("ready", flush=True)
    sys.stdin.readline()
    ends = time.monotonic() + seconds

    def run(number_: int) -> None:
        while time.monotonic() < ends:
            log = owner((first + number_ + counts[number_]) % organizations)
            transact(mode, log, WORK_S)
            counts[number_] += 1

    running = [threading.Thread(target=run, args=(each,)) for each in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    print(sum(counts), flush=True)


def sequence() -> None:
    """As the worker does, until its input ends."""
    import django

    django.setup()
    from compliance.log import sequencer

    stop = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=await_end, daemon=True).start()
    print("ready", flush=True)
    while not stop.wait(0.5):
        while sequencer.sequence(datetime.now(UTC)):
            pass


@contextmanager
def child(*arguments: object) -> Iterator[tuple[IO[str], IO[str]]]:
    command = [sys.executable, "-P", __file__, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.stdin, process.stdout


# --- the run ------------------------------------------------------------------------------------


def events_per_s(mode: str, organizations: int, options: argparse.Namespace) -> float:
    from contextlib import ExitStack

    each = options.writers // options.processes
    with ExitStack() as stack:
        if mode == TREE:
            stack.enter_context(child("--sequence"))
        writers = [
            stack.enter_context(
                child("--write", mode, each, organizations, options.seconds, number_ * each)
            )
            for number_ in range(options.processes)
        ]
        began = time.monotonic()
        for said, _ in writers:
            said.write("go\n")
            said.flush()
        done = sum(int(heard.readline()) for _, heard in writers)
        took = time.monotonic() - began
    return done / took


def check() -> int:
    """Every event has one leaf, no index is missing, and the roots are those of the bodies."""
    from compliance.log import sequencer
    from compliance.models import AuditEvent, Log, LogLeaf, LogPending

    while sequencer.sequence(datetime.now(UTC)):
        pass
    assert not LogPending.objects.exists()
    leaves = 0
    for log in Log.objects.filter(owner__startswith="org_"):
        rows = LogLeaf.objects.filter(log_id=log.id).order_by("index")
        bodies = dict(AuditEvent.objects.filter(log_id=log.owner).values_list("id", "body"))
        order = list(rows.values_list("index", "event_id"))
        assert [index for index, _ in order] == list(range(log.size))
        hashes = [merkle.leaf_hash(bytes(bodies[event])) for _, event in order]
        assert merkle.root(hashes) == merkle.Frontier.load(log.size, bytes(log.peaks)).root()
        leaves += log.size
    return leaves


def added_latency(transactions: int) -> tuple[float, float, float, float]:
    """ms: medians without and with an event, then their 95th percentiles; taken in turn."""
    took: dict[str, list[float]] = {"": [], TREE: []}
    for _ in range(transactions):
        for mode, times in took.items():
            began = time.perf_counter()
            transact(mode, owner(0), WORK_S)
            times.append((time.perf_counter() - began) * 1000)
    bare, told = took[""], took[TREE]
    return median(bare), median(told), quantiles(bare, n=20)[-1], quantiles(told, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=32, help="at once, of all processes")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--organizations", type=int, default=50, help="where it is many")
    parser.add_argument("--leaves", type=int, default=200_000, help="to verify")
    parser.add_argument("--json", action="store_true", help="the figures alone")
    parser.add_argument("--write", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--sequence", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        mode, threads, organizations, seconds, first = options.write
        return write(mode, int(threads), int(organizations), float(seconds), int(first))
    if options.sequence:
        return sequence()
    with standing() as postgres:
        measure(options, postgres.url("stoa_owner"))


def measure(options: argparse.Namespace, owner_url: str) -> None:
    import django

    django.setup()
    with psycopg.connect(owner_url) as connection:
        connection.execute(TABLES)
        for number_ in range(options.organizations):
            connection.execute("INSERT INTO bench_head VALUES (%s, '')", [owner(number_)])
    cases = {"one": 1, "many": options.organizations}
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for case, organizations in cases.items():
            for mode in (TREE, CHAIN):
                queue(owner_url, on=mode == TREE)
                rates.setdefault((case, mode), []).append(
                    events_per_s(mode, organizations, options)
                )
    # The chain's events were never queued: they are out of the tree, and of its check.
    with psycopg.connect(owner_url) as connection:
        connection.execute("ALTER TABLE compliance_auditevent ENABLE ALWAYS TRIGGER queue_leaf")
    leaves = check()
    bare, told, bare_95, told_95 = added_latency(200)
    verified = rate.leaves_per_s(options.leaves)
    if not options.json:
        rows = [
            [case, *(number(median(rates[case, mode])) for mode in (TREE, CHAIN))] for case in cases
        ]
        print(table(["organizations", "events/s", "with a head lock"], rows))
        print(f"{leaves:,} leaves in their logs without a gap, roots as the bodies give them")
    for case in cases:
        ours, theirs = median(rates[case, TREE]), median(rates[case, CHAIN])
        figure("audit.append_events_per_s", ours, "1/s", vs=CHAIN, than=theirs, case=case)
    figure("audit.added_latency_ms", told - bare, "ms", case="p50")
    figure("audit.added_latency_ms", told_95 - bare_95, "ms", case="p95")
    figure("audit.verify_leaves_per_s", verified, "1/s", vs="target", than=200_000.0)


def queue(owner_url: str, *, on: bool) -> None:
    how = "ENABLE ALWAYS" if on else "DISABLE"
    with psycopg.connect(owner_url) as connection:
        connection.execute(f"ALTER TABLE compliance_auditevent {how} TRIGGER queue_leaf")


if __name__ == "__main__":
    main()
