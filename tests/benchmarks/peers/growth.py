"""What may not grow with the number of keys, endpoints and workers.

Gateways of three regions side by side, with few of everything, with many keys and with many
endpoints. A directory is loaded, and everything in it has been used, before anything is measured;
a round asks each of them for a moment, every second round the other way round. Two processes that
differ in nothing may differ by a tenth, each for as long as it lives (where its memory lies), so
there are some of each, and the rounds take turns among them.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.peers.measure import Bench, cpu_of
from tests.benchmarks.peers.ours import Ours
from tests.benchmarks.peers.things import Thing
from tests.benchmarks.peers.wrk import Request

KEYS, FEW_KEYS = 100_000, 10
ENDPOINTS = 1_000
# What is measured, and the two whose ratio tells. `keys`: all of them in turn, so that nothing
# that a key needs is in a cache of the processor; `keys_drawn`: as often as is usual, which is
# that the nth of them asks a nth as often as the first; `keys_one`: the same one again and again.
GROWTH = (
    ("keys", "few", "many"),
    ("keys_drawn", "few", "many"),
    ("keys_one", "few", "many"),
    ("endpoints", "few", "many"),
    ("workers", "one", "two"),
)
_DRAWN = 200_000
_WARM_S = 1.0  # connections to a thousand engines were closed while the others had their turn

_COPIES = 3

Trials = dict[tuple[str, str], tuple[list[Thing], Request]]


def measure(bench: Bench, few: Ours, rounds: int, seconds: float) -> None:
    with _running(bench, few) as trials:
        for round_ in range(1, rounds + 1):
            for what, which in list(trials)[:: 1 if round_ % 2 else -1]:
                things, request = trials[what, which]
                thing = things[round_ % len(things)]
                cpu_of(thing, request, bench.folder, _WARM_S)
                result, cpu_s = cpu_of(thing, request, bench.folder, seconds)
                bench.found.add(what, which, cpu_s / result.requests * 1e6)
                bench.found.add(f"{what}_rps", which, result.per_s)
            bench.say(f"growth {round_}/{rounds}: {_told(bench, round_)}")


def _told(bench: Bench, round_: int) -> str:
    found = bench.found.values
    pairs = [
        (what, found[what][few][round_ - 1], found[what][many][round_ - 1])
        for what, few, many in GROWTH
    ]
    return ", ".join(f"{what} {few:.0f} to {many:.0f} us" for what, few, many in pairs)


@contextmanager
def _running(bench: Bench, few: Ours) -> Iterator[Trials]:
    bench.say(f"making {KEYS:,} keys and {ENDPOINTS:,} endpoints")
    few.add_keys(FEW_KEYS)
    few.add_endpoints(1)
    keys = Ours.build(few.upstream, few.folder, "bench-keys")
    keys.add_keys(KEYS)
    endpoints = Ours.build(few.upstream, few.folder, "bench-endpoints")
    endpoints.add_endpoints(ENDPOINTS)
    things: list[Thing] = []

    def start(ours: Ours, copies: int, workers: int = 1) -> list[Thing]:
        made = []
        for _ in range(copies):
            made.append(ours.start(workers=workers))
            things.append(made[-1])
        return made

    try:
        one, two = start(few, _COPIES), start(few, 1, workers=2)
        with_keys, with_endpoints = start(keys, _COPIES), start(endpoints, _COPIES)
        ten, all_keys = few.by_keys(range(FEW_KEYS)), keys.by_keys(range(KEYS))
        trials = {
            ("keys", "few"): (one, ten),
            ("keys", "many"): (with_keys, all_keys),
            ("keys_drawn", "few"): (one, few.by_keys(_drawn(FEW_KEYS))),
            ("keys_drawn", "many"): (with_keys, keys.by_keys(_drawn(KEYS))),
            ("keys_one", "few"): (one, few.request("hello")),
            ("keys_one", "many"): (with_keys, keys.request("hello")),
            ("endpoints", "few"): (one, few.by_endpoints(1)),
            ("endpoints", "many"): (with_endpoints, endpoints.by_endpoints(ENDPOINTS)),
            ("workers", "one"): (one, few.request("hello")),
            ("workers", "two"): (two, few.request("hello")),
        }
        for thing in with_keys:
            _use_all(thing, all_keys, bench.folder)
        yield trials
    finally:
        for thing in things:
            thing.program.stop()


def _use_all(thing: Thing, request: Request, folder: Path) -> None:
    """Every key once: begins at the first, and ends when all had their turn."""
    done, at_once_s = 0, 5.0
    while done < KEYS:
        done += cpu_of(thing, request.beginning(done), folder, at_once_s)[0].requests


def _drawn(among: int) -> list[int]:
    """Numbers below `among`, the nth of them with the weight 1/n; the same in each run."""
    weights = [1 / (number + 1) for number in range(among)]
    return random.Random(among).choices(range(among), weights, k=_DRAWN)
