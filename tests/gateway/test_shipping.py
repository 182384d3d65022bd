"""Usage reaches PostgreSQL once: after outages, replays, crashes, and beside bad rows."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
import pytest

from billing.models import UsageInbox
from gateway import recovery, tasks
from gateway.config import Config
from gateway.records import CloseRecord, OpenRecord
from gateway.shipping import BATCH, Shipper
from gateway.spool import Spool
from gateway.store import Store
from tests.gateway.house import Beat, House, Road, eventually, role_url

NAMES = ("key_1", "prj_1", "ep_1", "rep_1", "chat.completions")
OPENED_US = 1_772_625_600_123_457


def opened(request_id: str) -> OpenRecord:
    return OpenRecord(request_id, *NAMES, OPENED_US)


def closed(request_id: str, tokens: int = 7) -> CloseRecord:
    return CloseRecord(
        request_id,
        *NAMES,
        opened_at_us=OPENED_US,
        closed_at_us=OPENED_US + 1_500_000,
        status=200,
        finish="stop",
        counted_by="engine",
        input_tokens=100,
        cached_tokens=64,
        output_tokens=tokens,
    )


class Gateway:
    """The metering half of one."""

    def __init__(self, config: Config) -> None:
        self.spool = Spool(config.folder / "spool", segment_bytes=1 << 16)
        self.store = Store(config.database_url)
        self.shipper = Shipper(self.spool, self.store, config.folder / "spool", config.gateway_id)

    async def start(self) -> None:
        await self.spool.start()
        await self.shipper.start()

    async def serve(self, *request_ids: str) -> None:
        for request_id in request_ids:
            self.spool.open(opened(request_id))
            self.spool.close(closed(request_id))

    async def begin(self, request_id: str) -> None:
        self.spool.open(opened(request_id))

    async def stop(self) -> None:
        await self.shipper.stop()
        await self.spool.stop()
        await self.store.stop()

    async def die(self) -> None:
        """What kill -9 leaves: files, and locks that nobody holds."""
        await tasks.end(self.shipper._task)
        for orphan in self.shipper._orphans:
            orphan.release()
        await self.spool.stop_chores()
        self.spool._writer.release()
        await self.store.stop()


@contextlib.contextmanager
def running(beat: Beat, config: Config) -> Iterator[Gateway]:
    async def make() -> Gateway:
        gateway = Gateway(config)
        await gateway.start()
        return gateway

    gateway = beat.run(make())
    try:
        yield gateway
    finally:
        beat.run(gateway.stop())


def inbox() -> list[str]:
    return sorted(UsageInbox.objects.values_list("request_id", flat=True))


def test_a_closed_request_arrives_whole(house: House, beat: Beat, config: Config) -> None:
    with running(beat, config) as gateway:
        beat.run(gateway.serve("req_1"))
        eventually(inbox, within_s=2)
    row = UsageInbox.objects.get()
    names = (row.request_id, row.key_id, row.project_id, row.endpoint_id, row.replica_id)
    assert names == ("req_1", *NAMES[:4])
    assert (row.gateway_id, row.operation) == ("gw-test", "chat.completions")
    assert row.opened_at == datetime(2026, 3, 4, 12, 0, 0, 123457, tzinfo=UTC)
    assert (row.closed_at - row.opened_at).total_seconds() == 1.5
    assert (row.status, row.finish, row.counted_by) == (200, "stop", "engine")
    assert (row.input_tokens, row.cached_tokens, row.output_tokens) == (100, 64, 7)
    assert (row.first_us, row.decode_us) == (None, None)  # nobody could tell
    assert row.booked_at is None
    assert list((config.folder / "spool").iterdir()) == []


@pytest.mark.trap("usage-table")
def test_the_role_may_insert_and_nothing_else(house: House) -> None:
    with psycopg.connect(role_url(), autocommit=True) as connection:
        for statement in (
            "SELECT 1 FROM billing_usageinbox",
            "UPDATE billing_usageinbox SET output_tokens = 0",
            "DELETE FROM billing_usageinbox",
            "INSERT INTO billing_usageinbox (booked_at) VALUES (now())",
            "SELECT 1 FROM tenancy_apikey",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_what_is_sent_twice_arrives_once_and_unchanged(
    house: House, beat: Beat, config: Config
) -> None:
    with running(beat, config) as gateway:
        beat.run(gateway.shipper._insert([closed("req_1"), closed("req_1", tokens=8)]))
        beat.run(gateway.shipper._insert([closed("req_1", tokens=9), closed("req_2")]))
    assert inbox() == ["req_1", "req_2"]
    assert UsageInbox.objects.get(pk="req_1").output_tokens == 7


def test_usage_waits_through_an_outage(
    house: House, beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"req_{n:05d}" for n in range(3 * BATCH)]
    with running(beat, config) as gateway:
        beat.run(gateway.serve("req_before"))
        eventually(inbox)
        road.cut()
        beat.run(gateway.serve(*names))
        eventually(lambda: "usage waits in the spool" in caplog.text)
        assert inbox() == ["req_before"]
        assert gateway.spool.healthy
        road.mend()
        eventually(lambda: len(inbox()) == 3 * BATCH + 1)
    assert inbox() == [*names, "req_before"]


def test_a_crash_before_the_acknowledgement_books_once(
    house: House, beat: Beat, config: Config
) -> None:
    async def live_and_die() -> None:
        gateway = Gateway(config)
        await gateway.serve("req_1", "req_2")
        await gateway.begin("req_cut")
        await gateway.shipper._insert(await gateway.spool.take(1))  # committed, not acknowledged
        await gateway.die()

    beat.run(live_and_die())
    assert inbox() == ["req_1"]
    for _ in range(2):
        with running(beat, config):
            eventually(lambda: len(inbox()) == 3)
    assert inbox() == ["req_1", "req_2", "req_cut"]
    gone = UsageInbox.objects.get(pk="req_cut")
    assert (gone.finish, gone.counted_by, gone.output_tokens) == ("gateway_gone", "delivered", 0)
    assert list((config.folder / "spool").iterdir()) == []


def test_a_crash_in_the_middle_of_recovery_books_once(
    house: House, beat: Beat, config: Config, road: Road
) -> None:
    names = [f"req_{n:05d}" for n in range(2 * BATCH + 1)]

    async def live_and_die() -> None:
        gateway = Gateway(config)
        await gateway.serve(*names)
        await gateway.die()

    async def recover_half_and_die() -> None:
        gateway = Gateway(config)
        [orphan] = recovery.orphans(config.folder / "spool")
        batch = await orphan.take(BATCH)
        await gateway.shipper._insert(batch)
        orphan.acknowledge()
        orphan.release()
        await gateway.die()

    beat.run(live_and_die())
    beat.run(recover_half_and_die())
    assert 0 < len(inbox()) < len(names)
    with running(beat, config):
        eventually(lambda: len(inbox()) == len(names))
    assert inbox() == names
    assert list((config.folder / "spool").iterdir()) == []


def test_a_row_that_postgresql_can_never_take_holds_up_nobody(
    house: House, beat: Beat, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with running(beat, config) as gateway:
        beat.run(gateway.serve("req_1", "req_\0", "req_2", "req_" + "x" * 70, "req_3"))
        eventually(lambda: gateway.shipper.refused == 2)
        eventually(lambda: len(inbox()) == 3)
    assert inbox() == ["req_1", "req_2", "req_3"]
    refused = (config.folder / "spool" / "refused.jsonl").read_bytes().splitlines()
    kept = [msgspec.json.decode(line, type=CloseRecord).request_id for line in refused]
    assert sorted(kept) == ["req_\0", "req_" + "x" * 70]
    assert "is kept in refused.jsonl" in caplog.text


def test_missing_rights_lose_nothing(
    house: House, beat: Beat, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = replace(config, database_url=config.database_url.replace("stoa_gateway", "nobody"))
    with running(beat, nobody) as gateway:
        beat.run(gateway.serve("req_1"))
        eventually(lambda: "usage waits in the spool" in caplog.text)
        assert not gateway.shipper.connected
    assert inbox() == []
    with running(beat, config):
        eventually(lambda: inbox() == ["req_1"])


def test_stopping_ships_what_there_is(house: House, beat: Beat, config: Config) -> None:
    with running(beat, config) as gateway:
        beat.run(gateway.serve("req_1"))
    assert inbox() == ["req_1"]
    assert list((config.folder / "spool").iterdir()) == []


def test_another_process_of_this_host_is_not_robbed(
    house: House, beat: Beat, config: Config, tmp_path: Path
) -> None:
    async def two() -> None:
        first, second = Gateway(config), Gateway(config)
        await first.begin("req_live")
        await second.serve("req_2")
        await second.start()
        await second.stop()
        first.spool.close(closed("req_live"))
        await first.stop()

    beat.run(two())
    rows = UsageInbox.objects.values_list("request_id", "finish")
    assert sorted(rows) == [("req_2", "stop"), ("req_live", "stop")]
