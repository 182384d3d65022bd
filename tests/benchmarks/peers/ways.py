"""What it costs to reach an engine over its node's relay, beside the same engine on one host.

Two gateways with everything on stand in front of the canned engine: one reaches it on its unix
socket, as on one host, the other through a relay, TLS 1.3 with a certificate on both sides. Each
round asks both, in turn, so that a ratio compares what was measured within seconds. CPU is that of
the gateway and the relay together; latency is what each adds to the engine's own at the same
arrivals, half of what the slower one carries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.benchmarks.peers import openloop, wrk
from tests.benchmarks.peers.arithmetic import Findings, number, table
from tests.benchmarks.peers.measure import SHORT, WARM_S, Bench
from tests.benchmarks.peers.ours import Ours
from tests.benchmarks.peers.processes import PeerError, Program
from tests.benchmarks.peers.relay import Relays
from tests.benchmarks.peers.things import Thing
from tests.benchmarks.peers.upstream import CHUNKS
from tests.figures import figure

LOOPBACK, RELAY = "loopback", "relay"
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
FIGURES = {
    "cpu_request_us": "us",
    "cpu_stream_us": "us",
    "added_p50_ms": "ms",
    "added_p99_ms": "ms",
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


def measure(bench: Bench, here: Ours, rounds: int, seconds: float) -> None:
    """Where it fails, the rest of the benchmark is told all the same."""
    try:
        _measure(bench, here, rounds, seconds)
    except PeerError as error:
        bench.found.missing[RELAY] = str(error)
        bench.say(f"{RELAY}: {error}")


def _measure(bench: Bench, here: Ours, rounds: int, seconds: float) -> None:
    with _running(here) as ways:
        for way in ways:
            for stream in (False, True):
                _load(bench, way, WARM_S, stream=stream)
        for round_ in range(1, rounds + 1):
            for stream in (False, True):
                # Who is first in a round is second in the next.
                for way in ways[:: 1 if round_ % 2 else -1]:
                    _note(bench, way, seconds, stream=stream)
            bench.say(f"relay {round_}/{rounds}")
        per_s = min(bench.found.median("rps", way.name) or 0.0 for way in ways) / 2
        for round_ in range(1, rounds + 1):
            _latency(bench, ways, per_s, seconds, seed=round_)


@contextmanager
def _running(here: Ours) -> Iterator[list[Way]]:
    programs: list[Program] = []
    try:
        relays = Relays.build("far", here.folder)
        far = Ours.build(here.upstream, here.folder, "far", address=lambda _: relays.address)
        programs.append(relay := relays.start(far.sockets))
        ways = [Way(here.start())]
        programs.append(ways[0].thing.program)
        ways.append(Way(far.start(settings=relays.gateway_settings()), relay))
        programs.append(ways[1].thing.program)
        yield ways
    finally:
        for program in reversed(programs):
            program.stop()


# --- a round --------------------------------------------------------------------------------
def _load(bench: Bench, way: Way, seconds: float, *, stream: bool) -> wrk.Result:
    request = way.thing.request(SHORT, stream=stream)
    return wrk.run(way.thing.port, request, bench.folder, seconds, way.thing.connections)


def _note(bench: Bench, way: Way, seconds: float, *, stream: bool) -> None:
    before, before_relay = way.cpu_s()
    result = _load(bench, way, seconds, stream=stream)
    after, after_relay = way.cpu_s()
    each_us = (after - before) / result.requests * 1e6
    kind = "stream" if stream else "request"
    bench.found.add(f"cpu_{kind}_us", way.name, each_us)
    if way.relay:
        relay_us = (after_relay - before_relay) / result.requests * 1e6
        bench.found.add(f"relay_{kind}_us", way.name, relay_us)
    if stream:
        bench.found.add("cpu_chunk_us", way.name, each_us / CHUNKS)
    else:
        bench.found.add("rps", way.name, result.per_s)


def _latency(bench: Bench, ways: list[Way], per_s: float, seconds: float, seed: int) -> None:
    """The same arrivals to the engine itself and over both ways."""
    raw = {way.name: way.thing.request(SHORT).raw() for way in ways}
    direct = openloop.run(bench.upstream_port, raw[LOOPBACK], per_s, seconds, seed=seed)
    for way in ways[:: 1 if seed % 2 else -1]:
        found = openloop.run(way.thing.port, raw[way.name], per_s, seconds, seed=seed)
        if found.errors * 20 > found.answers:
            raise PeerError(f"{way.name}: {found.errors} errors at {per_s:.0f} requests/s")
        for percent in (50, 99):
            added = found.percentile_ms(percent) - direct.percentile_ms(percent)
            bench.found.add(f"added_p{percent}_ms", way.name, added)


# --- what is said ------------------------------------------------------------------------
def report(found: Findings) -> None:
    if found.median("cpu_request_us", RELAY) is None:
        return
    rows = [
        [way, *(number(found.median(measure, way)) for measure in COLUMNS)]
        for way in (LOOPBACK, RELAY)
    ]
    print("\nan engine on the gateway's host, and over its node's relay")
    print(table(["", *COLUMNS.values()], rows))


def figures(found: Findings) -> None:
    for measure, unit in FIGURES.items():
        value, ratio = found.median(measure, RELAY), found.ratio(measure, RELAY, LOOPBACK)
        if value is not None and ratio is not None:
            figure(f"relay.{measure}", value, unit, vs=LOOPBACK, ratio=ratio)
    own = found.median("relay_request_us", RELAY)
    if own is not None:
        figure("relay.own_cpu_request_us", own, "us")
