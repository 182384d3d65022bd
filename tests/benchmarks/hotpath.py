"""What the gateway's own code takes for a request, on a machine that may be busy with others.

    make bench NAME=hotpath            what a short request and a streamed chunk take
    make bench NAME=hotpath ARGS=--profile   and which functions

Everything of a gateway with everything on but the kernel's part: requests go into the client's
protocol by hand, answers into the engine's. The least of many short trials is what nobody
disturbed, and calls are counted, so that two versions can be compared on a machine that is shared.
"""

import argparse
import asyncio
import cProfile
import hmac
import pstats
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import uvloop

from billing import rating
from gateway import server, table
from gateway.activity import Activity
from gateway.books import Books
from gateway.brake import RunPolicy, Steps
from gateway.budgets import Budget
from gateway.client import Client
from gateway.config import Config
from gateway.directory import Directory, Endpoint, Key, Organization, Project, RateLimits, Replica
from gateway.gate import Gate
from gateway.leases import Leases
from gateway.limits import Limits
from gateway.routes import Routes
from gateway.spool import Spool
from gateway.stops import Stops
from gateway.store import Store
from gateway.table import Table
from gateway.upstream import Upstream
from gateway.uses import Uses
from tests.benchmarks.peers.upstream import CHUNKS, MODEL, chunk, last, question, short
from tests.benchmarks.peers.wrk import Request
from tests.figures import figure
from tests.gateway.rig import HandKeeper, alone

SECRET = "sk-stoa-abcdefgh-" + "k" * 43
PEPPER = b"pepper"
TRIALS, REQUESTS = 300, 10
STREAMS = 2
WATCHED = 500
PLENTY = 10**18
_LIMITS = RateLimits(10**9, 10**9, 10**9, 10**6)


class Transport:
    """Takes what is written, and nothing happens."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written = data

    def writelines(self, pieces: list[bytes]) -> None:
        self.written = b"".join(pieces)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Bench:
    def __init__(self, folder: Path) -> None:
        config = Config(
            database_url="postgresql://nowhere",
            pepper=PEPPER,
            folder=folder,
            gateway_id="gw",
            region="eu",
            port=0,
        )
        store = Store(config.database_url)
        self.keeper, self.spool = HandKeeper(config), Spool(folder / "spool")
        self.table = Table(table.create(1 << 10), self.spool.name)
        self.books = Books(self.table)
        gate = Gate(self.table, Leases(self.books, store, "gw"), self.books)
        uses, activity = Uses(store, "gw", 5.0), Activity(store, "gw", 5.0)
        self.context = server.context(
            config,
            Limits(),
            self.keeper,
            self.spool,
            activity,
            uses,
            gate,
            Stops(store, "gw"),
            alone(),
        )
        self.directory = everything()
        self.keeper.put(self.directory)
        self.routes = Routes(self.context)

    def connect(self) -> tuple[Client, Upstream]:
        """A client, and the engine's connection that its requests will go to."""
        client = Client(self.context, self.routes.screen, self.routes.serve)
        client.connection_made(cast("asyncio.Transport", Transport()))
        replica = self.directory.every_endpoint()[0].replicas[0]
        upstream = Upstream(self.context.engines, replica.id, replica.address)
        upstream.connection_made(cast("asyncio.Transport", Transport()))
        self.context.engines.keep(upstream)
        return client, upstream

    def lend(self) -> None:
        """Leases for the budgets' counters, as PostgreSQL grants them."""
        words = self.table.words
        for slot, _ in self.table._offsets.values():
            words[slot + table.GRANTED], words[slot + table.CAP] = PLENTY // 10, PLENTY


# What asks as fast as this would be warned.
_CALM = RunPolicy(calls_per_minute=Steps(), eur_per_minute=Steps(), repeats=Steps())


def everything() -> Directory:
    key = Key(
        id="key_1",
        project_id="prj_1",
        organization_id="org_1",
        scopes=frozenset({"inference"}),
        models=frozenset({MODEL}),
        expires_at=None,
        rate_limits=_LIMITS,
    )
    endpoint = Endpoint(
        id="ep_1",
        project_id="prj_operator",
        organization_id="org_operator",
        region="eu",
        name=MODEL,
        model="org/model",
        adapters=frozenset(),
        stopped=False,
        created=1,
        replicas=(Replica("rep_1", "ep_1", "unix:/run/x"),),
        max_model_len=32_768,
        shared=True,  # priced by the token: euro budgets of all four count
    )
    since = datetime(2026, 1, 1, tzinfo=UTC)
    return Directory(
        PEPPER,
        {hmac.digest(PEPPER, SECRET.encode(), "sha256"): key},
        [endpoint],
        projects=[Project("prj_1", "org_1", _LIMITS, run_policy=_CALM)],
        organizations=[Organization("org_1", _LIMITS)],
        budgets=[
            Budget("bud_1", "organization", "org_1", "nano_eur", PLENTY, "month", "UTC", True),
            Budget("bud_2", "project", "prj_1", "nano_eur", PLENTY, "month", "UTC", True),
            Budget("bud_3", "key", "key_1", "nano_eur", PLENTY, "month", "UTC", True),
            Budget("bud_4", "run", "prj_1", "nano_eur", PLENTY, "total", "UTC", True),
        ],
        prices=[
            rating.PriceVersion(f"prc_{meter}", meter, Decimal("0.25"), since)
            for meter in ("input_tokens", "cached_tokens", "output_tokens")
        ],
        generation=1,
        read_at=time.time(),
    )


def request(*, stream: bool) -> bytes:
    headers = {"Authorization": f"Bearer {SECRET}", "x-stoa-run": "bench"}
    return Request(question("hello", stream=stream), headers).raw()


def answer() -> bytes:
    body = short()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


def pieces() -> list[bytes]:
    """A stream as an engine sends it, a piece for each chunk."""
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    framed = [f"{len(event):x}\r\n{event}\r\n" for event in [chunk()] * CHUNKS + [last()]]
    return [piece.encode() for piece in (head + framed[0], *framed[1:-1], framed[-1] + "0\r\n\r\n")]


async def measure(profile: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="stoa-hot-", dir="/tmp") as folder:
        bench = Bench(Path(folder))
        await bench.spool.start()
        client, upstream = bench.connect()
        asked, answered = request(stream=False), answer()
        streamed, events = request(stream=True), pieces()

        def one() -> None:
            client.data_received(asked)
            upstream.data_received(answered)

        def one_stream() -> None:
            client.data_received(streamed)
            for event in events:
                upstream.data_received(event)

        while not cast("Any", client.transport).written:
            # A request waits for the first lease that it lacks: one more each time.
            bench.lend()
            client, upstream = bench.connect()
            one()
        said = cast("Any", client.transport).written
        assert b" 200 " in said.partition(b"\r\n")[0], said
        short_us = await least(one, REQUESTS)
        stream_us = await least(one_stream, STREAMS)
        figure("hotpath.request_us", short_us, "us")
        figure("hotpath.stream_us", stream_us, "us")
        for name, work in (("request", one), ("stream", one_stream)):
            seen = await watch(work)
            figure(f"hotpath.{name}_calls", seen.total_calls / WATCHED, "calls")
            if profile:
                seen.sort_stats("tottime").print_stats(40)
        await bench.spool.stop()


async def least(work: Callable[[], None], times: int) -> float:
    """Microseconds of one, in the trial that was disturbed least."""
    best = float("inf")
    for _ in range(TRIALS):
        began = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, time.perf_counter() - began)
        await asyncio.sleep(0)  # the spool's turn
    return best / times * 1e6


async def watch(work: Callable[[], None]) -> Any:
    """Which functions it calls, and how often: the same on any machine."""
    profile = cProfile.Profile()
    for _ in range(WATCHED):
        profile.enable()
        work()
        profile.disable()
        await asyncio.sleep(0)
    return pstats.Stats(profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    uvloop.run(measure(parser.parse_args().profile))


if __name__ == "__main__":
    main()
