"""A node or the database falls silent: nothing is billed, lost or doubled, and all ends well.

Leases are 20 times shorter than in production; `make bench NAME=partition` takes them as they are.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.partition import Partition
from tests.flows.stoa import installation, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

SCALE = 0.05  # a lease of 1 s, given up 15 s after it
# The sweep sets how long a gap of our own has to be to be seen as one: here 5 s.
SETTINGS = {
    "STOA_TIME_SCALE": str(SCALE),
    "STOA_SWEEP_EVERY_S": "1",
    "STOA_AGENT_DEVICES": "cpu:2",
}
GAP_S = 5.0
METERED_S = 2.5  # whatever is to be billed is billed within this


@pytest.fixture(scope="module")
def partition(engine_environment: object) -> Iterator[Partition]:
    with (
        tempfile.TemporaryDirectory(prefix="stoa-apart-", dir="/tmp") as folder,
        installation(Path(folder) / "var", **SETTINGS) as stoa,
        Partition(stoa, SCALE, print) as partition,
    ):
        yield partition


def test_a_silence_within_the_grace(partition: Partition) -> None:
    """Nobody is moved, nobody pays, nobody is told a half-truth; then it is as it was."""
    replica_id = partition.await_ready()
    engine = partition.stoa.socket(replica_id)
    stream = partition.client.stream("hello", tokens=1900)
    stream.read(20)
    with partition.silence() as since:
        unreachable_at, _ = partition.await_unreachable(replica_id, since)
        before = stream.got.output_tokens
        assert stream.read(50).output_tokens > before  # its engine never fell silent
        refused = partition.refused()
        assert (refused.status, refused.error["code"]) == (503, "endpoint_starting")
        assert refused.error.keys() == {"message", "type", "param", "code"}
        assert int(refused.retry_after) > 0
        waiting = partition.held()
        partition.linger(METERED_S)
        assert [(r["id"], r["state"]) for r in partition.live()] == [(replica_id, "unreachable")]
        assert partition.overbilled_s() == 0  # a late meter may still add what was heard of it
        assert partition.stoa.engines() == [replica_id]
        assert waiting.waits
    adopted = partition.await_arrival(replica_id, "ready", unreachable_at, 30)
    assert adopted["reason"] == "adopted"
    assert stream.read().end == "complete"
    assert waiting.got().status == 200
    partition.await_booked([stream.got, waiting.got()])
    assert partition.await_ready() == replica_id
    assert partition.stoa.socket(replica_id) == engine
    assert not partition.twins
    assert partition.overbilled_s() == 0


def test_a_database_that_does_not_answer(partition: Partition) -> None:
    """Streams go on, requests are served from what the gateway knows, and booked once after."""
    replica_id = partition.await_ready()
    gots = partition.serve_without_database(GAP_S + 1.5)
    assert len(gots) > 2
    assert {got.end for got in gots} == {"complete"}
    partition.await_booked(gots)
    # The silence was ours, so no node is blamed for it.
    assert partition.await_ready() == replica_id
    assert partition.overbilled_s() == 0


def test_a_silence_beyond_the_grace(partition: Partition) -> None:
    """It is given up, and made anew when the node is back; the old engine goes."""
    replica_id = partition.await_ready()
    with partition.silence() as since:
        partition.await_unreachable(replica_id, since)
        assert partition.await_lost(replica_id, since) >= partition.lost_after_s - 1
        until(lambda: [r["state"] for r in partition.live()] == ["requested"], what="another")
        assert partition.stoa.engines() == [replica_id]
    successor = partition.await_ready()
    assert successor != replica_id
    assert partition.client.ask("hello").status == 200
    assert not partition.twins
    assert partition.await_billed(replica_id) > 0
    assert partition.overbilled_s() == 0
