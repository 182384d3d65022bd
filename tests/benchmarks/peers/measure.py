"""What is measured, round by round, with all things running side by side."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.benchmarks.peers import idle, openloop, wrk
from tests.benchmarks.peers.arithmetic import Findings
from tests.benchmarks.peers.processes import PeerError
from tests.benchmarks.peers.things import Thing
from tests.benchmarks.peers.upstream import CHUNKS, IDLE
from tests.benchmarks.peers.wrk import Request

SHORT = "hello"
WARM_S = 2.0
STREAMS_WITHIN_S = 60.0
SETTLE_S = 1.0

Say = Callable[[str], None]


@dataclass
class Bench:
    things: list[Thing]
    folder: Path
    say: Say
    upstream_port: int
    found: Findings = field(default_factory=Findings)

    def warm(self) -> None:
        for stream in (False, True):
            self._each(partial(self._load, stream=stream, seconds=WARM_S))

    # --- CPU and throughput -------------------------------------------------------------
    def load(self, rounds: int, seconds: float) -> None:
        """CPU of short requests and of streams, and throughput."""
        for number in range(1, rounds + 1):
            for stream in (False, True):
                self._each(partial(self._note, stream=stream, seconds=seconds))
            ours = [self._told(thing, number) for thing in self.things]
            self.say(f"round {number}/{rounds}: " + ", ".join(ours))

    def _told(self, thing: Thing, number: int) -> str:
        found = self.found.values["cpu_request_us"][thing.name][number - 1 :]
        return f"{thing.name} {found[0]:.1f} us" if found else f"{thing.name} -"

    def _note(self, thing: Thing, stream: bool, seconds: float) -> None:
        result, cpu_s = self._load(thing, stream, seconds)
        kind = "stream" if stream else "request"
        self.found.add(f"cpu_{kind}_us", thing.name, cpu_s / result.requests * 1e6)
        if stream:
            self.found.add("cpu_chunk_us", thing.name, cpu_s / result.requests / CHUNKS * 1e6)
        else:
            self.found.add("rps", thing.name, result.per_s)
            self.found.add("busy", thing.name, cpu_s / result.seconds * 100)

    def _load(self, thing: Thing, stream: bool, seconds: float) -> tuple[wrk.Result, float]:
        request = thing.request(SHORT, stream=stream)
        return cpu_of(thing, request, self.folder, max(seconds, thing.least_s))

    # --- latency ------------------------------------------------------------------------
    def latency(self, rounds: int, seconds: float) -> None:
        """What each adds at half of its own throughput, in open loop."""
        for number in range(1, rounds + 1):
            self._each(partial(self._added, number=number, seconds=seconds))
            self.say(f"latency {number}/{rounds}")

    def _added(self, thing: Thing, number: int, seconds: float) -> None:
        top = self.found.median("rps", thing.name)
        if top is None:
            return
        raw = thing.request(SHORT).raw()
        long_s = max(seconds, thing.least_s)
        # The same arrivals for both, so that the difference is the thing's.
        direct = openloop.run(self.upstream_port, raw, top / 2, long_s, seed=number)
        through = openloop.run(thing.port, raw, top / 2, long_s, seed=number)
        if through.errors * 20 > through.answers:
            self.say(f"{thing.name}: {through.errors} errors at {top / 2:.0f} requests/s")
            return
        for percent in (50, 99):
            added = through.percentile_ms(percent) - direct.percentile_ms(percent)
            self.found.add(f"added_p{percent}_ms", thing.name, added)

    # --- memory -------------------------------------------------------------------------
    def idle_streams(self, count: int) -> None:
        self._each(partial(self._idle, count=count))

    def _idle(self, thing: Thing, count: int) -> None:
        before = thing.program.rss_bytes()
        request = thing.request(IDLE, stream=True).raw()
        try:
            streams = idle.hold(thing.port, request, count, STREAMS_WITHIN_S)
        except (idle.TooSlow, OSError) as error:
            self.say(f"{thing.name}: {count} idle streams: {error}")
            return
        try:
            time.sleep(SETTLE_S)
            grown = thing.program.rss_bytes() - before
        finally:
            streams.close()
        time.sleep(SETTLE_S)
        self.found.add("idle_stream_kb", thing.name, grown / count / 1024)
        self.say(f"{thing.name}: {grown / count / 1024:.1f} KB for each of {count} idle streams")

    # --- all of them --------------------------------------------------------------------
    def _each(self, work: Callable[[Thing], object]) -> None:
        """With each thing that still runs; one that fails is left out from then on."""
        for thing in list(self.things):
            try:
                if ended := thing.program.ended():
                    raise PeerError(ended)
                work(thing)
            except (PeerError, OSError) as error:
                self.found.missing[thing.name] = str(error)
                self.say(f"{thing.name} is left out: {error}")
                self.things.remove(thing)
                thing.program.stop()


def cpu_of(
    thing: Thing, request: Request, folder: Path, seconds: float
) -> tuple[wrk.Result, float]:
    """The load's result and the seconds of CPU that the thing spent on it. Raises PeerError."""
    before = thing.program.cpu_s()
    result = wrk.run(thing.port, request, folder, seconds, thing.connections)
    return result, thing.program.cpu_s() - before
