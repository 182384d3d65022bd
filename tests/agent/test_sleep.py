"""An engine that sleeps and wakes, by what its agent is told; and the tier of each start."""

import json

import pytest

from controlplane.fleet import engines, wire
from controlplane.fleet.wire import Phase, StartTier
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import get, wait_until
from tests.agent.node import TestNode, kill, kill_engine, spec


def told(address: str) -> list[str]:
    """What the engine at that address was told."""
    found: list[str] = json.loads(get(address.removeprefix("unix:"), "/slept").text)
    return found


def awake(plane: ControlPlane, node: TestNode, **changes: object) -> wire.ReplicaReport:
    wish = spec(**{"may_sleep": True, **changes})  # type: ignore[arg-type]
    plane.want(wish)
    return plane.wait_for(wish.replica_id, Phase.READY)


def test_it_sleeps_and_wakes(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = awake(plane, node)
    assert ready.can_sleep and ready.start_tier is StartTier.WARM
    plane.sleep(ready.replica_id)
    plane.wait_for(ready.replica_id, Phase.ASLEEP)
    wait_until(lambda: told(ready.address) == ["/sleep?level=1&mode=wait"])
    asleep = plane.wait_for(ready.replica_id, Phase.ASLEEP)
    # Not reached, not paid for, and still there.
    heard = len(plane.reports)
    wait_until(lambda: len(plane.reports) >= heard + 3)
    later = plane.wait_for(ready.replica_id, Phase.ASLEEP)
    assert (later.address, later.pid, later.ready_s) == ("", ready.pid, asleep.ready_s)
    plane.sleep(ready.replica_id, False)
    again = plane.wait_for(ready.replica_id, Phase.READY)
    assert told(again.address)[1:] == ["/wake_up"]
    assert (again.pid, again.address) == (ready.pid, ready.address)
    assert again.start_tier is StartTier.WAKE and again.can_sleep
    assert set(again.phase_seconds) == {"starting", "probing"}
    assert node.engines() == [ready.pid]


def test_what_it_answers_is_answered_first(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = awake(plane, node)
    socket = ready.address.removeprefix("unix:")
    get(socket, "/work")
    plane.sleep(ready.replica_id)
    plane.wait_for(ready.replica_id, Phase.ASLEEP)
    heard = len(plane.reports)
    wait_until(lambda: len(plane.reports) >= heard + 5)
    assert told(ready.address) == []
    get(socket, "/rest")
    wait_until(lambda: told(ready.address) == ["/sleep?level=1&mode=wait"])


def test_one_that_refuses_serves_on(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = awake(plane, node, model="insomniac")
    assert ready.can_sleep
    plane.sleep(ready.replica_id)

    def back() -> bool:
        found = plane.replica(ready.replica_id)
        return found is not None and found.phase is Phase.READY and not found.can_sleep

    wait_until(back)
    assert (plane.wait_for(ready.replica_id, Phase.READY)).pid == ready.pid


def test_one_that_cannot_sleep_is_never_put_to_sleep(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    ready = awake(plane, node, may_sleep=False)
    plane.sleep(ready.replica_id)
    plane.wait_for_applied()
    heard = len(plane.reports)
    wait_until(lambda: len(plane.reports) >= heard + 3)
    assert plane.wait_for(ready.replica_id, Phase.READY).ready_s > ready.ready_s
    assert told(ready.address) == []


def test_it_sleeps_on_over_a_restart_of_the_agent(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    ready = awake(plane, node)
    plane.sleep(ready.replica_id)
    wait_until(lambda: len(told(ready.address)) == 1)
    kill(agent)
    heard = len(plane.reports)
    node.agent()
    wait_until(lambda: len(plane.reports) > heard)
    assert plane.wait_for(ready.replica_id, Phase.ASLEEP).pid == ready.pid
    plane.sleep(ready.replica_id, False)
    again = plane.wait_for(ready.replica_id, Phase.READY)
    assert again.start_tier is StartTier.WAKE and again.pid == ready.pid


def test_an_engine_may_end_and_be_stopped_asleep(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    first, second = awake(plane, node), awake(plane, node, device_indexes=[1])
    for one in (first, second):
        plane.sleep(one.replica_id)
        plane.wait_for(one.replica_id, Phase.ASLEEP)
    kill_engine(first.pid)
    assert plane.wait_for(first.replica_id, Phase.FAILED).reason == "engine_exited"
    plane.stop(second.replica_id)
    plane.wait_for(second.replica_id, Phase.STOPPED)
    assert node.engines() == []


@pytest.mark.parametrize("model", ["far", "moved"])  # moved: what is here is not the newest
def test_what_was_brought_is_a_cold_start(plane: ControlPlane, node: TestNode, model: str) -> None:
    node.agent()
    far = spec(model)
    plane.want(far)
    assert plane.wait_for(far.replica_id, Phase.READY).start_tier is StartTier.COLD


@pytest.mark.parametrize(
    ("kind", "asked", "can"),
    [("nvidia-h100", True, True), ("nvidia-h100", False, False), ("cpu", True, False)],
)
def test_only_where_it_frees_memory(kind: str, asked: bool, can: bool) -> None:
    assert engines.of("vllm").can_sleep(spec(may_sleep=asked), kind) is can
