"""The metering journal: no second lost or doubled, whenever its agent dies, whatever clocks do."""

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.fleet import authority, meter_wire, wire
from controlplane.fleet.meter_wire import MeterBatch, MeterBody, MeterRecord, MeterState
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import TestNode, kill, spec
from workers.agent import credential, files
from workers.agent.meter import Journal
from workers.agent.records import Phase, Record, Store

NOW = datetime(2026, 11, 1, tzinfo=UTC)
REPLICAS = ("rep_a", "rep_b")


class Killed(BaseException):
    pass


def identity(node_id: str = "node_1") -> credential.Identity:
    key = Ed25519PrivateKey.generate()
    region = authority.create("eu-test-1", now=NOW)
    certificate = authority.node_certificate(
        region, key.public_key(), node_id=node_id, now=NOW, lifetime=timedelta(days=7)
    )
    said = wire.Credential(
        node_id=node_id,
        region="eu-test-1",
        pool="pool",
        certificate_pem=authority.pem(certificate),
        ca_pem=region.certificate_pem,
        expires_at="",
    )
    return credential.Identity("", key, said, certificate)


IDENTITY = identity()


def opened(batch: MeterBatch) -> MeterBody:
    """What a batch says, once its signature is proved."""
    key = authority_key(batch)
    key.verify(batch.signature, meter_wire.signed_bytes(batch.body))
    return msgspec.json.decode(batch.body, type=MeterBody)


def authority_key(batch: MeterBatch) -> Ed25519PublicKey:
    key = x509.load_der_x509_certificate(batch.certificate).public_key()
    assert isinstance(key, Ed25519PublicKey)
    return key


class Machine:
    """A node in its own time. What is on disk outlives an agent; the rest is made anew."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mono, self.wall, self.boot = 1_000.25, NOW.timestamp() + 17.4, 1
        self.got: dict[tuple[str, int], MeterRecord] = {}
        self.start()
        for id in REPLICAS:
            of = spec("ok", replica_id=id, organization=f"org_{id}")
            self.store.save(Record(spec=of, phase_since=self.mono))
        self.start()

    def start(self) -> None:
        """A new agent finds what the one before it left."""
        self.store = Store(self.directory)
        self.store.machine_boot = f"boot-{self.boot}"
        self.records = self.store.load()
        self.journal = Journal(
            self.directory,
            machine_boot=self.store.machine_boot,
            identity=lambda: IDENTITY,
            clock=lambda: self.mono,
            wall=lambda: self.wall,
        )
        for record in self.records:
            if record.machine_boot != self.store.machine_boot:
                record.close_metered(record.seen_at)  # as `Replicas` buries it
                record.phase_since = self.mono
                record.enter(Phase.STARTING, self.mono)
                self.store.save(record)

    def reboot(self) -> None:
        self.boot += 1
        self.mono = 3.5
        self.start()

    def move(self, index: int, phase: Phase) -> None:
        record = self.records[index % len(self.records)]
        record.enter(phase, self.mono)
        record.seen_at = self.mono
        self.store.save(record)

    def keep(self) -> None:
        pieces = self.journal.due(self.records)
        if pieces:
            self.journal.write(pieces, REPLICAS)
            self.journal.settle(self.records, self.store.save)

    def report(self, *, answered: bool) -> None:
        self.keep()
        sent = self.journal.waiting()
        for _, batch in sent:
            body = opened(batch)
            assert len({one.replica_id for one in body.records}) == 1  # each is another tenant's
            for record in body.records:
                key = (body.machine_boot, record.seq)
                assert self.got.setdefault(key, record) == record
        if answered:
            self.journal.taken([path for path, _ in sent])

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds
        for record in self.records:
            self.store.see(record, self.mono)


STEPS = st.one_of(
    st.tuples(st.just("time"), st.floats(0.05, 200)),
    st.tuples(st.just("wall"), st.sampled_from([-3600.0, 3600.0, -1.0])),
    st.tuples(st.just("ready"), st.integers(0, 1)),
    st.tuples(st.just("asleep"), st.integers(0, 1)),
    st.tuples(st.just("starting"), st.integers(0, 1)),
    st.tuples(st.just("report"), st.booleans()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("reboot"), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEPS, min_size=4, max_size=30), deaths=st.lists(st.integers(0, 6)))
def test_no_second_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]], deaths: list[int]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("node"))
    fate = itertools.chain(deaths, itertools.repeat(99))
    real, left = files.write, [next(fate)]

    def write(path: Path, content: bytes, **how: bool) -> None:
        """Sometimes the agent dies before a file is there, sometimes right after."""
        left[0] -= 1
        if left[0] == -1:
            raise Killed
        real(path, content, durable=False)
        if left[0] == -2:
            left[0] = next(fate)
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", write)
        for step in [*steps, ("time", 61.0), ("report", True)]:
            while True:
                try:
                    _take(machine, *step)
                    break
                except Killed:
                    try:
                        machine.start()
                    except Killed:
                        continue
        left[0] = 10**9
        for index in range(len(REPLICAS)):
            machine.move(index, Phase.DRAINING)
        machine.report(answered=True)
        machine.report(answered=True)
    _holds(machine)
    # Nothing new costs nothing, and nothing piles up.
    assert not machine.journal.news
    assert len(list((machine.directory / "meter").glob("*"))) <= 1


def _take(machine: Machine, what: str, value: object) -> None:
    match what, value:
        case "time", float(seconds):
            machine.pass_time(seconds)
        case "wall", float(seconds):
            machine.wall += seconds
        case "ready" | "asleep" | "starting", int(index):
            machine.move(index, Phase(what))
        case "report", bool(answered):
            machine.report(answered=answered)
        case "restart", None:
            machine.start()
        case "reboot", None:
            machine.reboot()


def _holds(machine: Machine) -> None:
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    ready: defaultdict[str, list[MeterRecord]] = defaultdict(list)
    for (boot, seq), record in sorted(machine.got.items()):
        numbers[boot].append(seq)
        assert 0 < record.mono_end_us - record.mono_start_us <= meter_wire.LONGEST_US
        if record.state is MeterState.READY:
            ready[record.replica_id].append(record)
    for boot, seqs in numbers.items():
        assert seqs == list(range(1, len(seqs) + 1)), boot
    for record_ in machine.records:
        mine = sorted(ready[record_.spec.replica_id], key=lambda one: one.before_us)
        at = 0
        for one in mine:  # each begins where the one before it ended: none lost, none twice
            assert abs(one.before_us - at) <= 5
            at = one.before_us + one.mono_end_us - one.mono_start_us
        assert at / 1e6 == pytest.approx(record_.ready_before_s, abs=1e-4)


def test_the_wall_clock_moves_no_second_and_its_jump_can_be_seen(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.move(0, Phase.READY)
    for step in (0.0, 3600.0, 0.0, -3600.0, 0.0, -1.0, 0.0):
        machine.pass_time(20)
        machine.wall += step
        machine.pass_time(20)
        machine.report(answered=True)
    machine.move(0, Phase.DRAINING)
    machine.report(answered=True)
    records = [record for _, record in sorted(machine.got.items())]
    assert sum(one.mono_end_us - one.mono_start_us for one in records) == 7 * 40_000_000
    jumps = [
        round((one.wall_end_us - one.wall_start_us - one.mono_end_us + one.mono_start_us) / 1e6)
        for one in records
    ]
    assert [jump for jump in jumps if jump] == [3600, -3600, -1]


def test_a_batch_is_the_nodes_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.move(0, Phase.READY)
    machine.pass_time(61)
    machine.keep()
    [(_, batch)] = machine.journal.waiting()
    assert opened(batch).node_id == "node_1"
    other = msgspec.structs.replace(batch, body=batch.body.replace(b"rep_a", b"rep_b"))
    with pytest.raises(InvalidSignature):
        opened(other)


@pytest.mark.parametrize("killed", [False, True])
def test_what_another_boot_left_is_told_once(tmp_path: Path, killed: bool) -> None:
    machine = Machine(tmp_path)
    machine.move(0, Phase.READY)
    machine.pass_time(100)
    machine.report(answered=True)
    machine.reboot()
    if killed:  # after it was written, before the replica's record says so
        machine.journal.write(machine.journal.due(machine.records), REPLICAS)
        machine.start()
    machine.report(answered=True)
    machine.start()
    machine.report(answered=True)
    machine.start()
    assert machine.journal.due(machine.records) == []
    assert sum(one.mono_end_us - one.mono_start_us for one in machine.got.values()) == 100_000_000
    assert {boot for boot, _ in machine.got} == {"boot-1"}


def test_a_damaged_file_takes_no_number_twice(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.move(0, Phase.READY)
    machine.pass_time(61)
    machine.keep()
    [path] = (tmp_path / "meter").glob("*.json")
    path.write_bytes(b"{")
    machine.start()
    machine.report(answered=False)
    assert min(seq for _, seq in machine.got) == 2


def test_a_full_disk_keeps_no_report_away_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    machine.move(0, Phase.READY)
    machine.pass_time(61)
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            raise OSError("no space left on device")

        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="no space"):
            machine.keep()
    machine.pass_time(61)
    machine.move(0, Phase.DRAINING)
    machine.report(answered=True)
    assert [seq for _, seq in sorted(machine.got)] == [1, 2, 3]
    assert sum(one.mono_end_us - one.mono_start_us for one in machine.got.values()) == 122_000_000


def test_a_node_proves_what_its_replica_served_though_its_agent_is_killed(
    plane: ControlPlane, node: TestNode
) -> None:
    agent = node.agent()
    wish = spec("ok", device_indexes=[0])
    plane.want(wish)
    plane.wait_for(wish.replica_id, Phase.READY)
    kill(agent)
    plane.answer = 503  # nobody hears the next one
    agent = node.agent(STOA_AGENT_TOKEN="")
    calls = plane.calls
    wait_until(lambda: plane.calls > calls + 3)
    plane.answer = 200
    plane.stop(wish.replica_id, drain_s=0.1)
    said = plane.wait_for(wish.replica_id, Phase.STOPPED)
    wait_until(lambda: any(report.meter for report in plane.reports))
    kill(agent)
    node.agent(STOA_AGENT_TOKEN="")
    wait_until(lambda: plane.reports[-1].boot_id != "" and plane.reports[-1].meter == [])
    bodies = [opened(batch) for report in plane.reports for batch in report.meter]
    records = {one.seq: one for body in bodies for one in body.records}
    assert sorted(records) == list(range(1, len(records) + 1))
    proved = sum(one.mono_end_us - one.mono_start_us for one in records.values()) / 1e6
    assert said.ready_s == pytest.approx(proved, abs=0.01)
    assert {one.devices for one in records.values()} == {1}
