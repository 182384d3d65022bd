"""The reaper over planted orphans, with real processes: each ends and is told, and the engine that
serves beside them is left alone. The GPUs' driver alone is a fake."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from controlplane.fleet import wire
from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_nvml import GIB, FakeGpus
from tests.agent.fake_runner import get, wait_until
from tests.agent.leftovers import (
    group,
    has_shared_memory,
    root_only,
    shared_memory,
    stranger,
)
from tests.agent.node import TestNode, kill, spec
from workers.agent import caches, places, processes, walls
from workers.agent.places import Places
from workers.agent.settings import read

ENDED = wire.NodeEventKind.ORPHAN_ENDED.value
DEAD = "rep_00000000000000000000000dead"
SOON = {"STOA_AGENT_REAP_EVERY_S": "0.2", "STOA_AGENT_REAP_GRACE_S": "1"}


def events(plane: ControlPlane) -> dict[str, wire.NodeEvent]:
    """All that was told, by id: what is repeated is one."""
    return {event.id: event for report in plane.reports for event in report.events}


def told(plane: ControlPlane, what: str, **detail: object) -> list[wire.NodeEvent]:
    wanted = {"what": what, **detail}
    return [
        event
        for event in events(plane).values()
        if all(event.detail.get(name) == value for name, value in wanted.items())
    ]


def where(node: TestNode) -> Places:
    return places.of(read(node.environment))


def stale_socket(folder: Path) -> Path:
    """As a killed engine leaves it: there, and nobody answers."""
    folder.mkdir(parents=True)
    path = folder / "engine.sock"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
    return path


def plant(node: TestNode) -> dict[str, Path]:
    """Folders, a socket, compiled code and weights of replicas that nobody knows."""
    there = where(node)
    home = there.homes / "homes" / DEAD
    home.mkdir(parents=True)
    (home / "a prompt").write_text("of somebody")
    part = there.weights / "parts" / "deadbeef"
    blob = there.weights / "blobs" / "public" / "cafe"
    draft = there.weights / "snapshots" / "hub" / "model" / ".main.part"
    hold = there.weights / "uses" / f"{there.prefix}{DEAD}"
    draft.mkdir(parents=True)
    for file in (part, blob, draft / "model.safetensors", hold):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"unfinished")
    slot = caches.take(there.homes / "caches", "key", DEAD, None, most_bytes=1 << 30)
    path = stale_socket(there.run / "e" / DEAD[-12:])
    return {
        "socket": path,
        "home": home,
        "part": part,
        "blob": blob,
        "draft": draft,
        "hold": hold,
        "slot": slot,
    }


def whole_snapshot(node: TestNode) -> Path:
    """Weights that nobody holds, and that are the cache's to keep."""
    folder = where(node).weights / "snapshots" / "hub" / "kept" / "main"
    folder.mkdir(parents=True)
    folder.with_name("main.json").write_text("{}")
    (folder / "model.safetensors").write_text("whole")
    return folder


def test_planted_orphans_end_and_are_told_beside_an_engine_that_serves(
    plane: ControlPlane, node: TestNode
) -> None:
    node.agent(**SOON, STOA_AGENT_STALE_WEIGHTS_S="1")
    wish = spec()
    plane.want(wish)
    serving = plane.wait_for(wish.replica_id, Phase.READY)
    planted, kept = plant(node), whole_snapshot(node)
    with (
        group(processes.marks(node.directory, DEAD), str(planted["home"] / "s")) as orphans,
        group({}) as foreign,
    ):
        wait_until(lambda: not orphans.alive, 60)
        assert not orphans.answers  # its port is free again
        assert foreign.alive and foreign.answers

    gone = [path for name, path in planted.items() if name != "slot"]
    wait_until(lambda: not any(path.exists() for path in gone), 60)
    wait_until(lambda: caches.held(where(node).homes / "caches") == {}, 60)
    (process,) = told(plane, "process", replica=DEAD)
    assert process.kind == ENDED and process.detail["count"] == 2
    assert str(orphans.port) in str(process.detail["listened"])
    assert str(planted["home"] / "s") in str(process.detail["listened"])
    wait_until(lambda: len(told(plane, "weights")) >= 3, 60)
    wait_until(lambda: told(plane, "folder", socket=str(planted["socket"])), 60)
    wait_until(lambda: told(plane, "folder", name=str(planted["home"])), 60)
    wait_until(lambda: told(plane, "cache") and told(plane, "hold"), 60)

    after = plane.wait_for(wish.replica_id, Phase.READY)
    assert after.pid == serving.pid
    assert get(serving.address.removeprefix("unix:"), "/").text == "alive"
    assert (kept / "model.safetensors").exists()
    assert not told(plane, "process", replica=wish.replica_id)


def test_a_stranger_on_a_gpu_is_told_and_its_gpu_not_used_and_ends_only_where_that_is_said(
    plane: ControlPlane, node: TestNode, tmp_path: Path
) -> None:
    gpus = FakeGpus(tmp_path)
    ours = {**SOON, **gpus.environment, "STOA_AGENT_DEVICES": "", "STOA_AGENT_DIRTY_AFTER_S": "0.5"}
    with stranger() as other:
        gpus.card(1, used=9 * GIB, processes=f"{other.pid}:{9 * GIB}")
        agent = node.agent(**ours)
        wait_until(lambda: told(plane, "stranger"), 60)
        wait_until(
            lambda: any(
                (one.check, one.device) == ("device_dirty", 1) for one in plane.reports[-1].findings
            ),
            30,
        )
        (said,) = told(plane, "stranger")
        assert said.kind == wire.NodeEventKind.STRANGER_FOUND.value
        assert (said.detail["device"], said.detail["vram_bytes"]) == (1, 9 * GIB)
        heard = len(plane.reports)
        wait_until(lambda: len(plane.reports) > heard + 10, 30)  # some grace later
        assert other.poll() is None

        wish = spec(device_indexes=[1])
        plane.want(wish)
        failed = plane.wait_for(wish.replica_id, Phase.FAILED, 60)
        assert failed.reason == "device_dirty" and f"process {other.pid} holds" in failed.detail
        # Nobody who hears of it could place the next one there.
        (last,) = [one.inventory for one in plane.reports if one.inventory is not None][-1:]
        assert [one.healthy for one in last.devices] == [True, False]

        kill(agent)
        node.agent(**ours, STOA_AGENT_ALONE="1", STOA_AGENT_TOKEN="")
        assert other.wait(30) == -9
        gpus.card(1, used=GIB // 2, processes="")  # as the driver would
        wait_until(lambda: told(plane, "stranger", count=1) and _clean(plane, 1), 60)
        wait_until(lambda: not plane.reports[-1].findings, 60)


def _clean(plane: ControlPlane, device: int) -> bool:
    return any(
        event.kind == wire.NodeEventKind.DEVICE_CLEAN.value and event.detail["device"] == device
        for event in events(plane).values()
    )


@root_only
def test_what_a_dead_engines_user_id_left_is_ended_erased_and_free_again(
    plane: ControlPlane, node: TestNode
) -> None:
    holder = where(node).run / "e" / DEAD[-12:]
    holder.mkdir(parents=True)
    uid = walls.claim_uid(holder)
    number = shared_memory(uid)
    file = Path(f"/dev/shm/{node.root.name}")
    file.write_text("of somebody")
    shutil.chown(file, uid, uid)
    with group({}, uid=uid) as escaped:  # it has thrown our mark away
        node.agent(**SOON)
        wait_until(lambda: not escaped.alive, 60)
    wait_until(lambda: not file.exists() and not has_shared_memory(number), 60)
    wait_until(lambda: uid not in walls.holders(), 60)
    assert not holder.exists()
    wait_until(lambda: len(told(plane, "memory")) == 2, 60)
    assert told(plane, "process", replica=DEAD[-12:])


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.PROBING, Phase.READY, Phase.DRAINING])
def test_agent_and_engine_killed_in_any_phase_leave_nothing(
    plane: ControlPlane, node: TestNode, phase: Phase
) -> None:
    models = {Phase.STARTING: "slow-start", Phase.PROBING: "sick"}
    wish = spec(models.get(phase, "stubborn"))
    agent = node.agent(**SOON)
    plane.want(wish)
    if phase is Phase.DRAINING:
        ready = plane.wait_for(wish.replica_id, Phase.READY)
        get(ready.address.removeprefix("unix:"), "/work")  # or it would be stopped at once
        plane.stop(wish.replica_id, drain_s=30.0)
    plane.wait_for(wish.replica_id, phase)
    wait_until(lambda: node.engines(wish.replica_id))
    (engine,) = node.engines(wish.replica_id)
    kill(agent)
    os.kill(engine, 9)  # a child of it may live on
    plane.unlist(wish.replica_id)
    node.agent(**SOON, STOA_AGENT_TOKEN="")
    plane.wait_for_applied(60)
    wait_until(lambda: not processes.marked(node.directory), 60)
    wait_until(lambda: not list((node.directory / "replicas").glob("*.json")), 60)
    assert node.engines() == []
