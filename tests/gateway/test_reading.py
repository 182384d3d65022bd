"""What changed is read alone, and makes the same directory as reading everything."""

import hmac
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection as django
from django.utils import timezone

from compliance import ids
from controlplane.endpoints.models import Alias, Endpoint
from controlplane.fleet.models import Revocation
from controlplane.tenancy.models import ApiKey, ApiKeySecret, Organization, Project
from gateway import reading, store
from gateway.directory import Directory
from tests.gateway.house import NOW, PEPPER, REGION, Beat, House, role_url

Read = Callable[..., Directory]


@pytest.fixture
def read(house: House, beat: Beat) -> Iterator[Read]:
    """One reading, over one connection: `read(before)`."""
    connection = beat.run(store.connect(role_url(), "tests"))

    def once(before: Directory | None = None) -> Directory:
        return beat.run(reading.read(connection, REGION, PEPPER, 1.0, before, whole=before is None))

    yield once
    beat.run(connection.close())


def digest(secret: str) -> bytes:
    return hmac.digest(PEPPER, secret.encode(), "sha256")


def content(directory: Directory) -> list[Any]:
    return [
        directory.generation,
        directory.keys,
        directory.every_endpoint(),
        directory.budgets.all,
        directory.revoked,
        [directory.project(id) for id in Project.objects.values_list("id", flat=True)],
        [directory.organization(id) for id in Organization.objects.values_list("id", flat=True)],
    ]


def test_only_the_key_that_changed_is_read(house: House, read: Read) -> None:
    for secret in ("a", "b", "c"):
        house.key(secret)
    before = read()
    ApiKey.objects.filter(secrets__hash=digest("b")).update(priority=7)
    after = read(before)
    assert after.keys[digest("b")].priority == 7
    assert before.keys[digest("b")].priority == 0  # requests under way keep what they had
    assert after.keys[digest("a")] is before.keys[digest("a")]
    assert after.every_endpoint() == before.every_endpoint()
    ApiKey.objects.filter(secrets__hash=digest("b")).update(revoked_at=NOW)
    assert set(read(after).keys) == {digest("a"), digest("c")}


def test_what_is_no_key_leaves_the_keys_alone(house: House, read: Read) -> None:
    house.key("a")
    before = read()
    before.encode(REGION)
    house.replica(house.endpoint())
    after = read(before)
    assert after.keys is before.keys
    assert after.bounds is before.bounds  # what was looked up for each key holds on
    assert [len(one.replicas) for one in after.every_endpoint()] == [1]
    assert after.encode(REGION) == read().encode(REGION)
    Project.objects.filter(id=house.project.id).update(requests_per_minute=7)
    assert read(after).bounds is not before.bounds


def test_a_transaction_that_commits_late_is_not_missed(house: House, read: Read) -> None:
    """Its generation is drawn before that of another one which commits first."""
    early, late = house.key("early"), house.key("late")
    before = read()
    settings = django.get_connection_params()
    wanted = {name: settings[name] for name in ("host", "port", "user", "password", "dbname")}
    update = "UPDATE tenancy_apikey SET priority = 7 WHERE id = %s"
    with psycopg.connect(**{**wanted, "autocommit": False}) as other:
        other.execute(update, (late.id,))
        ApiKey.objects.filter(id=early.id).update(priority=7)
        before = read(before)
        assert before.keys[digest("early")].priority == 7
        assert before.keys[digest("late")].priority == 0
        other.commit()
    after = read(before)
    assert after.keys[digest("late")].priority == 7
    assert content(after) == content(read())


@pytest.mark.parametrize("seed", range(4))
def test_any_edits_one_after_the_other_come_to_the_same(
    house: House, read: Read, seed: int
) -> None:
    dice = random.Random(seed)
    foreign = House.build("eu-fr-1")
    names = iter(f"secret-{number}" for number in range(10_000))

    def some() -> Any:
        ids = list(ApiKey.objects.values_list("id", flat=True))
        return ApiKey.objects.filter(id__in=dice.sample(ids, min(len(ids), dice.randint(1, 3))))

    def more_secrets() -> None:
        for key in some():
            name = next(names)
            key.secrets.create(prefix=name, hash=digest(name), created_at=NOW)

    edits: list[Callable[[], object]] = [
        lambda: house.key(next(names)),
        lambda: house.key(next(names)),
        lambda: some().update(priority=dice.randint(-9, 9)),
        lambda: some().update(revoked_at=NOW),
        lambda: some().delete(),
        lambda: some().update(project=dice.choice([house.project, foreign.project])),
        more_secrets,
        lambda: ApiKeySecret.objects.filter(key__in=some()).update(expires_at=NOW),
        lambda: ApiKeySecret.objects.filter(key__in=some()).update(last_used_at=NOW),
        lambda: ApiKeySecret.objects.filter(key__in=some()).delete(),
        lambda: Project.objects.update(concurrency=dice.randint(1, 9)),
        lambda: Organization.objects.update(requests_per_minute=dice.randint(1, 9)),
        lambda: house.replica(house.endpoint(next(names))),
        lambda: Endpoint.objects.update(stopped_at=dice.choice([None, NOW])),
        lambda: Endpoint.objects.update(ttft_target_s=dice.choice([0.5, 2.0])),
        lambda: Alias.objects.create(
            project=house.project, name=next(names), targets=["x"], created_at=NOW
        ),
    ]
    directory = read()
    for _ in range(40):
        for edit in dice.choices(edits, k=dice.randint(1, 3)):
            edit()
        directory = read(directory)
        assert content(directory) == content(read())


def test_revoked_nodes_are_read_at_once_and_kept_on_disk(house: House, read: Read) -> None:
    before = read()
    for kind, subject, days in (("node", "node_1", 1), ("gateway", "gw-1", 1), ("node", "old", -1)):
        Revocation.objects.create(
            id=ids.new("rvk"),
            region_id=REGION,
            kind=kind,
            subject=subject,
            issued_until=NOW,
            expired_by=timezone.now() + timedelta(days=days),
        )
    after = read(before)
    assert after.revoked == {f"spiffe://stoa/region/{REGION}/node/node_1": NOW.timestamp()}
    assert after.generation > before.generation
    kept = Directory.decode(after.encode(REGION), PEPPER, REGION, generation=1, read_at=1.0)
    assert kept.revoked == after.revoked


def test_many_changes_at_once_are_one_reading_of_everything(house: House, read: Read) -> None:
    house.key("a")
    before = read()
    with django.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tenancy_apikey (id, project_id, name, prefix, scopes, allowed_models,"
            " networks, priority, created_at, created_by) SELECT 'key_' || g, %s, 'k', 'p' || g,"
            " '{inference}', '{}', '{}', 0, now(), 't' FROM generate_series(1, 1500) g",
            [house.project.id],
        )
        cursor.execute(
            "INSERT INTO tenancy_apikeysecret (id, key_id, prefix, hash, created_at)"
            " SELECT 'sec_' || g, 'key_' || g, 'p' || g, sha256(g::text::bytea), now()"
            " FROM generate_series(1, 1500) g"
        )
        cursor.execute("SELECT kind, count(*) FROM gateway.changes WHERE kind = 'all' GROUP BY 1")
        assert cursor.fetchall()
    after = read(before)
    assert len(after.keys) == 1501
    assert content(after) == content(read())


def test_a_generation_without_a_change_is_not_reached(house: House, read: Read) -> None:
    """Its transaction may commit any time; a keeper that sees it twice reads everything."""
    before = read()
    with django.cursor() as cursor:
        for table in ("tenancy_apikey", "tenancy_apikeysecret"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        house.key("quiet")
        for table in ("tenancy_apikey", "tenancy_apikeysecret"):
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        cursor.execute("SELECT nextval('gateway.directory_generation')")
    after = read(before)
    assert (len(after.keys), after.generation) == (0, before.generation)
    assert set(read().keys) == {digest("quiet")}
    assert read().generation == before.generation + 1


def test_old_notes_go_as_new_ones_come(house: House, read: Read) -> None:
    with django.cursor() as cursor:
        cursor.execute("UPDATE gateway.changes SET at = at - interval '2 hours'")
        house.endpoint()
        cursor.execute("SELECT min(at) > now() - interval '1 hour' FROM gateway.changes")
        assert cursor.fetchall() == [(True,)]
