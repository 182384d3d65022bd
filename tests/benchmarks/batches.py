"""What people notice of a batch on their endpoint: bursts of requests, alone and beside lines.

    make bench NAME=batches ARGS="--bursts 40"

One gateway worker, one fake engine that runs 8 sequences. A burst is 8 requests of 0.1 s at once;
lines take 2 s each and are sent as fast as they are taken.

`batches.wait_ms`  a request's wait beyond its 0.1 s; `stat`: median and worst; `case`: alone; cut,
                   as it is; cut_share_1, where lines may fill all; uncut_share_1, where such lines
                   run to their end
`batches.filled`   share of the engine's places that lines had, between bursts, in each case
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.figures import figure
from tests.gateway.rig import Rig
from tests.gateway.test_spare import narrow, send, shown

PLACES = 8
ANSWER_S = 0.1
LINE_S = 2.0
PAUSE_S = 0.4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bursts", type=int, default=40)
    bursts = parser.parse_args().bursts
    for case, lines, share, cut in (
        ("alone", 0, 0.75, True),
        ("cut", PLACES, 0.75, True),
        ("cut_share_1", PLACES, 1.0, True),
        ("uncut_share_1", PLACES, 1.0, False),
    ):
        waits, filled = measure(bursts, lines, share, cut=cut)
        for stat, value in (("median", statistics.median(waits)), ("worst", max(waits))):
            figure("batches.wait_ms", value * 1000, "ms", case=case, stat=stat)
        figure("batches.filled", statistics.mean(filled), "share", case=case)


def measure(bursts: int, lines: int, share: float, *, cut: bool) -> tuple[list[float], list[float]]:
    """Seconds that each request waited, and what lines had of the engine before each burst."""
    waits: list[float] = []
    filled = []
    with rig(share, cut=cut) as made, ThreadPoolExecutor(PLACES) as people:
        stop = threading.Event()
        senders = [threading.Thread(target=line, args=(made, stop, n)) for n in range(lines)]
        for sender in senders:
            sender.start()
        for _ in range(bursts):
            time.sleep(PAUSE_S)
            filled.append(made.server.context.spare.load("ep_tiny")[0] / PLACES)
            waits += people.map(lambda _: person(made), range(PLACES))
        stop.set()
        for sender in senders:
            sender.join()
    return waits, filled


@contextmanager
def rig(share: float, *, cut: bool) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        made = Rig(Path(folder), house_url="http://127.0.0.1:1")
        made.key()
        narrow(made, PLACES)
        spare = made.server.context.spare
        spare._share = share
        if not cut:
            spare._look = lambda: None  # type: ignore[method-assign]
        yield made
        made.stop()


def person(made: Rig) -> float:
    began = time.monotonic()
    answer = made.chat("tiny", user=f"tokens=1;delay={ANSWER_S}")
    assert answer.status == 200, answer.body
    return max(0.0, time.monotonic() - began - ANSWER_S)


def line(made: Rig, stop: threading.Event, number: int) -> None:
    attempt = 0
    while not stop.is_set():
        attempt += 1
        name = shown(f"brq_{number}-{attempt}")
        if send(made, name, f"tokens=1;delay={LINE_S}").status != 200:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
