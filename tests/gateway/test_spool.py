"""The spool loses nothing that it took, invents nothing, and says when it can take no more."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import recovery, segment
from gateway.records import (
    CLOSE_MAX_BYTES,
    OPEN_MAX_BYTES,
    CloseRecord,
    OpenRecord,
    ProgressRecord,
    Record,
    frame,
    scan,
)
from gateway.spool import Spool, SpoolFull

SECOND = 1_000_000
SEGMENT = 64 << 10


def opened(number: int, at_us: int = 0) -> OpenRecord:
    return OpenRecord(f"req_{number}", "key_1", "prj_1", "ep_1", "rep_1", "chat", at_us)


def closed(number: int, output_tokens: int = 5) -> CloseRecord:
    names = ("key_1", "prj_1", "ep_1", "rep_1", "chat")
    return CloseRecord(
        f"req_{number}", *names, 0, SECOND, 200, "stop", "engine", 10, 4, output_tokens
    )


def take_all(spool: Spool | recovery.Orphan) -> list[CloseRecord]:
    """Ship everything to nowhere."""

    async def taking() -> list[CloseRecord]:
        found: list[CloseRecord] = []
        while batch := await spool.take(100):
            found += batch
            spool.acknowledge()
        return found

    return asyncio.run(taking())


def ids(records: list[CloseRecord]) -> list[str]:
    return [record.request_id for record in records]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, segment_bytes=SEGMENT)


def leave(spool: Spool) -> None:
    """What kill -9 leaves: the files, and a lock that nobody holds."""
    os.close(spool._writer.lock)


def only_orphan(folder: Path) -> recovery.Orphan:
    [orphan] = recovery.orphans(folder)
    return orphan


# --- Framing ----------------------------------------------------------------------------
text = st.text(max_size=40)
number = st.integers(0, 2**62)
records = st.lists(
    st.one_of(
        st.builds(OpenRecord, text, text, text, text, text, text, number),
        st.builds(ProgressRecord, text, number, number, number, number),
        st.builds(CloseRecord, *[text] * 6, number, number, number, text, text, *[number] * 3),
    ),
    min_size=1,
    max_size=6,
)


def read(data: bytes) -> list[Record]:
    return [record for _, record in scan(data)]


@settings(deadline=None)  # the machine may be busy
@given(records, st.data())
def test_a_file_cut_anywhere_gives_back_a_prefix(
    written: list[Record], data: st.DataObject
) -> None:
    frames = [frame(record) for record in written]
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))
    left = whole[:cut] + bytes(len(whole) - cut + 64)  # zeros may happen to be what was cut off
    complete = sum(left.startswith(b"".join(frames[: n + 1])) for n in range(len(frames)))
    assert read(left) == written[:complete]


@settings(deadline=None)  # the machine may be busy
@given(records, st.data())
def test_a_changed_byte_costs_at_most_its_own_record(
    written: list[Record], data: st.DataObject
) -> None:
    frames = [frame(record) for record in written]
    whole = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    hit = next(n for n in range(len(frames)) if sum(map(len, frames[: n + 1])) > at)
    assert read(bytes(whole) + bytes(64)) == written[:hit] + written[hit + 1 :]


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=400))
def test_noise_holds_no_record(noise: bytes) -> None:
    assert read(noise) == []


def test_every_close_fits_the_room_that_its_open_reserved() -> None:
    most = 2**63 - 1
    longest = OpenRecord("r" * 64, "k" * 31, "p" * 31, "e" * 31, "r" * 31, "o" * 32, most)
    assert len(frame(longest)) <= OPEN_MAX_BYTES
    names = "r" * (OPEN_MAX_BYTES - len(frame(OpenRecord("", "", "", "", "", "", most))) - 2)
    open_frame = frame(OpenRecord(names, "", "", "", "", "", most))
    close = CloseRecord(
        *(names, "", "", "", "", "", most, most, 599, "f" * 16, "c" * 16, most, most, most),
        nano_eur=most,
        first_us=most,
        decode_us=most,
    )
    assert len(open_frame) == OPEN_MAX_BYTES
    assert len(frame(close)) <= CLOSE_MAX_BYTES


# --- Serving and recovery ---------------------------------------------------------------
def test_closes_are_offered_once_and_in_order(spool: Spool) -> None:
    for n in range(3):
        spool.open(opened(n))
    for n in (1, 0, 2):
        spool.close(closed(n))
    assert spool.backlog == 3
    assert take_all(spool) == [closed(1), closed(0), closed(2)]
    assert spool.backlog == spool.in_flight == 0


def test_a_spool_that_is_done_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    spool.open(opened(1))
    spool.close(closed(1))
    take_all(spool)
    spool.finish()
    assert list(tmp_path.iterdir()) == []


def test_what_was_cut_off_is_charged_as_last_noted(spool: Spool, tmp_path: Path) -> None:
    spool.open(opened(1))
    spool.close(closed(1))
    spool.open(opened(2, at_us=SECOND))
    spool.open(opened(3, at_us=SECOND))
    spool.progress("req_3", 3 * SECOND, 10, 4, 20)
    spool.progress("req_3", 4 * SECOND, 10, 4, 30)
    spool.progress("req_3", 5 * SECOND - 1, 10, 4, 39)  # within a second of the last note
    leave(spool)
    first, second, third = take_all(only_orphan(tmp_path))
    assert first == closed(1)
    assert (second.request_id, second.finish, second.status) == ("req_2", "gateway_gone", 0)
    assert (second.output_tokens, second.closed_at_us) == (0, SECOND)
    assert (third.counted_by, third.status, third.closed_at_us) == ("delivered", 200, 4 * SECOND)
    assert (third.input_tokens, third.cached_tokens, third.output_tokens) == (10, 4, 30)


def test_recovery_gives_the_same_records_until_it_is_done(spool: Spool, tmp_path: Path) -> None:
    for n in range(250):
        spool.open(opened(n))
        if n % 3:
            spool.close(closed(n))
    leave(spool)
    orphan = only_orphan(tmp_path)
    assert recovery.orphans(tmp_path) == []  # one process takes it up, not two
    first = take_all(orphan)
    orphan.release()
    again = only_orphan(tmp_path)
    assert take_all(again) == first
    assert sorted(ids(first)) == sorted(f"req_{n}" for n in range(250))
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_living_writer_is_left_alone(spool: Spool, tmp_path: Path) -> None:
    spool.open(opened(1))
    assert recovery.orphans(tmp_path) == []
    spool.finish()
    assert [path.name[:7] for path in tmp_path.iterdir()] == ["writer-"]
    assert ids(take_all(only_orphan(tmp_path))) == ["req_1"]


def test_the_cursor_saves_replays_and_loses_nothing(spool: Spool, tmp_path: Path) -> None:
    for n in range(20):
        spool.open(opened(n))
        spool.close(closed(n))

    async def half() -> None:
        await spool.take(12)
        spool.acknowledge()

    asyncio.run(half())
    spool.open(opened(99))
    spool.finish()
    assert ids(take_all(only_orphan(tmp_path))) == [*(f"req_{n}" for n in range(12, 20)), "req_99"]


def test_a_broken_cursor_is_no_cursor(spool: Spool, tmp_path: Path) -> None:
    spool.open(opened(1))
    spool.close(closed(1))
    path = spool._writer.path
    recovery.write_cursor(path, (1, 1 << 40))
    assert recovery.read_cursor(path) == (1, 1 << 40)
    cursor = bytearray((path / "cursor").read_bytes())
    cursor[3] ^= 1
    (path / "cursor").write_bytes(cursor)
    leave(spool)
    assert ids(take_all(only_orphan(tmp_path))) == ["req_1"]


def segments_on_disk(folder: Path) -> int:
    return len(list(folder.glob("writer-*/*.segment")))


def test_segments_go_when_nobody_needs_them(spool: Spool, tmp_path: Path) -> None:
    async def serve() -> None:
        await spool.start()
        for n in range(3000):
            spool.open(opened(n))
            spool.close(closed(n))
            if n % 100 == 99:
                await spool.take(500)
                spool.acknowledge()
        await spool.stop_chores()

    asyncio.run(serve())
    spool.sync()
    assert segments_on_disk(tmp_path) <= 3


def test_a_long_stream_does_not_pin_the_disk(spool: Spool, tmp_path: Path) -> None:
    spool.open(opened(7777))
    spool.progress("req_7777", 2 * SECOND, 10, 4, 20)

    async def serve() -> None:
        await spool.start()
        for n in range(3000):
            spool.open(opened(n))
            spool.close(closed(n))
            if n % 100 == 99:
                await spool.take(500)
                spool.acknowledge()
        await spool.stop_chores()

    asyncio.run(serve())
    spool.sync()
    assert segments_on_disk(tmp_path) <= 4
    leave(spool)
    recovered = {record.request_id: record for record in take_all(only_orphan(tmp_path))}
    assert recovered["req_7777"].output_tokens == 20


def test_a_long_backlog_waits_on_disk_and_keeps_its_order(spool: Spool, tmp_path: Path) -> None:
    for n in range(5000):
        spool.open(opened(n))
        spool.close(closed(n))
    assert segments_on_disk(tmp_path) > 8
    assert spool.backlog < 2000  # in memory: the oldest segment and the newest
    assert ids(take_all(spool)) == [f"req_{n}" for n in range(5000)]


def test_a_turn_between_take_and_acknowledge_loses_nothing(spool: Spool) -> None:
    async def serve() -> list[str]:
        found: list[str] = []
        spool.open(opened(9_999_999))  # holds the first segment
        for n in range(4000):
            spool.open(opened(n))
            spool.close(closed(n))
            if n % 150 == 10:
                batch = await spool.take(100)
                for extra in range(200):
                    spool.open(opened(10_000 + n * 200 + extra))
                    spool.close(closed(10_000 + n * 200 + extra))
                spool.acknowledge()
                found += ids(batch)
        while batch := await spool.take(500):
            spool.acknowledge()
            found += ids(batch)
        return found

    found = asyncio.run(serve())
    expected = 4000 + 200 * len([n for n in range(4000) if n % 150 == 10])
    assert len(found) == len(set(found)) == expected


# --- kill -9 ----------------------------------------------------------------------------
WRITER = """
import sys
from pathlib import Path
from gateway.spool import Spool
from gateway.records import CloseRecord, OpenRecord
spool = Spool(Path(sys.argv[1]), segment_bytes=1 << 16)
names = ("key_1", "prj_1", "ep_1", "rep_1", "chat")
n = 0
while True:
    spool.open(OpenRecord(f"req_{n}", *names, 0))
    if n % 7:
        spool.close(CloseRecord(f"req_{n}", *names, 0, 1, 200, "stop", "engine", 1, 0, n))
        print(n, flush=True)
    n += 1
"""


def test_a_killed_writer_loses_no_close_that_returned(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(2000)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    told += [int(line) for line in process.stdout.read().splitlines() if line]
    process.stdout.close()
    recovered = {record.request_id: record for record in take_all(only_orphan(tmp_path))}
    for n in told[:-1]:  # the last line may be torn
        assert recovered[f"req_{n}"].output_tokens == n
        assert recovered[f"req_{n}"].finish == "stop"
    unclosed = {name for name, record in recovered.items() if record.finish == "gateway_gone"}
    # Where the next one stays open by design, the one after it may be open too.
    later = {f"req_{told[-1] + n}" for n in (1, 2)}
    assert unclosed - later == {f"req_{n}" for n in range(told[-1] + 1) if not n % 7}


# --- A disk that is full or broken ------------------------------------------------------
class Disk:
    """Stands before os.pwrite and os.posix_fallocate, and refuses on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.broken = False
        monkeypatch.setattr(os, "pwrite", self._wrap(os.pwrite, lambda: self.broken, errno.EIO))
        full = self._wrap(os.posix_fallocate, lambda: self.full, errno.ENOSPC)
        monkeypatch.setattr(os, "posix_fallocate", full)

    def _wrap(
        self, call: Callable[..., object], refuses: Callable[[], bool], number: int
    ) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            if refuses():
                raise OSError(number, os.strerror(number))
            return call(*arguments)

        return wrapped


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_full_disk_stops_new_work_but_no_close(disk: Disk, spool: Spool) -> None:
    disk.full = True
    accepted = 0
    with pytest.raises(SpoolFull, match="no space left"):
        while True:
            spool.open(opened(accepted))
            accepted += 1
    assert not spool.healthy
    assert accepted > 150
    for n in range(accepted):
        spool.close(closed(n))
    assert not spool._unwritten  # each found its room
    assert len(take_all(spool)) == accepted
    disk.full = False
    spool.try_again()
    assert spool.healthy
    spool.open(opened(accepted))


def test_a_spool_may_start_on_a_full_disk_and_recover(disk: Disk, tmp_path: Path) -> None:
    disk.full = True
    spool = Spool(tmp_path, segment_bytes=SEGMENT)
    assert not spool.healthy
    with pytest.raises(SpoolFull):
        spool.open(opened(1))
    disk.full = False

    async def recover() -> None:
        await spool.start()
        for _ in range(100):
            if spool.healthy:
                break
            await asyncio.sleep(0.02)
        spool.open(opened(1))
        spool.close(closed(1))
        await spool.stop_chores()

    asyncio.run(recover())
    assert take_all(spool) == [closed(1)]


def test_a_broken_disk_keeps_closes_in_memory_until_it_is_well(
    disk: Disk, spool: Spool, tmp_path: Path
) -> None:
    for n in range(3):
        spool.open(opened(n))
    disk.broken = True
    spool.close(closed(0))
    spool.close(closed(1))
    assert not spool.healthy
    with pytest.raises(SpoolFull):
        spool.open(opened(9))
    assert ids(take_all(spool)) == ["req_0", "req_1"]  # PostgreSQL may have them at once
    spool.close(closed(2))
    disk.broken = False
    spool.try_again()
    assert spool.healthy
    leave(spool)
    kept = {record.request_id: record.finish for record in take_all(only_orphan(tmp_path))}
    assert kept["req_2"] == "stop"


def test_closes_written_late_are_not_lost_when_others_were_taken(disk: Disk, spool: Spool) -> None:
    for n in range(4):
        spool.open(opened(n))

    async def shipping() -> list[str]:
        disk.broken = True
        spool.close(closed(0))
        batch = await spool.take(10)
        spool.close(closed(1))
        disk.broken = False
        spool.try_again()  # both are on disk now
        disk.broken = True
        spool.close(closed(2))
        spool.acknowledge()
        found = ids(batch)
        while more := await spool.take(10):
            found += ids(more)
            spool.acknowledge()
        return found

    assert set(asyncio.run(shipping())) == {"req_0", "req_1", "req_2"}


def test_a_file_size_limit_is_met_like_a_full_disk(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from gateway.spool import Spool\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "spool = Spool(Path(sys.argv[1]), segment_bytes=1 << 16)\n"
        "print(spool.healthy, spool.problem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False requests cannot be metered: File too large"


def test_an_open_record_that_is_too_long_is_refused(spool: Spool) -> None:
    record = OpenRecord("r" * OPEN_MAX_BYTES, "key_1", "prj_1", "ep_1", "rep_1", "chat", 0)
    with pytest.raises(ValueError, match="too long"):
        spool.open(record)
    assert spool.healthy


def test_records_reach_the_disk_soon(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    async def serve() -> None:
        await spool.start()
        spool.open(opened(1))
        for _ in range(100):
            if synced:
                break
            await asyncio.sleep(0.002)
        await spool.stop_chores()

    asyncio.run(serve())
    assert synced
    assert segment.numbered(spool._writer.path)
