"""kill -9 of the agent at moments that nobody chose: no engine twice, none for nobody."""

import itertools
import random
from collections import Counter

import pytest

from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import TestNode, kill, spec
from workers.agent import processes

DEATHS = 4


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment(plane: ControlPlane, node: TestNode, seed: int) -> None:
    draw = random.Random(seed)
    assert node.ask("join") == 0  # a token is spent by the first who shows it
    wanted: set[str] = set()
    device = itertools.count()
    for _ in range(DEATHS):
        agent = node.agent()
        for _ in range(draw.randint(1, 3)):
            if wanted and draw.random() < 0.4:
                replica_id = wanted.pop()
                if draw.random() < 0.5:
                    plane.stop(replica_id, drain_s=0.5)
                else:
                    plane.unlist(replica_id)
            else:
                wish = spec(draw.choice(["ok", "stubborn"]), device_indexes=[next(device)])
                wanted.add(wish.replica_id)
                plane.want(wish)
            _let_pass(plane, draw.randint(0, 3))
        _let_pass(plane, draw.randint(0, 12))
        kill(agent)
        _no_two_of_one(node)

    node.agent()
    plane.wait_for_applied()
    for replica_id in wanted:
        plane.wait_for(replica_id, Phase.READY)
    wait_until(lambda: _engines(node).keys() == wanted)
    _no_two_of_one(node)
    for replica_id, listed in plane.wishes.items():
        if not listed.run:
            plane.wait_for(replica_id, Phase.STOPPED)


def _let_pass(plane: ControlPlane, calls: int) -> None:
    """Wait for that many more calls of the agent: a moment as good as any."""
    until = plane.calls + calls
    wait_until(lambda: plane.calls >= until)


def _engines(node: TestNode) -> Counter[str]:
    """How many first processes of engines each replica has."""
    found = processes.marked(node.directory)
    leaders = (one for one in found if one.process.pid == one.process.session)
    return Counter(one.replica_id for one in leaders)


def _no_two_of_one(node: TestNode) -> None:
    assert all(count == 1 for count in _engines(node).values())
