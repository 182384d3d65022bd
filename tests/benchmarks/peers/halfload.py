"""Minutes at half load on one gateway with everything on: does it stay as it is?

Short requests in open loop at half of what it manages, some streams beside them, and streams
that are left before their end. Its memory, files and spool are looked at after every turn, and
every request has to arrive in PostgreSQL once.
"""

import argparse
import contextlib
import os
import stat
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from django.db import connection, transaction

from tests.benchmarks.peers import idle, install, openloop, wrk
from tests.benchmarks.peers.arithmetic import slope
from tests.benchmarks.peers.ours import Ours, prepare
from tests.benchmarks.peers.processes import family
from tests.benchmarks.peers.things import Thing
from tests.benchmarks.peers.upstream import IDLE, Upstream
from tests.figures import figure
from workers.local.screen import Screen

TURN_S = 10.0
STREAMS_PER_S = 10.0
LEFT = 20  # streams in each turn that are left
LEFT_WITHIN_S = 60.0
TOP_S = 5.0
BOOKED_WITHIN_S = 60.0


@dataclass
class Watch:
    """What was seen of the gateway; the first third is warming up."""

    rss: list[tuple[float, float]] = field(default_factory=list)  # hour, KiB
    files: list[int] = field(default_factory=list)
    spool: list[int] = field(default_factory=list)  # bytes
    p99_ms: list[float] = field(default_factory=list)
    asked: int = 0
    errors: int = 0
    booked: int = 0

    def look(self, thing: Thing, spool: Path, hour: float) -> None:
        self.rss.append((hour, thing.program.rss_bytes() / 1024))
        pids = family([thing.program.process.pid])
        self.files.append(sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids))
        self.spool.append(size_of(spool))

    def kb_per_hour(self) -> float:
        return slope(self.rss[len(self.rss) // 3 :])


def size_of(folder: Path) -> int:
    """Bytes on disk of all files below; some go while they are counted."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            total += 0 if stat.S_ISDIR(found.st_mode) else found.st_blocks * 512
    return total


def run(minutes: float, turn_s: float = TURN_S) -> None:
    """Raises PeerError when there is no nginx or wrk, or the gateway does not start."""
    install.system(Screen())
    with tempfile.TemporaryDirectory(prefix="stoa-half-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # an nginx started by root serves as nobody
        upstream = Upstream.start(install.NGINX, folder)
        prepare()
        ours = Ours.build(upstream, folder, "soak")
        thing = ours.start()
        try:
            top = wrk.run(thing.port, thing.request("hello"), folder, TOP_S, thing.connections)
            _settled()
            _take_books()
            print(f"half load is {top.per_s / 2:.0f} requests/s", flush=True)
            report(soak(thing, ours.gateway_folder / "spool", top.per_s / 2, minutes, turn_s))
        finally:
            thing.program.stop()
            upstream.stop()


def soak(thing: Thing, spool: Path, per_s: float, minutes: float, turn_s: float) -> Watch:
    watch, began = Watch(), time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        turn = 0
        while time.monotonic() - began < minutes * 60:
            turn += 1
            streams = pool.submit(_ask, thing, True, STREAMS_PER_S, turn_s, turn)
            left = pool.submit(_leave, thing)
            short = _ask(thing, False, per_s, turn_s, turn)
            for found in (short, streams.result()):
                watch.asked += found.answers + found.errors
                watch.errors += found.errors
            watch.asked += left.result()
            watch.p99_ms.append(short.percentile_ms(99))
            watch.look(thing, spool, (time.monotonic() - began) / 3600)
            watch.booked += _take_books()
            _, rss = watch.rss[-1]
            print(
                f"{(time.monotonic() - began) / 60:6.1f} min  {watch.asked:,} asked,"
                f" {watch.errors} errors, {rss:,.0f} KiB, {watch.files[-1]} files,"
                f" spool {watch.spool[-1] >> 10:,} KiB, p99 {watch.p99_ms[-1]:.1f} ms",
                flush=True,
            )
    deadline = time.monotonic() + BOOKED_WITHIN_S
    while watch.booked < watch.asked and time.monotonic() < deadline:
        time.sleep(0.5)
        watch.booked += _take_books()
    return watch


def _ask(thing: Thing, stream: bool, per_s: float, seconds: float, seed: int) -> openloop.Latencies:
    raw = thing.request("hello", stream=stream).raw()
    return openloop.run(thing.port, raw, per_s, seconds, connections=64, seed=seed)


def _leave(thing: Thing) -> int:
    """Streams that end before they are over; how many."""
    raw = thing.request(IDLE, stream=True).raw()
    streams = idle.hold(thing.port, raw, LEFT, LEFT_WITHIN_S)
    count = len(streams.open)
    streams.close()
    return count


def _take_books() -> int:
    """How many requests have arrived since; they are thrown away, for they fill a disk."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE billing_usageinbox IN ACCESS EXCLUSIVE MODE")
        cursor.execute("SELECT count(*) FROM billing_usageinbox")
        count: int = cursor.fetchone()[0]
        cursor.execute("TRUNCATE billing_usageinbox CASCADE")
    return count


def _settled() -> None:
    """Until nothing has arrived for a moment."""
    while _take_books():
        time.sleep(2.0)


def report(watch: Watch) -> None:
    first = len(watch.rss) // 3
    rss = watch.rss[first][1]
    figure("soak.half_load_requests", watch.asked, "requests")
    figure(
        "soak.half_load_rss_slope_kb_per_hour",
        watch.kb_per_hour(),
        "KiB/h",
        vs="rss_kb",
        than=rss,
    )
    grown = watch.files[-1] - watch.files[first]
    figure("soak.half_load_files_grown", grown, "files", vs="files", than=watch.files[first])
    figure("soak.half_load_spool_max_kb", max(watch.spool) / 1024, "KiB")
    figure("soak.half_load_p99_ms", sorted(watch.p99_ms)[len(watch.p99_ms) // 2], "ms")
    figure("soak.half_load_wrong_answers", watch.errors, "requests")
    figure("soak.half_load_unbooked", watch.asked - watch.booked, "requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    run(parser.parse_args().minutes)


if __name__ == "__main__":
    main()
