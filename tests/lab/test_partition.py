"""Hosts are cut off and die under traffic: it goes on, nothing runs twice, nothing is billed twice.

Leases are 20 times shorter than in production, and the engines count words; the agents, the relays
and the rest are real. `make bench NAME=partition ARGS=--hosts` plays it with vLLM, as it is.
"""

import tempfile
import time
from pathlib import Path

import pytest

from tests.lab.marks import needs_lab, reaches_hosts
from tests.lab.partition import play
from tests.lab.site import site

pytestmark = [needs_lab, reaches_hosts, pytest.mark.xdist_group("lab")]

SCALE = 0.05  # a lease of 1 s, given up 15 s after it
# Who waits for a host that falls silent is answered by another after 15 s.
WAITED_S = 60.0
SETTINGS = {
    "STOA_TIME_SCALE": str(SCALE),
    "STOA_SWEEP_EVERY_S": "1",
    "STOA_METER_EVERY_S": "0.5",
}


def test_traffic_and_books_outlive_cuts_and_deaths() -> None:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}")

    with (
        tempfile.TemporaryDirectory(prefix="stoa-apart-", dir="/tmp") as folder,
        site(Path(folder), **SETTINGS) as made,
        play(made, SCALE, say) as story,
    ):
        story.short_cut()
        story.gateway_apart()
        story.long_cut_and_a_death()
        books = story.close()
        assert story.traffic.failures == []
        assert max(answer.seconds for answer in story.traffic.answers) < WAITED_S
        assert not story.twins
        assert made.engines() == []
        assert story.double_billed_s(books) == 0
        served = story.ready_s()
        assert len(served) == 4  # two at first, and one for each that was lost
        assert books.seconds.keys() <= served.keys()
