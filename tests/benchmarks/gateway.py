"""The gateway beside others, in one run: `make bench NAME=gateway ARGS="--quick"`.

One canned engine stands behind nginx as a bare reverse proxy, vllm-router, LiteLLM, Portkey's
gateway, and ours with everything on. CPU is that of all processes of a thing, from /proc, over
the requests that wrk got answered; all things run side by side, and each round asks each of them,
so that a ratio compares what was measured within seconds. Latency is what a thing adds to the
engine's own at the same rate, half of its throughput, in open loop. Peers are installed into
the cache beside the engines; one that cannot be had is named with its reason.

Two parts have programs of their own: what may not grow (`--growth`), and what a node's relay adds
(`--relay`).
"""

import argparse
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.peers import growth, install, ways
from tests.benchmarks.peers.arithmetic import Findings, number, table
from tests.benchmarks.peers.measure import Bench
from tests.benchmarks.peers.ours import Ours, prepare
from tests.benchmarks.peers.processes import PeerError
from tests.benchmarks.peers.things import PEERS
from tests.benchmarks.peers.upstream import Upstream
from tests.figures import figure
from workers.local.screen import Screen

MEASURES = {
    "cpu_request_us": "us",
    "cpu_stream_us": "us",
    "rps": "1/s",
    "added_p50_ms": "ms",
    "added_p99_ms": "ms",
}
COLUMNS = {
    "cpu_request_us": "CPU us/request",
    "cpu_chunk_us": "us/chunk",
    "cpu_stream_us": "us/stream",
    "rps": "requests/s",
    "busy": "% of a core",
    "added_p50_ms": "added p50 ms",
    "added_p99_ms": "p99 ms",
    "idle_stream_kb": "KB/idle stream",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, each")
    parser.add_argument("--streams", type=int, default=5000, help="that stay idle")
    parser.add_argument("--only", help=f"peers, with commas between: {','.join(PEERS)}")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--growth", action="store_true", help="nothing but growth")
    alone.add_argument("--relay", action="store_true", help="nothing but the relay's cost")
    parser.add_argument("--quick", action="store_true", help="one short round, no growth")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.seconds = 1, 2.0
    peers = asked.only.split(",") if asked.only else list(PEERS)
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    _many_files()
    screen = Screen()
    try:
        install.system(screen)
        with tempfile.TemporaryDirectory(prefix="stoa-bench-", dir="/tmp") as folder:
            run(asked, peers, Path(folder), screen)
    except PeerError as error:
        raise SystemExit(f"no benchmark without it: {error}") from None


def run(asked: argparse.Namespace, peers: list[str], folder: Path, screen: Screen) -> None:
    folder.chmod(0o755)  # an nginx started by root serves as nobody
    upstream = Upstream.start(install.NGINX, folder)
    bench = Bench([], folder, screen.say, upstream.ports[0])
    try:
        prepare()
        ours = Ours.build(upstream, folder, "bench")
        versions: dict[str, str] = {}
        if not (asked.growth or asked.relay):
            with running(bench, peers, ours, screen) as versions:
                bench.warm()
                bench.load(asked.rounds, asked.seconds)
                bench.latency(asked.rounds, asked.seconds)
                bench.idle_streams(asked.streams)
        if not asked.growth:
            ways.measure(bench, ours, asked.rounds, asked.seconds)
        if not (asked.quick or asked.relay):
            growth.measure(bench, ours, 2 * asked.rounds, asked.seconds / 2)
    finally:
        upstream.stop()
    report(bench.found, versions)


@contextmanager
def running(bench: Bench, peers: list[str], ours: Ours, screen: Screen) -> Iterator[dict[str, str]]:
    """All things, started; yields their versions."""
    versions: dict[str, str] = {}
    try:
        for name in peers:
            try:
                bench.things.append(PEERS[name](ours.upstream, bench.folder, screen))
            except PeerError as error:
                bench.found.missing[name] = str(error)
                screen.say(f"{name} is left out: {error}")
        bench.things.append(ours.start())
        versions |= {thing.name: thing.version for thing in bench.things}
        screen.say("side by side: " + ", ".join(f"{n} {v}" for n, v in versions.items()))
        yield versions
    finally:
        for thing in bench.things:
            thing.program.stop()


# --- what is said ------------------------------------------------------------------------
def report(found: Findings, versions: dict[str, str]) -> None:
    things = [name for name in dict.fromkeys(("nginx", "ours", *PEERS)) if name in versions]
    others = [name for name in things if name != "ours"]
    if things:
        beside(found, versions, things, others)
    ways.report(found)
    for what, few, many in growth.GROWTH:
        if (ratio := found.ratio(what, many, few)) is not None:
            cpu = [number(found.median(what, which)) for which in (few, many)]
            rates = [number(found.median(f"{what}_rps", which)) for which in (few, many)]
            print(
                f"{what}: {cpu[0]} us with {few}, {cpu[1]} with {many} ({ratio:.3f} times)", end=""
            )
            print(f"; {rates[0]} and {rates[1]} requests/s")
    for name, why in found.missing.items():
        print(f"{name} is missing: {why}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    figures(found, others)
    ways.figures(found)


def beside(found: Findings, versions: dict[str, str], things: list[str], others: list[str]) -> None:
    rows = []
    for name in things:
        cells = [number(found.median(measure, name)) for measure in COLUMNS]
        rows.append([f"{name} {versions[name]}", *cells])
    print("\n" + table(["", *COLUMNS.values()], rows))
    print("\nours as so many times of theirs, the median of the rounds' ratios")
    ratios = [
        [measure, *(number(found.ratio(measure, "ours", name)) for name in others)]
        for measure in (*MEASURES, "idle_stream_kb")
    ]
    print(table(["", *others], ratios))


def figures(found: Findings, others: list[str]) -> None:
    for measure, unit in MEASURES.items():
        ours = found.median(measure, "ours")
        for name in others:
            if ours is not None and (ratio := found.ratio(measure, "ours", name)) is not None:
                figure(f"gateway.{measure}", ours, unit, vs=name, ratio=ratio)
    if (idle := found.median("idle_stream_kb", "ours")) is not None:
        figure("gateway.idle_stream_kb", idle, "KB")
    if (keys := found.ratio("keys", "many", "few")) is not None:
        figure("gateway.keys_100k", keys, "ratio")
    if (endpoints := found.ratio("endpoints", "many", "few")) is not None:
        figure("gateway.endpoints_1000", endpoints, "ratio")
    if (workers := found.ratio("workers_rps", "two", "one")) is not None:
        figure("gateway.workers_2", workers, "ratio")


def _many_files() -> None:
    """Each idle stream is three files in this run, in three programs."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
