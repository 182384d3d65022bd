"""A replica that is told to stop answers what it was asked, and ends soon where it was nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from controlplane.fleet import wire
from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import get, wait_until
from tests.agent.node import TestNode, kill, spec
from workers.agent import kin
from workers.agent.answering import SETTLED_S, SILENT_S, Answering


def serving(plane: ControlPlane, model: str = "ok") -> wire.ReplicaReport:
    wish = spec(model)
    plane.want(wish)
    return plane.wait_for(wish.replica_id, Phase.READY)


@contextmanager
def stream(address: str, count: int) -> Iterator[Iterator[str]]:
    """The lines of a stream of `count` numbers, of which the first has come; 20 come a second."""
    transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"))
    with (
        httpx.Client(transport=transport, timeout=20) as client,
        client.stream("GET", f"http://engine/stream/{count}") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "0"
        yield lines


def test_a_stream_is_answered_to_its_end(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = serving(plane)
    with stream(ready.address, 60) as lines:
        plane.stop(ready.replica_id, drain_s=60.0)
        draining = plane.wait_for(ready.replica_id, Phase.DRAINING)
        assert draining.address == ready.address  # the node's relay carries it on
        assert list(lines)[-1] == "59"
    stopped = plane.wait_for(ready.replica_id, Phase.STOPPED)
    assert stopped.ready_s < 60 and kin.read(ready.pid) is None


def test_kill_9_of_the_agent_cuts_nothing(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    ready = serving(plane)
    with stream(ready.address, 80) as lines:
        plane.stop(ready.replica_id, drain_s=60.0)
        plane.wait_for(ready.replica_id, Phase.DRAINING)
        kill(agent)
        heard = len(plane.reports)
        node.agent()
        wait_until(lambda: len(plane.reports) > heard)
        assert plane.wait_for(ready.replica_id, Phase.DRAINING).pid == ready.pid
        assert list(lines)[-1] == "79"
    plane.wait_for(ready.replica_id, Phase.STOPPED)
    assert node.engines() == []


def test_an_idle_one_ends_long_before_its_time(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = serving(plane)
    plane.stop(ready.replica_id, drain_s=600.0)
    stopped = plane.wait_for(ready.replica_id, Phase.STOPPED)
    # And not before gateways have heard of it.
    assert stopped.phase_seconds["draining"] >= SETTLED_S


def test_a_door_that_is_closed_holds_up_nobody_inside(node: TestNode) -> None:
    node.directory.mkdir(parents=True)
    runner = node.runner()
    running = runner.start(spec())
    wait_until(lambda: runner.listening(running))
    with stream(running.socket, 30) as lines:
        runner.close(running)
        runner.close(running)
        assert not runner.listening(running)
        assert runner.busy(running)
        assert list(lines)[-1] == "29"
    wait_until(lambda: runner.busy(running) is False)
    runner.stop(running, 1.0)
    assert runner.busy(running) is None


def test_what_never_served_waits_for_nobody(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec("sick")
    plane.want(wish)
    probing = plane.wait_for(wish.replica_id, Phase.PROBING)
    get(probing.address.removeprefix("unix:"), "/work")  # the engine's own, say
    plane.stop(wish.replica_id, drain_s=600.0)
    plane.wait_for(wish.replica_id, Phase.STOPPED)


def test_the_time_is_bounded(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = serving(plane)
    get(ready.address.removeprefix("unix:"), "/work")
    plane.stop(ready.replica_id, drain_s=1.5)
    stopped = plane.wait_for(ready.replica_id, Phase.STOPPED)
    assert stopped.phase_seconds["draining"] >= 1.5 and node.engines() == []


def test_who_asks_again_may_shorten_it(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    ready = serving(plane)
    get(ready.address.removeprefix("unix:"), "/work")
    plane.stop(ready.replica_id, drain_s=600.0)
    plane.wait_for(ready.replica_id, Phase.DRAINING)
    plane.stop(ready.replica_id, drain_s=900.0)
    plane.wait_for_applied()
    kill(agent)
    node.agent()
    plane.stop(ready.replica_id, drain_s=0.0)
    plane.wait_for(ready.replica_id, Phase.STOPPED)
    assert node.engines() == []


@pytest.mark.parametrize(
    ("left_at", "says", "over"),
    [
        # Never open to gateways.
        (0.0, [(0.0, None)], [True]),
        (0.0, [(0.0, False)], [True]),
        # Idle: done when gateways have heard of it.
        (100.0, [(0.0, False), (SETTLED_S - 0.1, False), (0.1, False)], [False, False, True]),
        # One comes meanwhile.
        (
            100.0,
            [(0.5, True), (60.0, True), (SETTLED_S - 0.1, False), (0.1, False)],
            [False, False, False, True],
        ),
        # It left long ago: asleep, or its agent was away.
        (20.0, [(0.0, False)], [True]),
        # It hangs.
        (100.0, [(1.0, True), (SILENT_S - 0.1, None), (0.1, None)], [False, False, True]),
        # It was slow to say so.
        (100.0, [(14.0, None), (0.5, True), (14.0, None)], [False, False, False]),
    ],
)
def test_when_it_is_over(
    left_at: float, says: list[tuple[float, bool | None]], over: list[bool]
) -> None:
    now = 100.0
    answering = Answering(left_at, clock=lambda: now)
    found = []
    for after_s, busy in says:
        now += after_s
        found.append(answering.over(busy))
    assert found == over
