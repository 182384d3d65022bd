"""An endpoint that does what `decide` says, from zero and back, under twenty workers at once."""

from dataclasses import replace
from itertools import pairwise

from controlplane.scaling.decide import Wish
from controlplane.scaling.policy import AUTOMATIC, Policy
from tests.benchmarks.scaling.fanout import BURST, SEQS, SERVICE_S, START_S, THINK_S, twenty

WISH = Wish(max_replicas=10, policy=AUTOMATIC)


def test_undeclared_they_wait_for_one_start_and_no_more() -> None:
    played = twenty(WISH)
    # All have come at 190 s; two seconds later there is room for them all, or it is coming.
    assert played.replicas(192.0) * SEQS >= 20
    assert max(played.waits) <= START_S + 2.0
    assert sum(wait > 0 for wait in played.waits) <= 25


def test_declared_nobody_waits() -> None:
    played = twenty(replace(WISH, bursts=[BURST]))
    assert played.replicas(161.0) == 0 and played.replicas(162.0) == 8
    assert max(played.waits) == 0


def test_it_goes_down_to_zero_when_they_have_left() -> None:
    for wish in (WISH, Wish(max_replicas=10, policy=Policy(scale_to_zero_timeout_s=300))):
        played = twenty(wish)
        left = 480.0 + SERVICE_S + THINK_S
        assert played.replicas(left - 10) >= 5
        assert played.changes[-1][1] == 0
    assert played.changes[-1][0] >= 480 + 300 - THINK_S  # the fixed one waits its time out


def test_it_does_not_flap() -> None:
    played = twenty(WISH)
    counts = [count for _, count in played.changes]
    turns = [
        1
        for (one, two), (_, three) in zip(pairwise(counts), pairwise(counts[1:]), strict=False)
        if (two - one) * (three - two) < 0
    ]
    assert len(turns) <= 1, played.changes  # up, then down
