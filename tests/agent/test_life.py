"""The agent as a process of its own, with real engine processes and a control plane over HTTP."""

import signal

import msgspec
import pytest

from controlplane.fleet.wire import Adapter, DesiredReplica, Phase, ReplicaReport
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import get, wait_until
from tests.agent.node import TestNode, kill, kill_engine, spec
from workers.agent import kin
from workers.agent.records import Record


def alive(pid: int) -> bool:
    return kin.read(pid) is not None


def test_from_token_to_ready_to_stopped(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)

    assert ready.address.startswith("unix:")
    assert get(ready.address.removeprefix("unix:"), "/").text == "alive"
    assert ready.engine is not None and ready.engine.version == "fake-1"
    assert {"fetching", "starting", "probing"} <= set(ready.phase_seconds)
    assert plane.reports[0].inventory is not None
    assert [device.kind for device in plane.reports[0].inventory.devices] == ["cpu", "cpu"]
    assert sum(report.inventory is not None for report in plane.reports) == 1

    plane.stop(wish.replica_id)
    stopped = plane.wait_for(wish.replica_id, Phase.STOPPED)
    assert not alive(ready.pid) and stopped.pid == 0 and stopped.ready_s > 0
    # Confirmed until the wish list no longer holds it.
    heard = len(plane.reports)
    wait_until(lambda: len(plane.reports) >= heard + 3)
    assert plane.replica(wish.replica_id) == stopped
    plane.unlist(wish.replica_id)
    wait_until(lambda: plane.replica(wish.replica_id) is None)
    wait_until(lambda: not list((node.directory / "replicas").glob("*.json")))

    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0
    numbers = [report.seq for report in plane.reports]
    assert numbers == sorted(set(numbers))


def test_an_agent_that_comes_back_adopts_what_runs(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    before = plane.wait_for(wish.replica_id, Phase.READY)
    boot = plane.reports[-1].boot_id
    kill(agent)
    assert get(before.address.removeprefix("unix:"), "/").text == "alive"

    node.agent()
    wait_until(lambda: plane.reports[-1].boot_id != boot)
    after = plane.wait_for(wish.replica_id, Phase.READY)
    assert (after.pid, after.address) == (before.pid, before.address)
    assert after.ready_s > before.ready_s
    wait_until(lambda: (plane.replica(wish.replica_id) or after).ready_s > after.ready_s)
    assert node.engines() == [before.pid]


def test_ready_seconds_are_one_count_over_a_restart(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    plane.wait_for(wish.replica_id, Phase.READY)
    record = _record(node, wish.replica_id)
    kill(agent)
    node.agent()
    boot = plane.reports[-1].boot_id
    wait_until(lambda: plane.reports[-1].boot_id != boot)
    again = _record(node, wish.replica_id)
    assert again.ready_since == record.ready_since and again.ready_before_s == 0.0


def test_an_engine_whose_pid_was_never_written_is_found(
    plane: ControlPlane, node: TestNode
) -> None:
    agent = node.agent(STOA_TEST_HANG="1")
    wish = spec()
    plane.want(wish)
    wait_until((node.directory / "hanging").exists)
    (orphan,) = node.engines(wish.replica_id)
    assert _record(node, wish.replica_id).running is None
    kill(agent)

    node.agent()
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    assert ready.pid != orphan and not alive(orphan)
    assert node.engines() == [ready.pid]


def test_an_engine_without_any_record_is_ended(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec("stubborn")
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    kill(agent)
    (node.directory / "replicas" / f"{wish.replica_id}.json").unlink()
    plane.change(lambda: plane.wishes.clear())

    node.agent()
    plane.wait_for_applied()
    wait_until(lambda: not alive(ready.pid))
    assert node.engines() == [] and plane.reports[-1].replicas == []


def test_an_engine_that_died_while_no_agent_ran(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    kill(agent)
    kill_engine(ready.pid)
    seen = _record(node, wish.replica_id)

    node.agent()
    failed = plane.wait_for(wish.replica_id, Phase.FAILED)
    assert failed.reason == "engine_missing"
    # Not a second more than somebody watched.
    assert seen.ready_since is not None
    assert failed.ready_s == pytest.approx(max(0.0, seen.seen_at - seen.ready_since), abs=0.002)


def test_an_engine_that_is_in_no_list_is_reaped(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish, other = spec("stubborn"), spec(device_indexes=[1])
    plane.want(wish)
    plane.want(other)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    plane.wait_for(other.replica_id, Phase.READY)
    plane.unlist(wish.replica_id)
    wait_until(lambda: not alive(ready.pid))
    wait_until(lambda: not node.engines(wish.replica_id))
    assert plane.wait_for(other.replica_id, Phase.READY)


def test_a_crash_at_start_is_reported_with_its_last_lines(
    plane: ControlPlane, node: TestNode
) -> None:
    node.agent()
    wish = spec("crash")
    plane.want(wish)
    failed = plane.wait_for(wish.replica_id, Phase.FAILED)
    assert failed.reason == "engine_exited"
    assert failed.log_tail == ["loading weights", "out of memory"]
    assert failed.address == "" and failed.pid == 0 and node.engines() == []
    wait_until(lambda: plane.logs.get(wish.replica_id, {}).get(2) == "out of memory")


def test_a_crash_while_it_serves(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec("stubborn")
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    kill_engine(ready.pid)
    failed = plane.wait_for(wish.replica_id, Phase.FAILED)
    assert failed.reason == "engine_exited"
    assert node.engines(wish.replica_id) == []  # its child died with it


@pytest.mark.parametrize(
    ("model", "reason"), [("slow-start", "start_timeout"), ("sick", "probe_failed")]
)
def test_a_start_has_its_time(plane: ControlPlane, node: TestNode, model: str, reason: str) -> None:
    node.agent()
    wish = spec(model, start_timeout_s=1.0)
    plane.want(wish)
    assert plane.wait_for(wish.replica_id, Phase.FAILED).reason == reason
    assert node.engines() == []


def test_an_unknown_model_fails_without_an_engine(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec("unknown")
    plane.want(wish)
    failed = plane.wait_for(wish.replica_id, Phase.FAILED)
    assert (failed.reason, failed.detail) == ("model_not_found", "no model is called unknown")


def test_stopping_what_is_still_starting(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec("slow-start")
    plane.want(wish)
    starting = plane.wait_for(wish.replica_id, Phase.STARTING)
    plane.stop(wish.replica_id)
    stopped = plane.wait_for(wish.replica_id, Phase.STOPPED)
    assert stopped.ready_s == 0 and not starting.address and node.engines() == []


def test_stopping_what_never_was_is_confirmed(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    plane.stop("rep_01never")
    assert plane.wait_for("rep_01never", Phase.STOPPED).ready_s == 0


def test_repeated_and_late_lists_change_nothing(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    late = plane.desired()
    plane.stop(wish.replica_id)
    plane.wait_for(wish.replica_id, Phase.STOPPED)
    plane.unlist(wish.replica_id)
    wait_until(lambda: plane.replica(wish.replica_id) is None)
    # The old list, in which it runs, arrives once more.
    polls = len(plane.polls)
    with plane.lock:
        plane.stale = late
        plane.lock.notify_all()
    wait_until(lambda: 0 in plane.polls[polls:])
    plane.change()
    plane.wait_for_applied()
    assert node.engines() == [] and not alive(ready.pid)


def test_a_control_plane_that_lost_versions_is_followed(
    plane: ControlPlane, node: TestNode
) -> None:
    node.agent()
    plane.change(lambda: setattr(plane, "version", 100))
    plane.wait_for_applied()
    wish = spec()
    with plane.lock:  # as after a backup was restored
        plane.wishes[wish.replica_id] = DesiredReplica(
            replica_id=wish.replica_id, run=True, spec=wish
        )
        plane.version = 7
        plane.stale = plane.desired()
        plane.lock.notify_all()
    plane.wait_for(wish.replica_id, Phase.READY)
    plane.wait_for_applied()


def test_engines_serve_through_an_outage(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    plane.answer = 503
    tried, told = plane.calls, len(plane.reports)
    plane.change()
    wait_until(lambda: plane.calls > tried + 5)
    assert get(ready.address.removeprefix("unix:"), "/").text == "alive"
    assert agent.poll() is None and len(plane.reports) == told
    plane.answer = 200
    after = plane.wait_for(wish.replica_id, Phase.READY)
    assert after.pid == ready.pid


def test_sigterm_leaves_engines_or_stops_them(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0 and alive(ready.pid)

    agent = node.agent(STOA_AGENT_STOP_ENGINES="1")
    boot = plane.reports[-1].boot_id
    wait_until(lambda: plane.reports[-1].boot_id != boot)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(20) == 0 and not alive(ready.pid)
    assert plane.replica(wish.replica_id).phase is Phase.STOPPED  # type: ignore[union-attr]


def test_stop_all_ends_what_is_recorded_and_what_is_not(
    plane: ControlPlane, node: TestNode
) -> None:
    agent = node.agent()
    wish, other = spec("stubborn"), spec(device_indexes=[1])
    plane.want(wish)
    plane.want(other)
    pids = [plane.wait_for(one.replica_id, Phase.READY).pid for one in (wish, other)]
    assert node.ask("stop-all") == 5  # not under a living agent
    kill(agent)
    (node.directory / "replicas" / f"{other.replica_id}.json").unlink()
    assert node.ask("stop-all") == 0
    assert not any(alive(pid) for pid in pids) and node.engines() == []
    assert node.ask("stop-all") == 0

    node.agent()
    assert plane.wait_for(wish.replica_id, Phase.STOPPED)


def test_two_agents_cannot_share_a_directory(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wait_until(lambda: plane.reports)
    assert node.ask("run") == 5
    assert "another agent" in node.said()


def test_two_organizations_need_walls(plane: ControlPlane, node: TestNode) -> None:
    node.agent(STOA_TEST_NO_UID="1")
    mine, same, theirs = spec(), spec(device_indexes=[1]), spec(organization="org_2")
    plane.want(mine)
    plane.want(same)
    plane.wait_for(mine.replica_id, Phase.READY)
    plane.wait_for(same.replica_id, Phase.READY)
    plane.want(theirs)
    failed = plane.wait_for(theirs.replica_id, Phase.FAILED)
    assert failed.reason == "walls_missing" and "uid: not in this test" in failed.detail
    assert plane.wait_for(mine.replica_id, Phase.READY)


def test_with_all_walls_two_organizations_share(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    mine, theirs = spec(), spec(organization="org_2", device_indexes=[1])
    plane.want(mine)
    plane.want(theirs)
    plane.wait_for(mine.replica_id, Phase.READY)
    plane.wait_for(theirs.replica_id, Phase.READY)


def test_a_device_is_never_held_by_two(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    old, new = spec("stubborn"), spec()
    plane.want(old)
    pid = plane.wait_for(old.replica_id, Phase.READY).pid
    plane.stop(old.replica_id, drain_s=2.0)
    plane.want(new)
    wait_until(lambda: node.engines(new.replica_id), 20)
    assert not alive(pid)


def _record(node: TestNode, replica_id: str) -> Record:
    path = node.directory / "replicas" / f"{replica_id}.json"
    return msgspec.json.decode(path.read_bytes(), type=Record)


def adapter(id: str, path: str = "/adapters/poet") -> Adapter:
    return Adapter(id=id, name=id, path=path)


def adapted(plane: ControlPlane, replica_id: str) -> dict[str, str]:
    """The adapters as the newest report has them."""
    found = plane.replica(replica_id)
    adapters = found.adapters if found is not None else []
    return {one.id: f"{one.state} {one.reason or ''}".strip() for one in adapters}


def test_adapters_come_and_go_with_the_wish_alone(plane: ControlPlane, node: TestNode) -> None:
    node.agent()
    wish = spec(adapters=[adapter("adp_1")])
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    assert adapted(plane, wish.replica_id) == {"adp_1": "loaded"}  # before it is routable

    gone = adapter("adp_3", "/missing")
    plane.want(msgspec.structs.replace(wish, adapters=[adapter("adp_2"), gone]))
    expected = {"adp_2": "loaded", "adp_3": "failed adapter_not_found"}
    wait_until(lambda: adapted(plane, wish.replica_id) == expected)
    after = plane.wait_for(wish.replica_id, Phase.READY)
    assert after.pid == ready.pid  # neither a new engine nor a failed one
    assert held(after) == ["adp_2"]


def test_adapters_survive_the_death_of_agent_and_engine(
    plane: ControlPlane, node: TestNode
) -> None:
    agent = node.agent()
    wish = spec(adapters=[adapter("adp_1")])
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    kill(agent)
    # Meanwhile the wish changed, and the engine was tampered with.
    get(ready.address.removeprefix("unix:"), "/unload/adp_1")
    plane.want(msgspec.structs.replace(wish, adapters=[adapter("adp_1"), adapter("adp_2")]))
    node.agent()
    both = {"adp_1": "loaded", "adp_2": "loaded"}
    wait_until(lambda: adapted(plane, wish.replica_id) == both and held(ready) == [*both])
    assert plane.wait_for(wish.replica_id, Phase.READY).pid == ready.pid


def held(replica: ReplicaReport) -> list[str]:
    """What the engine itself says it has."""
    found: list[str] = get(replica.address.removeprefix("unix:"), "/adapters").json()
    return found
