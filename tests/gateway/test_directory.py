"""The directory follows PostgreSQL within a second, and outlives it on disk for a bounded time."""

import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection

from controlplane.endpoints.models import Alias as AliasRow
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import State
from controlplane.tenancy.models import ApiKey, ApiKeySecret, Organization, Project
from gateway import directory as directory_structs
from gateway import store
from gateway.config import Config
from gateway.directory import Alias, Directory, RateLimits
from gateway.keeper import Keeper
from gateway.saved import RefusedError, Saved
from tests.gateway.house import NOW, PEPPER, Beat, House, Road, eventually

SECRET = "sk-stoa-12345678-secret"


@contextlib.contextmanager
def keeping(beat: Beat, config: Config) -> Iterator[Keeper]:
    async def make() -> Keeper:
        keeper = Keeper(config)
        await keeper.start()
        return keeper

    keeper = beat.run(make())
    try:
        yield keeper
    finally:
        beat.run(keeper.stop())


def seconds_until(holds: Callable[[], object]) -> float:
    began = time.monotonic()
    eventually(holds)
    return time.monotonic() - began


def test_the_directory_holds_what_the_views_show(house: House, beat: Beat, config: Config) -> None:
    key = house.key(SECRET, allowed_models=["chat"], expires_at=NOW + timedelta(days=1))
    endpoint = house.endpoint(
        adapters=[{"name": "b", "path": "/b"}, {"name": "a", "path": "/a"}],
        start_seconds=[10.0, 13.0, 90.0, 4.0],
        queue_limit=50,
        ttft_target_s=0.5,
    )
    report = {"max_model_len": 4096, "kv_cache_tokens": 6000, "max_concurrency": 2.0}
    house.replica(endpoint, "unix:/run/1", engine_report=report)
    smaller = {"max_model_len": 2048, "max_num_seqs": 32}
    house.replica(endpoint, "relay:10.0.0.1:9443", engine_report=smaller)
    with keeping(beat, config) as keeper:
        directory = keeper.current
    found = directory.key(SECRET.encode())
    assert found is not None
    assert (found.id, found.project_id) == (key.id, house.project.id)
    assert found.organization_id == house.project.organization_id
    assert found.scopes == {"inference"}
    assert found.models == {"chat"}
    assert found.expires_at == (NOW + timedelta(days=1)).timestamp()
    assert directory.key(b"sk-stoa-12345678-secreT") is None
    there = directory.endpoint(house.project.id, "chat")
    assert there is not None
    assert there is directory.endpoint(house.project.id, endpoint.id)
    assert there.adapters == {"a", "b"}
    assert (there.model, there.stopped, there.max_model_len) == ("org/model", False, 4096)
    assert ([one.window for one in there.replicas], there.uneven) == ([4096, 2048], True)
    assert there.created == int(NOW.timestamp())
    assert [replica.address for replica in there.replicas] == ["unix:/run/1", "relay:10.0.0.1:9443"]
    assert [replica.kv_tokens for replica in there.replicas] == [8192, None]
    assert [replica.max_num_seqs for replica in there.replicas] == [None, 32]
    assert (there.start_s, there.queue_limit, there.queue_s) == (11.5, 50, None)
    assert there.ttft_target_s == 0.5
    assert directory.endpoints(house.project.id) == [there]


def test_limits_are_those_of_keys_projects_and_organizations(
    house: House, beat: Beat, config: Config
) -> None:
    house.key(SECRET, requests_per_minute=60, concurrency=2, priority=5, networks=["10.0.0.0/8"])
    Organization.objects.update(input_tokens_per_minute=7)
    project_id, organization_id = house.project.id, house.project.organization_id
    with keeping(beat, config) as keeper:
        directory = keeper.current
        key = directory.key(SECRET.encode())
        assert key is not None
        assert key.rate_limits == RateLimits(60, None, None, 2)
        assert (key.priority, key.networks) == (5, ("10.0.0.0/8",))
        project = directory.project(project_id)
        assert project == directory_structs.Project(project_id, organization_id)
        organization = directory.organization(organization_id)
        assert organization is not None
        assert organization.rate_limits == RateLimits(input_tokens_per_minute=7)
        assert (directory.project("prj_x"), directory.organization("org_x")) == (None, None)

        def limits() -> list[RateLimits]:
            found = keeper.current.organization(organization_id)
            there = keeper.current.project(project_id)
            assert found is not None
            assert there is not None
            return [found.rate_limits, there.rate_limits]

        Organization.objects.update(input_tokens_per_minute=None, concurrency=9)
        Project.objects.update(output_tokens_per_minute=1000)
        wanted = [RateLimits(concurrency=9), RateLimits(output_tokens_per_minute=1000)]
        assert seconds_until(lambda: limits() == wanted) < 1.0
        payload = keeper.current.encode(config.region)
    again = Directory.decode(payload, PEPPER, config.region, generation=1, read_at=1.0)
    assert again.key(SECRET.encode()) == key
    assert again.project(project_id) == keeper.current.project(project_id)
    assert again.organization(organization_id) == keeper.current.organization(organization_id)


def test_a_key_is_found_by_each_of_its_secrets_until_that_ends(
    house: House, beat: Beat, config: Config
) -> None:
    ends = datetime.now(UTC) + timedelta(days=30)
    key = house.key(SECRET, expires_at=ends)
    secret, soon = key.secrets.get(), time.time() + 60
    with keeping(beat, config) as keeper:
        newer = "sk-stoa-12345678-newer"
        digest = hmac.digest(PEPPER, newer.encode(), "sha256")
        until = datetime.fromtimestamp(soon, UTC)
        ApiKeySecret.objects.update(expires_at=until)
        added = key.secrets.create(prefix="sk-stoa-newer", hash=digest, created_at=NOW)
        assert seconds_until(lambda: keeper.current.key(newer.encode())) < 1.0
        old, new = (keeper.current.key(text.encode()) for text in (SECRET, newer))
        assert old is not None
        assert new is not None
        assert (old.id, old.secret_id) == (key.id, secret.id)
        assert (new.id, new.secret_id) == (key.id, added.id)
        assert old.expires_at == pytest.approx(soon)
        assert new.expires_at is not None
        assert new.expires_at == pytest.approx(ends.timestamp())
        ApiKey.objects.filter(pk=key.pk).update(revoked_at=NOW)
        texts = (SECRET.encode(), newer.encode())
        assert seconds_until(lambda: not any(map(keeper.current.key, texts))) < 1.0


def test_aliases_are_their_projects(house: House, beat: Beat, config: Config) -> None:
    project_id = house.project.id
    AliasRow.objects.create(
        project=house.project, name="gpt-4o", targets=["big", "small:poet"],
        fallback_on=["no_capacity"], created_at=NOW,
    )  # fmt: skip
    with keeping(beat, config) as keeper:
        project = keeper.current.project(project_id)
        assert project is not None
        alias = Alias(("big", "small:poet"), frozenset({"no_capacity"}))
        assert project.aliases == {"gpt-4o": alias}
        payload = keeper.current.encode(config.region)
        AliasRow.objects.update(targets=["small"])
        changed = Alias(("small",), frozenset({"no_capacity"}))

        def now() -> Alias | None:
            found = keeper.current.project(project_id)
            return found.aliases.get("gpt-4o") if found else None

        assert seconds_until(lambda: now() == changed) < 1.0
        AliasRow.objects.all().delete()
        assert seconds_until(lambda: now() is None) < 1.0
    again = Directory.decode(payload, PEPPER, config.region, generation=1, read_at=1.0)
    assert again.project(project_id) == project


def test_nothing_of_another_project_or_region_is_found(
    house: House, beat: Beat, config: Config
) -> None:
    mine = house.endpoint()
    foreign = House.build("eu-fr-1")
    foreign.key("sk-stoa-foreign-secret")
    theirs = foreign.endpoint()
    foreign.replica(theirs)
    with keeping(beat, config) as keeper:
        directory = keeper.current
    assert directory.endpoint(house.project.id, mine.id) is not None
    assert directory.endpoint("prj_other", mine.id) is None
    assert directory.endpoint(foreign.project.id, theirs.id) is None
    assert directory.key(b"sk-stoa-foreign-secret") is None
    assert directory.every_endpoint() == directory.endpoints(house.project.id)


def test_an_edit_bites_within_a_second(house: House, beat: Beat, config: Config) -> None:
    key = house.key(SECRET)
    with keeping(beat, config) as keeper:
        assert keeper.current.key(SECRET.encode()) is not None
        ApiKey.objects.filter(pk=key.pk).update(revoked_at=NOW)
        assert seconds_until(lambda: keeper.current.key(SECRET.encode()) is None) < 1.0

        changed = beat.begin(keeper.changed())
        endpoint = house.endpoint()
        assert beat.wait(changed).endpoint(house.project.id, "chat") is not None

        def ready() -> int:
            found = keeper.current.endpoint(house.project.id, endpoint.id)
            return len(found.replicas) if found else 0

        replica = house.replica(endpoint)
        assert seconds_until(lambda: ready() == 1) < 1.0
        Replica.objects.filter(pk=replica.pk).update(state=State.DRAINING)
        assert seconds_until(lambda: ready() == 0) < 1.0
        Endpoint.objects.filter(pk=endpoint.pk).update(deleted_at=NOW)
        gone = lambda: keeper.current.endpoint(house.project.id, endpoint.id) is None  # noqa: E731
        assert seconds_until(gone) < 1.0


@pytest.mark.trap("dead-backends")
def test_a_lost_notification_is_found_by_the_next_contact(
    house: House, beat: Beat, config: Config
) -> None:
    with keeping(beat, config) as keeper:
        with connection.cursor() as cursor:  # a change that announces nothing
            for table in ("tenancy_apikey", "tenancy_apikeysecret"):
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            house.key(SECRET)
            for table in ("tenancy_apikey", "tenancy_apikeysecret"):
                cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
            cursor.execute("SELECT nextval('gateway.directory_generation')")
        eventually(lambda: keeper.current.key(SECRET.encode()))


def test_it_reads_anew_after_an_outage(
    house: House, beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    key = house.key(SECRET)
    with keeping(beat, config) as keeper:
        road.cut()
        ApiKey.objects.filter(pk=key.pk).update(revoked_at=NOW)
        eventually(lambda: "no directory from PostgreSQL" in caplog.text)
        assert keeper.current.key(SECRET.encode()) is not None  # it serves on
        contact_at = keeper.contact_at
        assert not keeper.stale(contact_at + 899)
        assert keeper.stale(contact_at + 901)
        road.mend()
        eventually(lambda: keeper.current.key(SECRET.encode()) is None)
        eventually(lambda: keeper.contact_at > contact_at)
    assert "PostgreSQL is back" in caplog.text


def test_it_starts_from_disk_while_postgresql_is_away(
    house: House, beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    house.key(SECRET)
    house.replica(house.endpoint())
    with keeping(beat, config) as keeper:
        before = keeper.current
    copy = config.folder / "directory"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert SECRET.encode() not in copy.read_bytes()
    road.cut()
    with keeping(beat, config) as keeper:
        assert keeper.current.key(SECRET.encode()) == before.key(SECRET.encode())
        assert keeper.current.endpoints(house.project.id) == before.endpoints(house.project.id)
        assert keeper.current.generation == before.generation
        assert not keeper.stale(time.time())
        assert keeper.stale(time.time() + 901)
    assert "serving from the directory on disk" in caplog.text


def test_without_postgresql_and_copy_it_is_stale_from_the_start(
    beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    road.cut()
    with keeping(beat, config) as keeper:
        assert keeper.stale(time.time())
        assert keeper.current.generation == 0
        road.mend()
        eventually(lambda: not keeper.stale(time.time()))
    assert "is refused" in caplog.text


def test_a_connection_that_hangs_is_given_up(
    house: House,
    beat: Beat,
    config: Config,
    road: Road,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "QUERY_TIMEOUT_S", 0.2)
    with keeping(beat, config) as keeper:
        road.silent = True
        eventually(lambda: "no directory from PostgreSQL" in caplog.text)
        road.silent = False
        house.key(SECRET)
        eventually(lambda: keeper.current.key(SECRET.encode()))


def test_a_database_that_went_back_is_believed_and_reported(
    house: House, beat: Beat, config: Config, road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    house.endpoint()
    house.endpoint("another")
    with keeping(beat, config):
        pass
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('gateway.directory_generation', 1)")
    with keeping(beat, config) as keeper:
        assert keeper.current.generation == 1
    assert "went back to generation 1" in caplog.text
    road.cut()
    with keeping(beat, config) as keeper:  # and so is the copy that was made of it
        assert keeper.current.generation == 1
        assert not keeper.stale(time.time())


# --- The copy on disk -------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def saved(folder: Path, pepper: bytes = PEPPER) -> Saved:
    return Saved(folder, pepper, max_age_s=900)


def test_a_copy_is_loaded_as_it_was_written(folder: Path) -> None:
    saved(folder).write(b"payload", 7, read_at=1000.0, contact_at=1500.0)
    loaded = saved(folder).load(now=2000.0)
    assert (loaded.payload, loaded.generation, loaded.read_at) == (b"payload", 7, 1000.0)
    assert loaded.contact_at == 1500.0


@pytest.mark.parametrize("name", ["directory", "directory.seen"])
def test_any_changed_byte_is_refused(folder: Path, name: str) -> None:
    saved(folder).write(b"payload", 7, read_at=1000.0, contact_at=1000.0)
    path = folder / name
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(RefusedError):
            saved(folder).load(now=1000.0)
        path.write_bytes(good[:at])
        with pytest.raises(RefusedError):
            saved(folder).load(now=1000.0)
    path.write_bytes(good)
    assert saved(folder).load(now=1000.0)


def test_another_pepper_is_refused(folder: Path) -> None:
    saved(folder).write(b"payload", 7, read_at=1000.0, contact_at=1000.0)
    with pytest.raises(RefusedError, match="MAC is wrong"):
        saved(folder, b"another").load(now=1000.0)


def test_an_older_generation_is_refused(folder: Path) -> None:
    saver = saved(folder)
    saver.write(b"revoked key still in", 7, read_at=1000.0, contact_at=1000.0)
    old = (folder / "directory").read_bytes()
    saver.write(b"revoked key gone", 8, read_at=1001.0, contact_at=1001.0)
    (folder / "directory").write_bytes(old)
    with pytest.raises(RefusedError, match="generation 7 is older than 8"):
        saved(folder).load(now=1002.0)


def test_an_older_reading_of_one_generation_is_refused(folder: Path) -> None:
    saver = saved(folder)
    saver.write(b"read too early", 7, read_at=1000.0, contact_at=1000.0)
    old = (folder / "directory").read_bytes()
    saver.write(b"read again", 7, read_at=1001.0, contact_at=1001.0)
    (folder / "directory").write_bytes(old)
    with pytest.raises(RefusedError, match="older"):
        saved(folder).load(now=1002.0)


def test_age_counts_from_the_last_contact(folder: Path) -> None:
    saver = saved(folder)
    saver.write(b"payload", 7, read_at=1000.0, contact_at=1000.0)
    with pytest.raises(RefusedError, match="STOA_DIRECTORY_MAX_AGE_S"):
        saved(folder).load(now=1901.0)
    saver.touch(1800.0)
    assert saved(folder).load(now=1901.0).contact_at == 1800.0
    with pytest.raises(RefusedError, match="clock"):
        saved(folder).load(now=900.0)


def test_the_same_content_is_not_written_twice(folder: Path) -> None:
    saver = saved(folder)
    saver.write(b"payload", 7, read_at=1000.0, contact_at=1000.0)
    before = (folder / "directory").stat().st_ino
    saver.write(b"payload", 7, read_at=1050.0, contact_at=1050.0)
    assert (folder / "directory").stat().st_ino == before
    assert saved(folder).load(now=1900.0).contact_at == 1050.0


def test_a_copy_of_another_region_is_refused() -> None:
    payload = Directory(PEPPER, {}, (), generation=1, read_at=1.0).encode("eu-fr-1")
    with pytest.raises(ValueError, match="eu-fr-1"):
        Directory.decode(payload, PEPPER, "eu-de-1", generation=1, read_at=1.0)
    with pytest.raises(ValueError, match="another version"):
        Directory.decode(b"\x80", PEPPER, "eu-de-1", generation=1, read_at=1.0)
