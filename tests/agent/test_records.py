"""What is remembered of a replica, and how its seconds are counted."""

import stat
import time
from pathlib import Path

import pytest

from controlplane.fleet.wire import Phase
from tests.agent.fake_runner import FakeRunner
from tests.agent.node import spec
from workers.agent import files, kin, processes
from workers.agent.records import Locked, Record, Store, lock
from workers.agent.replicas import Replicas


def test_phases_and_ready_seconds_add_up() -> None:
    record = Record(spec=spec(), phase_since=100.0)
    record.enter(Phase.STARTING, 101.5)
    record.enter(Phase.PROBING, 104.0)
    record.enter(Phase.READY, 104.25)
    assert record.ready_s(110.0) == pytest.approx(5.75)
    record.enter(Phase.DRAINING, 111.0)
    assert record.ready_s(200.0) == pytest.approx(6.75)
    assert record.phase_seconds == pytest.approx(
        {"fetching": 1.5, "starting": 2.5, "probing": 0.25, "ready": 6.75}
    )


def test_records_survive_and_are_nobody_elses(tmp_path: Path) -> None:
    store, record = Store(tmp_path), Record(spec=spec())
    store.save(record)
    (path,) = (tmp_path / "replicas").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Store(tmp_path).load() == [record]
    store.forget(record.spec.replica_id)
    store.forget(record.spec.replica_id)
    assert Store(tmp_path).load() == []


@pytest.mark.parametrize("damage", [b'{"spec": ', b'{"phase": "\xc2"}', b"[" * 5000])
def test_a_damaged_record_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    store, good = Store(tmp_path), Record(spec=spec())
    store.save(good)
    (tmp_path / "replicas" / "rep_0.json").write_bytes(damage)
    assert store.load() == [good] and store.load() == [good]


def test_a_writer_that_was_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")
    path.with_name(".file.new").write_bytes(b"ne")
    assert path.read_bytes() == b"old"
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_id_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="replica"):
        Store(tmp_path).save(Record(spec=spec(replica_id="../../etc/passwd")))


def test_a_directory_has_one_holder(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(Locked, match="another agent"), lock(tmp_path, wait_s=0.0):
        pass
    with lock(tmp_path, wait_s=0.0):
        pass


def test_marks_name_a_directory_and_a_replica(tmp_path: Path) -> None:
    assert processes.marks(tmp_path) == {"STOA_AGENT": processes.mark(tmp_path)}
    assert processes.marks(tmp_path, "rep_1")["STOA_REPLICA"] == "rep_1"
    assert processes.mark(tmp_path) != processes.mark(tmp_path / "other")


def process(pid: int, parent: int, session: int, replica: str = "") -> processes.Marked:
    return processes.Marked(kin.Process(pid, parent, session, 0, 0), replica)


def test_what_belongs_to_a_known_engine_stays() -> None:
    engine, core = process(10, 1, 10, "rep_1"), process(11, 10, 10, "rep_1")
    escaped = process(12, 11, 12, "rep_1")  # in a session of its own, below the engine
    assert processes.unaccounted([engine, core, escaped], {10}, set()) == []
    assert processes.unaccounted([core], {10}, set()) == []  # the first process is dead
    assert processes.unaccounted([engine, core], set(), set()) == [engine, core]


def test_what_a_standby_forked_unseen_does_not_stay() -> None:
    standby, known, unseen = process(20, 1, 20), process(21, 20, 21), process(22, 20, 22)
    assert processes.unaccounted([standby, known, unseen], {21}, {20}) == [unseen]
    before_its_session = process(23, 20, 20)
    assert processes.unaccounted([standby, before_its_session], set(), {20}) == [before_its_session]


def test_a_machine_that_started_anew_has_no_engines(tmp_path: Path) -> None:
    """Its clock began again, and its pids belong to others."""
    runner = FakeRunner(tmp_path, tmp_path / "run")
    record = Record(spec=spec(), phase=Phase.READY, phase_since=90_000.0)
    record.ready_since, record.seen_at = 90_000.0, 90_042.0
    store = Store(tmp_path)
    store.machine_boot = "the one before"
    running = runner.start(record.spec)  # this process stands for a stranger with the same pid
    record.running = running
    store.save(record)
    try:
        replicas = Replicas(
            tmp_path,
            store=Store(tmp_path),
            runner=runner,
            clock=time.monotonic,
            changed=lambda: None,
            address=lambda _: "",
            missing_walls=dict,
        )
        (found,) = replicas._reconcile(keep_standbys=True)
    finally:
        processes.reap(tmp_path, set())
    assert found.phase is Phase.FAILED and found.reason == "engine_missing"
    assert found.ready_s(time.monotonic()) == pytest.approx(42.0)
    assert all(0 <= spent < 86_400 * 365 for spent in found.phase_seconds.values())
