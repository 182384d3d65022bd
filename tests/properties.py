"""What `make bench NAME=fuzz` tries out: the properties of tests, and some that need minutes.

Each part is a context in which a batch of examples can be played as often as there is time.
Django must be ready before this is imported.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from controlplane.endpoints import reports
from controlplane.endpoints.states import ARCS, State
from controlplane.fleet import inventory, wire
from controlplane.fleet.errors import InvalidReport
from gateway import engine_errors, stream, usage
from gateway.records import CLOSE_MAX_BYTES, OPEN_MAX_BYTES, CloseRecord
from gateway.spool import Spool
from tests.endpoints.test_convergence import Interleaving
from tests.gateway import edge, test_spool, test_stream
from tests.gateway.rig import Rig

Batch = Callable[[settings], None]
COUNT = st.integers(0, 2**40)


class Part:
    """One thing that is tried out, and how that went."""

    def __init__(self, name: str) -> None:
        self.name, self.examples, self.failure = name, 0, ""

    def counted(self, test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counting(*arguments: Any, **named: Any) -> None:
            self.examples += 1
            test(*arguments, **named)

        return counting


# --- reconciliation -------------------------------------------------------------------------


@contextmanager
def convergence(part: Part) -> Iterator[Batch]:
    class Counted(Interleaving):
        def __init__(self) -> None:
            super().__init__()
            part.examples += 1

    def batch(how: settings) -> None:
        run_state_machine_as_test(Counted, settings=settings(how, stateful_step_count=60))

    yield batch


# --- the spool ------------------------------------------------------------------------------

SEGMENT = 2 * (OPEN_MAX_BYTES + CLOSE_MAX_BYTES)  # small, so that there are several
_FEW = st.integers(0, 11)  # so that the same request is met again
_steps = st.lists(st.tuples(st.sampled_from(("open", "close", "note")), _FEW), max_size=120)


@contextmanager
def recovery(part: Part) -> Iterator[Batch]:
    """A spool that is left at any moment gives back what it took: every request, once, as it was.

    Where the machine died too and the end of the newest segment never reached the disk, it gives
    back no more than that, and nothing that was never written.
    """

    def check(done: list[tuple[str, int]], lost: float | None) -> None:
        with tempfile.TemporaryDirectory(prefix="spool-") as folder:
            written = _write(Path(folder), done)
            if lost is not None:
                _lose_the_end(Path(folder), lost)
            found = _recovered(Path(folder))
            assert found.keys() <= written.keys()
            assert lost is not None or found.keys() == written.keys()
            for id, record in found.items():
                if record.finish == "stop":
                    assert record.output_tokens == written[id]
                else:
                    assert record.finish == "gateway_gone"
                    assert lost is not None or not written[id]

    shares = st.one_of(st.none(), st.floats(0, 1))
    records = test_spool.records
    framing: list[tuple[Any, tuple[st.SearchStrategy[Any], ...]]] = [
        (test_spool.test_a_file_cut_anywhere_gives_back_a_prefix, (records, st.data())),
        (test_spool.test_a_changed_byte_costs_at_most_its_own_record, (records, st.data())),
        (test_spool.test_noise_holds_no_record, (st.binary(max_size=2000),)),
    ]

    def batch(how: settings) -> None:
        how(given(_steps, shares)(part.counted(check)))()
        for test, strategies in framing:
            how(given(*strategies)(part.counted(test.hypothesis.inner_test)))()

    yield batch


def _write(folder: Path, done: list[tuple[str, int]]) -> dict[str, int]:
    """Do all that, and leave the spool as kill -9 does. Tokens by request; 0: still open."""
    spool = Spool(folder, segment_bytes=SEGMENT)
    begun: dict[int, str] = {}
    tokens: dict[str, int] = {}
    for count, (what, number) in enumerate(done):
        if what == "open" and number not in begun:
            begun[number] = f"req_{count}"
            tokens[begun[number]] = 0
            spool.open(test_spool.opened(count))
        elif what == "close" and number in begun:
            id = begun.pop(number)
            tokens[id] = count + 1
            spool.close(test_spool.closed(int(id[4:]), count + 1))
        elif what == "note" and number in begun:
            spool.progress(begun[number], (count + 1) * 2_000_000, 10, 4, count)
    test_spool.leave(spool)
    for segment in (*spool._segments, *spool._spares):
        with contextlib.suppress(OSError):
            os.close(segment.fd)
    return tokens


def _lose_the_end(folder: Path, share: float) -> None:
    """Of the newest segment that holds anything: zeros, as preallocated, from there on."""
    for path in sorted(folder.glob("writer-*/*.segment"), reverse=True):
        data = path.read_bytes()
        if used := len(data.rstrip(b"\0")):
            kept = int(share * used)
            path.write_bytes(data[:kept] + bytes(len(data) - kept))
            return


def _recovered(folder: Path) -> dict[str, CloseRecord]:
    orphan = test_spool.only_orphan(folder)
    found = test_spool.take_all(orphan)
    orphan.release()
    assert len({record.request_id for record in found}) == len(found)
    return {record.request_id: record for record in found}


# --- the gateway's port ---------------------------------------------------------------------


@contextmanager
def port(part: Part) -> Iterator[Batch]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder, edge.watched_faults() as faults:
        rig = Rig(Path(folder))
        try:
            rig.key()
            rig.endpoint("tiny", [rig.engine("ep_tiny")])

            def check(sent: list[bytes]) -> None:
                rig.spool.opened.clear()
                said = edge.converse(rig.port, sent)
                edge.check(said, b"".join(sent), len(rig.spool.opened))
                assert not faults, faults

            def batch(how: settings) -> None:
                how(given(edge.conversations)(part.counted(check)))()
                assert rig.chat("tiny").status == 200
                rig.until(lambda: not rig.spool.in_flight)
                assert rig.activity.balance("running") == 0
                rig.spool.opened.clear()
                rig.spool.closed.clear()
                rig.activity.events.clear()
                rig.engines[0].seen.clear()

            yield batch
        finally:
            rig.stop()


# --- what engines say -----------------------------------------------------------------------

_events = st.lists(
    st.builds(test_stream.event, st.one_of(st.text(), st.sampled_from(test_stream.NASTY)), COUNT),
    max_size=4,
).map(lambda events: b"".join(events) + test_stream.FINAL)


@contextmanager
def engine(part: Part) -> Iterator[Batch]:
    """An engine runs a tenant's work: whatever it answers, the gateway relays or refuses it."""

    def check(said: bytes, cuts: list[float], choices: int, status: int) -> None:
        call = test_stream.call(n=choices)
        rewriter = stream.Rewriter(call, "ep_1")
        with contextlib.suppress(stream.Gone):
            for piece in edge.pieces(said, cuts):
                rewriter.feed(piece)
                used, _ = rewriter.delivered()
                assert 0 <= used.cached <= used.input
                assert used.output >= 0
            rewriter.rest()
        usage.last(said)
        error = engine_errors.translate(status, said, call, "ep_1")
        assert "error" in msgspec.json.decode(error.body("req_1"))

    answers = st.one_of(st.builds(edge.wounded, _events, edge.wounds), st.binary(max_size=300))
    cuts = st.lists(st.floats(0, 1), max_size=6)
    statuses = st.integers(100, 599)

    def batch(how: settings) -> None:
        how(given(answers, cuts, st.integers(1, 3), statuses)(part.counted(check)))()

    yield batch


# --- what nodes say -------------------------------------------------------------------------

words = st.text(max_size=20)
seconds = st.floats(allow_nan=False, allow_infinity=False)
said = st.builds(
    wire.ReplicaReport,
    replica_id=words,
    phase=st.sampled_from(wire.Phase),
    reason=words,
    detail=words,
    pid=st.integers(-(2**63), 2**63 - 1),
    address=st.one_of(words, st.just("unix:/run/x"), st.just("relay:h:1")),
    start_tier=st.one_of(st.none(), st.sampled_from(wire.StartTier)),
    phase_seconds=st.dictionaries(st.one_of(words, st.sampled_from(wire.Phase)), seconds),
    stalled_s=seconds,
    can_sleep=st.booleans(),
    start_flags=st.dictionaries(words, words, max_size=2),
    ready_s=seconds,
    engine=st.one_of(
        st.none(),
        st.builds(
            wire.EngineReport,
            version=words,
            kv_cache_tokens=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            max_concurrency=st.one_of(st.none(), seconds),
            max_model_len=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        ),
    ),
    log_tail=st.lists(words, max_size=3),
)
offer = st.builds(
    wire.Inventory,
    hostname=words,
    os=words,
    kernel=words,
    cpu_model=words,
    cpu_count=st.integers(-(2**63), 2**63 - 1),
    memory_bytes=st.integers(-(2**63), 2**63 - 1),
    disk_free_bytes=st.integers(-(2**63), 2**63 - 1),
    python=words,
    devices=st.lists(
        st.builds(
            wire.DeviceInfo,
            index=st.integers(-(2**63), 2**63 - 1),
            kind=words,
            name=words,
            memory_bytes=st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=3,
    ),
    missing_walls=st.dictionaries(words, words, max_size=2),
    engines=st.lists(words, max_size=2),
)
reports_said = st.builds(
    wire.Report,
    boot_id=words,
    seq=st.integers(-(2**63), 2**63 - 1),
    agent_version=words,
    desired_version=st.integers(-(2**63), 2**63 - 1),
    replicas=st.lists(said, max_size=3),
    inventory=st.one_of(st.none(), offer),
)
MESSAGES = (wire.EnrollRequest, wire.RenewRequest, wire.Report, wire.LogChunk, wire.Desired)


@contextmanager
def messages(part: Part) -> Iterator[Batch]:
    """What is no message is refused as such; what is one is taken in without a fault."""

    held = st.sampled_from(sorted(set(State) - {State.REQUESTED}))  # that one has no node yet

    def noise(data: bytes) -> None:
        for kind in MESSAGES:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                msgspec.json.decode(data, type=kind)

    def damage(report: wire.Report, wounds: list[edge.Wound]) -> None:
        noise(edge.wounded(msgspec.json.encode(report), wounds))

    def meaning(report: wire.Report, state: State, version: int) -> None:
        whole = msgspec.json.decode(msgspec.json.encode(report), type=wire.Report)
        assert whole == report
        for one in [None, *whole.replicas]:
            row = reports.Held("rep_1", state, version)
            verdict = reports.judge(row, one, whole.desired_version)
            assert verdict.to is None or verdict.to in ARCS[state]
            if one is not None and verdict.to is not None:
                _storable(reports.facts(verdict.to, one))
        if whole.inventory is not None:
            with contextlib.suppress(InvalidReport):
                _storable(inventory.document(whole.inventory))

    def batch(how: settings) -> None:
        how(given(st.binary(max_size=300))(part.counted(noise)))()
        how(given(reports_said, edge.wounds)(part.counted(damage)))()
        how(given(reports_said, held, st.integers(0, 9))(part.counted(meaning)))()

    yield batch


def _storable(facts: dict[str, Any]) -> None:
    """PostgreSQL takes it: no NaN, no endless number, no NUL."""
    text = json.dumps(facts, allow_nan=False)
    # An odd run of backslashes is an escape.
    assert "\\u0000" not in text.replace("\\\\", ""), text


PARTS = {
    "convergence": convergence,
    "recovery": recovery,
    "port": port,
    "engine": engine,
    "messages": messages,
}
