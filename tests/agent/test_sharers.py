"""Engines of one organization on one device of a node."""

from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import get, wait_until
from tests.agent.node import TestNode, kill, spec
from workers.agent.records import Record
from workers.agent.sharers import Sharers


def test_one_of_them_starts_at_a_time() -> None:
    one, two = Record(spec=spec(device_share=300)), Record(spec=spec(device_share=700))
    for record in (one, two):
        record.phase = Phase.STARTING
    sharers, there = Sharers(), [one, two]
    assert sharers.turn(one, there) and sharers.turn(one, there)  # asked again, it is still its
    assert not sharers.turn(two, there)
    one.phase = Phase.PROBING
    assert not sharers.turn(two, there)
    for over in (Phase.READY, Phase.FAILED, Phase.DRAINING):
        one.phase = over
        assert Sharers().turn(one, there) is True
    assert sharers.turn(two, there)
    elsewhere = Record(spec=spec(device_share=300, device_indexes=[1]), phase=Phase.STARTING)
    assert sharers.turn(elsewhere, [*there, elsewhere])
    whole = Record(spec=spec(), phase=Phase.STARTING)
    assert sharers.turn(whole, [*there, whole])


def test_two_serve_on_a_device_and_a_stranger_waits_until_both_are_gone(
    plane: ControlPlane, node: TestNode
) -> None:
    agent = node.agent()
    first, second = spec(device_share=400), spec(device_share=600)
    stranger = spec(organization="org_2", device_share=400)
    plane.want(first)
    plane.want(second)
    ready = [plane.wait_for(one.replica_id, Phase.READY) for one in (first, second)]
    plane.want(stranger)
    plane.wait_for(stranger.replica_id, Phase.STARTING)
    kill(agent)
    node.agent()  # one that comes back adopts both
    boot = plane.reports[-1].boot_id
    wait_until(lambda: plane.reports[-1].boot_id != boot)
    for one, was in zip((first, second), ready, strict=True):
        again = plane.wait_for(one.replica_id, Phase.READY)
        assert again.pid == was.pid
        assert get(again.address.removeprefix("unix:"), "/").text == "alive"
    plane.stop(first.replica_id)
    plane.wait_for(first.replica_id, Phase.STOPPED)
    heard = len(plane.reports)
    wait_until(lambda: len(plane.reports) >= heard + 3)
    assert plane.wait_for(second.replica_id, Phase.READY).pid == ready[1].pid
    assert node.engines(stranger.replica_id) == []
    plane.stop(second.replica_id)
    plane.wait_for(stranger.replica_id, Phase.READY)
