"""Between two engines a device is proved clean, and is nobody's until it is."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from controlplane.fleet import wire
from tests.agent.fake_nvml import GIB, FakeGpus
from tests.agent.leftovers import (
    Group,
    group,
    has_shared_memory,
    root_only,
    shared_memory,
    stranger,
)
from tests.agent.node import spec
from workers.agent import engines, kin, places, processes, walls
from workers.agent.events import Events
from workers.agent.health import nvml
from workers.agent.reaper.devices import Devices
from workers.agent.reaper.observe import Container
from workers.agent.settings import Settings, read

CLEAN, DIRTY = wire.NodeEventKind.DEVICE_CLEAN.value, wire.NodeEventKind.DEVICE_DIRTY.value


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings() -> Iterator[Settings]:
    root = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
    yield read(
        {
            "STOA_AGENT_DIR": str(root / "agent"),
            "STOA_CACHE_DIR": str(root / "cache"),
            "STOA_AGENT_RUN_DIR": str(root / "run"),
        }
    )
    shutil.rmtree(root)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    fake = FakeGpus(tmp_path)
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    return fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(settings: Settings, clock: Clock, *, driver: bool = False) -> Devices:
    return Devices(
        settings.directory,
        places.of(settings),
        Events(settings.directory),
        read_gpus=nvml.read if driver else lambda: None,
        residue_bytes=GIB,
        dirty_after_s=30.0,
        clock=clock,
    )


def told(settings: Settings) -> list[wire.NodeEvent]:
    return Events(settings.directory).waiting()


def running(wish: wire.ReplicaSpec, uid: int | None = None) -> engines.Running:
    return engines.Running(
        replica_id=wish.replica_id,
        pid=1,
        start_time=0,
        boot_id="",
        socket="",
        tier=wire.StartTier.WARM,
        log="",
        directory="",
        home="",
        exit_file="",
        uid=uid,
    )


# --- shares of a CPU ----------------------------------------------------------------------


def test_the_first_engine_of_a_device_has_nobody_before_it(
    settings: Settings, clock: Clock
) -> None:
    assert not made(settings, clock).prove(spec()).why
    assert told(settings) == []


def test_what_an_engine_left_is_gone_before_the_next_one_starts(
    settings: Settings, clock: Clock
) -> None:
    first, second = spec(organization="org_1"), spec(organization="org_2")
    made(settings, clock).prove(first)
    where = places.of(settings)
    left = [
        where.run / "e" / first.replica_id[-12:],
        where.homes / "homes" / first.replica_id,
        where.homes / "adapters" / first.replica_id,
    ]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "a prompt").write_text("of org_1")
    with group(processes.marks(settings.directory, first.replica_id)) as orphans:
        # Another agent's: who had the device is on disk.
        assert not made(settings, clock).prove(second).why
        assert not orphans.alive and not orphans.answers
    assert not any(folder.exists() for folder in left)
    (event,) = told(settings)
    assert event.kind == CLEAN
    assert event.detail["from_organization"] == "org_1" and event.detail["device"] == 0
    assert event.detail["to_organization"] == "org_2"
    assert event.detail["to_replica"] == second.replica_id
    assert (event.detail["processes"], event.detail["ended"]) == (0, 2)


class Hung:
    """An engine of containers whose socket is there, and behind which nobody answers."""

    def list(self) -> list[Container]:
        raise OSError("it does not answer")

    def remove(self, id: str) -> None:
        raise OSError("it does not answer")


def test_where_containers_cannot_be_looked_for_only_what_was_one_is_not_clean(
    settings: Settings, clock: Clock
) -> None:
    def devices() -> Devices:
        return Devices(
            settings.directory,
            places.of(settings),
            Events(settings.directory),
            containers=Hung(),
            dirty_after_s=30.0,
            clock=clock,
        )

    process, contained = spec(), spec(image=wire.Image(reference="r.example/a:1"))
    devices().prove(process)
    assert not devices().prove(contained).why
    later = devices()
    verdict = later.prove(process)
    assert "cannot be looked for: it does not answer" in verdict.why and not verdict.over
    clock.now = 31.0
    assert later.prove(process).over and later.dirty


@root_only
def test_nothing_of_its_user_id_is_left_on_the_machine(settings: Settings, clock: Clock) -> None:
    first, second = spec(organization="org_1"), spec(organization="org_2")
    devices = made(settings, clock)
    devices.prove(first)
    holder = places.of(settings).run / "e" / first.replica_id[-12:]
    holder.mkdir(parents=True)
    uid = walls.claim_uid(holder)
    devices.started(first, running(first, uid))
    number = shared_memory(uid)
    file = Path(f"/dev/shm/{first.replica_id}")
    file.write_text("of org_1")
    shutil.chown(file, uid, uid)
    with group({}, uid=uid) as escaped:  # it has thrown its mark away
        assert not devices.prove(second).why
        assert not escaped.alive
    assert not file.exists() and not has_shared_memory(number)
    (event,) = told(settings)
    assert (event.detail["uid"], event.detail["remains"]) == (uid, 0)
    walls.release_uid(uid, holder)


@root_only
def test_a_user_id_that_is_another_engines_by_now_is_left_alone(
    settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    first = spec()
    devices = made(settings, clock)
    devices.prove(first)
    uid = walls.claim_uid(tmp_path)
    devices.started(first, running(first, uid))
    try:
        with group({}, uid=uid) as theirs:
            assert not devices.prove(spec()).why
            assert theirs.alive
    finally:
        walls.release_uid(uid, tmp_path)


# --- shared by engines of one organization --------------------------------------------------


def started(devices: Devices, wish: wire.ReplicaSpec, pid: int) -> None:
    found = kin.read(pid)
    assert found is not None
    engine = running(wish)
    devices.started(wish, msgspec.structs.replace(engine, pid=pid, start_time=found.start_time))


def test_a_neighbour_that_runs_is_let_be_and_all_are_cleared_before_a_stranger(
    settings: Settings, clock: Clock
) -> None:
    first, second, third = (spec(device_share=300) for _ in range(3))
    devices, where = made(settings, clock), places.of(settings)
    homes = [where.homes / "homes" / one.replica_id for one in (first, second, third)]
    with contextlib.ExitStack() as stack:
        groups: list[Group] = []
        for number, wish in enumerate((first, second, third)):
            if number == 2:  # the first has ended, and left something
                beside = [second.replica_id]
            else:
                beside = [one.replica_id for one in (first, second)[:number]]
            assert not devices.prove(wish, beside).why
            homes[number].mkdir(parents=True)
            marks = processes.marks(settings.directory, wish.replica_id)
            groups.append(stack.enter_context(group(marks)))
            started(devices, wish, groups[-1].process.pid)
        assert [one.alive for one in groups] == [False, True, True]
        assert [one.exists() for one in homes] == [False, True, True]
        again = made(settings, clock)  # who shared the device is on disk
        assert not again.prove(spec(organization="org_2")).why
        assert not any(one.alive for one in groups)
        assert not any(one.exists() for one in homes)
    assert told(settings)[-1].detail["to_organization"] == "org_2"


def test_what_a_neighbour_holds_of_a_gpu_is_its_own(
    settings: Settings, clock: Clock, gpus: FakeGpus
) -> None:
    first, second = spec(device_share=500), spec(device_share=500)
    devices, beside = made(settings, clock, driver=True), [first.replica_id]
    assert not devices.prove(first).why
    marks = processes.marks(settings.directory, first.replica_id)
    with group(marks) as engine, stranger() as other:
        started(devices, first, engine.process.pid)
        held = f"{engine.pids[1]}:{60 * GIB}"  # its child, in a session of its own
        gpus.card(0, used=60 * GIB + GIB // 2, processes=held)
        assert not devices.prove(second, beside).why and engine.alive
        gpus.card(0, used=70 * GIB)  # more than they hold, and nobody's
        assert "10240 MiB of it are used by no process" in devices.prove(second, beside).why
        gpus.card(0, processes=f"{held},{other.pid}:{10 * GIB}")
        assert f"process {other.pid} holds 10240 MiB" in devices.prove(second, beside).why
        assert engine.alive


# --- GPUs ---------------------------------------------------------------------------------


def test_a_gpu_whose_memory_is_free_is_clean_and_its_figure_is_told(
    settings: Settings, clock: Clock, gpus: FakeGpus
) -> None:
    gpus.card(0, used=GIB // 2)
    assert not made(settings, clock, driver=True).prove(spec()).why
    (event,) = told(settings)
    assert event.detail["memory_bytes"] == GIB // 2 and event.detail["residue_bytes"] == GIB


def test_a_gpu_that_frees_its_memory_late_is_waited_for(
    settings: Settings, clock: Clock, gpus: FakeGpus
) -> None:
    gpus.card(0, used=40 * GIB)
    devices = made(settings, clock, driver=True)
    assert "40960 MiB of it are used by no process" in devices.prove(spec()).why
    clock.now = 2.5
    gpus.card(0, used=0)
    assert not devices.prove(spec()).why
    (event,) = told(settings)
    assert event.kind == CLEAN and event.detail["waited_ms"] == 2500
    assert devices.dirty == {} and devices.findings() == []


def test_a_gpu_that_does_not_come_clean_is_used_by_nobody_until_it_does(
    settings: Settings, clock: Clock, gpus: FakeGpus
) -> None:
    with stranger() as holder:
        gpus.card(1, used=9 * GIB, processes=f"{holder.pid}:{9 * GIB}")
        devices, wish = made(settings, clock, driver=True), spec(device_indexes=[1])
        assert not devices.prove(wish).over
        clock.now = 31.0
        verdict = devices.prove(wish)
        assert verdict.over and f"process {holder.pid} holds 9216 MiB" in verdict.why
        (finding,) = devices.findings()
        assert (finding.check, finding.device) == ("device_dirty", 1)
        assert finding.severity is wire.Severity.CRITICAL and "gpu-reset" in finding.cure
        assert [event.kind for event in told(settings)] == [DIRTY]

        again = made(settings, clock, driver=True)  # an agent that starts anew knows it
        assert 1 in again.dirty and again.prove(wish).over
        assert not again.prove(spec(device_indexes=[0])).why  # the other GPU serves
    gpus.card(1, used=0, processes="")
    again.look({0})
    assert again.dirty == {}
    assert told(settings)[-1].kind == CLEAN and told(settings)[-1].detail["device"] == 1
    assert not again.prove(wish).why


def test_a_gpu_of_which_the_driver_does_not_speak_is_not_clean(
    settings: Settings, clock: Clock, gpus: FakeGpus
) -> None:
    devices = made(settings, clock, driver=True)
    assert "does not show it" in devices.prove(spec(device_indexes=[7])).why
    gpus.put(unloaded=1)
    assert "Driver Not Loaded" in devices.prove(spec()).why


def test_a_gpu_in_use_is_not_looked_at_and_an_idle_one_is(
    settings: Settings, clock: Clock, gpus: FakeGpus
) -> None:
    for index in (0, 1):
        gpus.card(index, used=9 * GIB)
    devices = made(settings, clock, driver=True)
    for clock.now in (0.0, 31.0):
        devices.look({0})
    assert set(devices.dirty) == {1}
