"""What it costs to reach an engine over its node's relay: `make bench NAME=relay ARGS="--quick"`.

Two gateways with everything on stand in front of one canned engine: one reaches it on its unix
socket, as on one host, the other through a relay, TLS 1.3 with a certificate on both sides. Each
round asks both, in turn, so that a ratio compares what was measured within seconds. CPU is that of
the gateway and the relay together; latency is what each adds to the engine's own at the same
arrivals, half of what the slower one carries.
"""

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers import install, openloop, wrk
from tests.benchmarks.peers.arithmetic import Findings, number, table
from tests.benchmarks.peers.ours import Ours, prepare
from tests.benchmarks.peers.processes import PeerError, Program
from tests.benchmarks.peers.relay import Relays
from tests.benchmarks.peers.things import Thing
from tests.benchmarks.peers.upstream import CHUNKS, Upstream
from tests.figures import figure
from workers.local.screen import Screen

LOOPBACK, RELAY = "loopback", "relay"
WARM_S = 2.0
COLUMNS = {
    "cpu_request_us": "CPU us/request",
    "cpu_chunk_us": "us/chunk",
    "cpu_stream_us": "us/stream",
    "rps": "requests/s",
    "added_p50_ms": "added p50 ms",
    "added_p99_ms": "p99 ms",
    "relay_request_us": "of it the relay",
    "relay_stream_us": "us/stream",
}


@dataclass
class Way:
    """How a gateway reaches the engine; `relay` is None where it is on its host."""

    thing: Thing
    relay: Program | None = None

    @property
    def name(self) -> str:
        return RELAY if self.relay else LOOPBACK

    def cpu_s(self) -> tuple[float, float]:
        """(all of it, the relay's part)"""
        relay_s = self.relay.cpu_s() if self.relay else 0.0
        return self.thing.program.cpu_s() + relay_s, relay_s


@dataclass
class Bench:
    ways: list[Way]
    folder: Path
    upstream_port: int
    found: Findings

    def load(self, way: Way, seconds: float, *, stream: bool, counts: bool = True) -> None:
        before, before_relay = way.cpu_s()
        request = way.thing.request("hello", stream=stream)
        result = wrk.run(way.thing.port, request, self.folder, seconds, way.thing.connections)
        after, after_relay = way.cpu_s()
        if not counts:
            return
        each_us = (after - before) / result.requests * 1e6
        kind = "stream" if stream else "request"
        self.found.add(f"cpu_{kind}_us", way.name, each_us)
        if way.relay:
            relay_us = (after_relay - before_relay) / result.requests * 1e6
            self.found.add(f"relay_{kind}_us", way.name, relay_us)
        if stream:
            self.found.add("cpu_chunk_us", way.name, each_us / CHUNKS)
        else:
            self.found.add("rps", way.name, result.per_s)

    def latency(self, per_s: float, seconds: float, seed: int) -> None:
        """The same arrivals to the engine itself and over both ways."""
        raw = {way.name: way.thing.request("hello").raw() for way in self.ways}
        direct = openloop.run(self.upstream_port, raw[LOOPBACK], per_s, seconds, seed=seed)
        for way in self.ways:
            found = openloop.run(way.thing.port, raw[way.name], per_s, seconds, seed=seed)
            if found.errors * 20 > found.answers:
                raise PeerError(f"{way.name}: {found.errors} errors at {per_s:.0f} requests/s")
            for percent in (50, 99):
                added = found.percentile_ms(percent) - direct.percentile_ms(percent)
                self.found.add(f"added_p{percent}_ms", way.name, added)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, each")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.seconds = 2, 2.0
    screen = Screen()
    try:
        install.system(screen)
        with tempfile.TemporaryDirectory(prefix="stoa-relay-", dir="/tmp") as folder:
            run(Path(folder), asked.rounds, asked.seconds, screen)
    except PeerError as error:
        raise SystemExit(f"no benchmark without it: {error}") from None


def run(folder: Path, rounds: int, seconds: float, screen: Screen) -> None:
    folder.chmod(0o755)  # an nginx started by root serves as nobody
    prepare()
    upstream = Upstream.start(install.NGINX, folder)
    programs = [upstream.program]
    try:
        here = Ours.build(upstream, folder, "here")
        relays = Relays.build("far", folder)
        far = Ours.build(upstream, folder, "far", address=lambda _: relays.address)
        programs.append(relay := relays.start(far.sockets))
        ways = [Way(here.start())]
        programs.append(ways[0].thing.program)
        ways.append(Way(far.start(settings=relays.gateway_settings()), relay))
        programs.append(ways[1].thing.program)
        bench = Bench(ways, folder, upstream.ports[0], Findings())
        measure(bench, rounds, seconds, screen)
    finally:
        for program in reversed(programs):
            program.stop()
    report(bench.found)


def measure(bench: Bench, rounds: int, seconds: float, screen: Screen) -> None:
    for way in bench.ways:
        for stream in (False, True):
            bench.load(way, WARM_S, stream=stream, counts=False)
    for round in range(rounds):
        for stream in (False, True):
            # Who is first in a round is second in the next.
            for way in bench.ways[:: 1 if round % 2 else -1]:
                bench.load(way, seconds, stream=stream)
        screen.say(f"round {round + 1}/{rounds}")
    per_s = min(bench.found.median("rps", way.name) or 0.0 for way in bench.ways) / 2
    for round in range(rounds):
        bench.latency(per_s, seconds, seed=round)


def report(found: Findings) -> None:
    rows = [
        [way, *(number(found.median(measure, way)) for measure in COLUMNS)]
        for way in (LOOPBACK, RELAY)
    ]
    print("\n" + table(["", *COLUMNS.values()], rows))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    for measure, unit in (
        ("cpu_request_us", "us"),
        ("cpu_stream_us", "us"),
        ("added_p50_ms", "ms"),
        ("added_p99_ms", "ms"),
    ):
        value, ratio = found.median(measure, RELAY), found.ratio(measure, RELAY, LOOPBACK)
        if value is not None and ratio is not None:
            figure(f"relay.{measure}", value, unit, vs=LOOPBACK, ratio=ratio)
    own = found.median("relay_request_us", RELAY)
    if own is not None:
        figure("relay.own_cpu_request_us", own, "us")


if __name__ == "__main__":
    main()
