"""A thousand nodes and ten thousand replicas: how long a sweep takes, and how soon a wish counts.

Real PostgreSQL, the ASGI server and the worker as `make up` starts them; the nodes' agents are
simulated in a process of their own, over the real API with real signatures. A sweep is timed with
all of that going on: `idle`, with one replica of a hundred to make or to stop (`changing`), and as
the first of a new process on a PostgreSQL that has just started (`cold`). A decision runs from the
commit of the wish to the commit of the replica's first transition, by PostgreSQL's own clock.
`--nodes`, `--replicas` for another size; `--statements` for the database's dearest ones.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import django
from django.db import connections

from tests.benchmarks.fleet.load import Load, Server, counted
from tests.benchmarks.fleet.stand import Agents, Stand, cpu_s, standing
from tests.benchmarks.peers.arithmetic import number, table
from tests.figures import figure

if TYPE_CHECKING:
    from tests.benchmarks.fleet.world import World

DEVICES = 12
SWEEP_EVERY_S = 2.0
REPORT_EVERY_S = 5.0
ROUNDS = 12
SETTLE_S = 180.0
CHANGING = 0.01
DECISIONS, DECISIONS_PER_S = 200, 2.0
BURST = 100
COLD_ROUNDS = 3

Swept = tuple[float, Load, int]


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# --- sweeps -----------------------------------------------------------------------------------
def sweep() -> Swept:
    """One as the worker runs it: seconds, what it asked for, actions."""
    from workers import provisioning

    began = time.perf_counter()
    with counted() as load:
        done = provisioning.sweep()
    return time.perf_counter() - began, load, done


def every_two_seconds(rounds: int, before: Callable[[int], None] = lambda _: None) -> list[Swept]:
    found = []
    due = time.monotonic()
    for turn in range(rounds):
        due = max(due + SWEEP_EVERY_S, time.monotonic())
        before(turn)
        time.sleep(max(0.0, due - time.monotonic()))
        found.append(sweep())
    return found


def changing(turn: int) -> None:
    """Without a hint: one percent more replicas are wanted, or that many fewer."""
    from controlplane.endpoints.models import Endpoint, Scaling
    from tests.benchmarks.fleet.world import EACH

    of_fleet = Endpoint.objects.filter(name__startswith="endpoint-").order_by("name")
    count = max(1, int(of_fleet.count() * CHANGING))
    some = list(of_fleet.values_list("id", flat=True)[:count])
    Endpoint.objects.filter(id__in=some).update(min_replicas=EACH if turn % 2 else 2 * EACH)
    Scaling.objects.filter(endpoint__in=some).update(look_at=None)  # as the verb does


def cold(stand: Stand) -> list[float]:
    found = []
    for _ in range(COLD_ROUNDS):
        stand.restart_postgres()
        said = subprocess.run(
            [sys.executable, "-P", __file__, "--one-sweep"],
            env=os.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(float(said.stdout.split()[-1]))
    return found


def one_sweep() -> None:
    django.setup()
    print(sweep()[0])


# --- decisions --------------------------------------------------------------------------------
_DECIDED = """
SELECT r.id, date_part('epoch', pg_xact_commit_timestamp(e.xmin)),
       date_part('epoch', min(pg_xact_commit_timestamp(t.xmin))
                 FILTER (WHERE t.to_state = 'requested')),
       date_part('epoch', min(pg_xact_commit_timestamp(t.xmin))
                 FILTER (WHERE t.to_state = 'placed')),
       date_part('epoch', min(pg_xact_commit_timestamp(t.xmin))
                 FILTER (WHERE t.to_state = 'ready'))
FROM compliance_auditevent e
JOIN endpoints_replica r ON r.endpoint_id = e.target_id
JOIN endpoints_transition t ON t.replica_id = r.id
WHERE e.action = 'endpoint.create' AND e.target_id = ANY(%s)
GROUP BY r.id, e.xmin
"""


def decided(ids: Sequence[str], agents: Agents, within_s: float = 90.0) -> dict[str, list[float]]:
    """Milliseconds from each wish to its replica's steps, once all of them are ready."""
    from django.db import connection

    deadline = time.monotonic() + within_s
    news: dict[str, float] = {}
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_DECIDED, [list(ids)])
            rows = cursor.fetchall()
        news |= agents.seen()["news"]
        whole = [row for row in rows if None not in row and row[0] in news]
        if len(whole) == len(ids):
            break
        assert time.monotonic() < deadline, f"{len(whole)} of {len(ids)} wishes came true"
        time.sleep(0.5)
    return {
        "decided": [1000 * (row[2] - row[1]) for row in whole],
        "placed": [1000 * (row[3] - row[1]) for row in whole],
        "poll answered": [1000 * (news[row[0]] - row[1]) for row in whole],
        "ready": [1000 * (row[4] - row[1]) for row in whole],
    }


def show_decisions(title: str, found: dict[str, list[float]]) -> None:
    print(f"\n{title}: ms from the commit of the wish")
    rows = [
        [
            step,
            *(number(quantile(values, share)) for share in (0.5, 0.9, 0.99)),
            number(max(values)),
        ]
        for step, values in found.items()
    ]
    print(table(["", "p50", "p90", "p99", "max"], rows), flush=True)


# --- the run ----------------------------------------------------------------------------------
def show_sweeps(case: str, found: list[Swept]) -> None:
    seconds = [one[0] for one in found]
    load = [one[1] for one in found]
    print(
        f"{case:10} {median(seconds):8.3f} {max(seconds):8.3f} "
        f"{median(one.statements for one in load):10.0f} {median(one.rows for one in load):9.0f} "
        f"{median(one.ms for one in load):9.0f} {median(one[2] for one in found):8.0f}",
        flush=True,
    )


SWEEPS = (
    f"{'sweep':10} {'median s':>8} {'max s':>8} {'statements':>10} {'rows':>9}"
    f" {'ms in db':>9} {'actions':>8}"
)


def steady(stand: Stand, agents: Agents, server: Server, seconds: float = 20.0) -> None:
    """What the agents alone cost."""
    assert stand.web.child is not None
    agents.seen()
    before, cpu, began = server.total(), cpu_s(stand.web.child.pid), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    load, cpu = server.total() - before, cpu_s(stand.web.child.pid) - cpu
    seen = agents.seen()
    ms = [1000 * one for one in seen["report_s"]]
    print(
        f"\nagents: {len(ms) / took:.0f} reports/s, p50 {median(ms):.1f} ms,"
        f" p99 {quantile(ms, 0.99):.0f} ms; {seen['polls'] / took:.0f} polls answered/s;"
        f" {len(seen['errors'])} errors {seen['errors'][:3]}\n"
        f"web process: {100 * cpu / took:.0f} % of a core; database: {load.statements / took:.0f}"
        f" statements/s, {load.rows / took:.0f} rows/s, {load.ms / took:.0f} ms/s",
        flush=True,
    )
    figure("reconcile.agents_core_share", cpu / took, "cores")
    figure("reconcile.report_p99_ms", quantile(ms, 0.99), "ms")


def settle(agents: Agents) -> None:
    """Until every agent has its list, and what reserves for the first time has done so."""
    deadline = time.monotonic() + SETTLE_S
    while agents.seen()["versions"] < agents.count:
        assert time.monotonic() < deadline, "the agents never got their lists"
        time.sleep(1)
    first = sweep()
    print(f"first sweep of all: {first[0]:.1f} s, {first[1].statements:.0f} statements", flush=True)
    while time.monotonic() < deadline and sweep()[2]:
        time.sleep(1)


def run(nodes: int, replicas: int, words: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="stoa-reconcile-") as folder,
        standing(Path(folder) / "var") as stand,
    ):
        django.setup()
        from tests.benchmarks.fleet import world as worlds

        pool, tokens = worlds.tokens(nodes)
        began = time.monotonic()
        agents = Agents(
            port=stand.installation.web_port,
            tokens=tokens,
            devices=DEVICES,
            report_every_s=REPORT_EVERY_S,
        )
        print(f"{nodes} nodes joined in {time.monotonic() - began:.0f} s", flush=True)
        server = Server(stand.superuser)
        try:
            world = worlds.build(pool, replicas)
            stand.sweeping(False)
            settle(agents)
            play(stand, agents, server, world, words)
        finally:
            server.close()
            agents.stop()
            connections.close_all()


def play(stand: Stand, agents: Agents, server: Server, world: "World", words: bool) -> None:
    server.reset()
    steady(stand, agents, server)
    print(f"\n{SWEEPS}", flush=True)
    cases = {"idle": every_two_seconds(ROUNDS)}
    show_sweeps("idle", cases["idle"])
    cases["changing"] = every_two_seconds(ROUNDS, changing)
    show_sweeps("changing", cases["changing"])
    if words:
        for row in server.dearest(12):
            print(*row)
    stand.sweeping(True)
    decided([world.create(DECISIONS + BURST).id], agents)  # the worker is up
    ids, due = [], time.monotonic()
    for turn in range(DECISIONS):
        due += 1 / DECISIONS_PER_S
        time.sleep(max(0.0, due - time.monotonic()))
        ids.append(world.create(turn).id)
    one_by_one = decided(ids, agents)
    show_decisions(f"{DECISIONS} wishes, {DECISIONS_PER_S:g} a second", one_by_one)
    ids = [world.create(DECISIONS + turn).id for turn in range(BURST)]
    burst = decided(ids, agents)
    show_decisions(f"{BURST} wishes at once", burst)
    stand.sweeping(False)
    first = cold(stand)
    print(f"\ncold sweeps: {' '.join(f'{one:.2f}' for one in first)} s\n")
    for case, found in cases.items():
        figure("reconcile.sweep_s", median(one[0] for one in found), "s", case=case)
        figure(
            "reconcile.sweep_statements", median(one[1].statements for one in found), "", case=case
        )
    figure("reconcile.sweep_s", median(first), "s", case="cold")
    figure("reconcile.decision_p99_ms", quantile(one_by_one["decided"], 0.99), "ms", case="steady")
    figure("reconcile.decision_p99_ms", quantile(burst["decided"], 0.99), "ms", case="burst")
    figure(
        "reconcile.poll_p99_ms", quantile(one_by_one["poll answered"], 0.99), "ms", case="steady"
    )
    figure("reconcile.poll_p99_ms", quantile(burst["poll answered"], 0.99), "ms", case="burst")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--statements", action="store_true", help="the database's dearest ones")
    parser.add_argument("--one-sweep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_sweep:
        one_sweep()
    else:
        run(arguments.nodes, arguments.replicas, arguments.statements)


if __name__ == "__main__":
    main()
