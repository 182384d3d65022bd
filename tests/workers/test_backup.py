"""A backup and its way back: what returns, what may not, and what a kill leaves."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from billing.books import ledger
from billing.models import Lease, UsageInbox
from billing.spending import budgets
from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import services as endpoints
from controlplane.fleet import revoking
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Device
from controlplane.tenancy import project_secrets
from controlplane.tenancy import services as tenancy
from controlplane.tenancy.models import Role
from gateway.spool import Spool
from tests.fleet.machine import enrolled
from tests.workers.backups import Place, closed, database_url, house_secrets, opened, ship
from workers.backup import facts, manifest, restoring, running, shelf, spools
from workers.backup.making import BackupError, Step
from workers.local import embedded

T = TypeVar("T")
WHO = audit.Actor("user", "usr_test")


def until(look: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.01)
    return found


@pytest.fixture
def place(transactional_db: None, tmp_path: Path) -> Place:
    return Place.made(tmp_path)


@dataclass
class Ended:
    """A tenant with one of each thing that can end for good, and how all of them end."""

    ids: dict[str, str]
    end: Callable[[], None]


def tenant(now: datetime) -> Ended:
    region = fleet.create_region(code="eu-de-1", country="DE", name="x", actor=WHO, now=now)
    pool = fleet.create_pool(region=region, name="h200", actor=WHO, now=now)
    node, _ = enrolled(pool, "gpu-1", now=now)
    Device.objects.create(node=node, index=0, kind="cpu", name="cpu", memory_bytes=1 << 30)
    people = [
        tenancy.create_user(
            actor=WHO, email=f"{name}@example.eu", password="long enough, too", now=now
        )
        for name in ("ada", "bob", "eve")
    ]
    acme = tenancy.create_organization(
        actor=WHO, name="acme", region_code="eu-de-1", owner=people[0], now=now
    )
    bob, eve = (
        tenancy.add_member(actor=WHO, organization=acme, user=one, role=Role.ADMIN, now=now)
        for one in people[1:]
    )
    project = tenancy.create_project(actor=WHO, organization=acme, name="agents", now=now)
    keys = [
        tenancy.issue_key(actor=WHO, project=project, name=name, scopes=["read"], now=now)[0]
        for name in ("leaked", "turned", "kept")
    ]
    secret = project_secrets.create_secret(
        actor=WHO, project=project, kind="hub", name="hub", value={"token": "hf_x"}, now=now
    )
    wish = endpoints.EndpointSpec(name="chat", model="org/model", device_kind="cpu")
    endpoint = endpoints.create(actor=WHO, project=project, spec=wish, now=now)
    owner = budgets.Owner(acme.id, "eu-de-1", "project", project.id)
    budget = budgets.create(
        actor=WHO, owner=owner, unit="tokens", amount=1000, window="month", now=now
    )
    Lease.objects.create(id=7, budget=budget, window="2026-03", holder="gw-1", epoch="e1")
    Lease.objects.create(id=8, budget=budget, window="2026-03", holder="gw-1", epoch="e2")
    fleet.issue_enrollment_token(pool=pool, actor=WHO, now=now)
    entries = [ledger.Entry("a", 5), ledger.Entry("b", -5)]
    ledger.post(idempotency_key="1", kind="test", effective_at=now, entries=entries)

    def end() -> None:
        tenancy.revoke_key(actor=WHO, key=keys[0], now=now)
        tenancy.rotate_key(actor=WHO, key=keys[1], overlap_s=0, now=timezone.now())
        tenancy.remove_member(actor=WHO, membership=bob, now=now)
        tenancy.change_role(actor=WHO, membership=eve, role=Role.AUDITOR, now=now)
        tenancy.set_password(actor=WHO, user=people[0], password="another, and longer", now=now)
        project_secrets.delete_secret(actor=WHO, secret=secret, now=now)
        endpoints.delete(actor=WHO, endpoint=endpoint, now=now)
        revoking.revoke_node(node=node, actor=WHO, now=now)
        revoking.revoke_gateway(region=region, gateway_id="gw-9", actor=WHO, now=now)
        with connection.cursor() as cursor:
            cursor.execute("SELECT billing_close_leases('gw-1', '{e1}')")

    ids = {"leaked": keys[0].id, "turned": keys[1].id, "kept": keys[2].id, "bob": bob.id}
    ids |= {"eve": eve.id, "ada": people[0].id, "secret": secret.id, "endpoint": endpoint.id}
    return Ended(ids | {"node": node.id}, end)


# What of the ended is alive in a database, each as one word.
ALIVE = """
SELECT 'key ' || name FROM tenancy_apikey WHERE revoked_at IS NULL
UNION ALL SELECT 'secret of ' || k.name FROM tenancy_apikeysecret s
    JOIN tenancy_apikey k ON k.id = s.key_id WHERE s.expires_at IS NULL OR s.expires_at > now()
UNION ALL SELECT 'member ' || role FROM tenancy_membership
UNION ALL SELECT 'password of ' || email FROM tenancy_user WHERE password NOT LIKE '!%'
UNION ALL SELECT 'source ' || name FROM tenancy_projectsecret
UNION ALL SELECT 'endpoint ' || name FROM endpoints_endpoint WHERE deleted_at IS NULL
UNION ALL SELECT 'node ' || name FROM fleet_node WHERE certificate_sha256 NOT LIKE 'revoked:%'
UNION ALL SELECT 'lease ' || id FROM billing_lease WHERE closed_at IS NULL
UNION ALL SELECT 'token' FROM fleet_enrollmenttoken WHERE used_at IS NULL AND expires_at > now()
"""
LEFT = {
    *("key turned", "key kept", "secret of leaked", "secret of kept", "lease 8"),
    *("member owner", "member auditor"),
    *("password of bob@example.eu", "password of eve@example.eu"),
}


def column(url: str, query: str) -> set[Any]:
    with psycopg.connect(url) as there:
        return {row[0] for row in there.execute(query)}


def number(url: str, query: str) -> int:
    (found,) = column(url, query)
    return int(found)


GENERATION = "SELECT last_value FROM gateway.directory_generation"


@contextmanager
def served(var: Path) -> Iterator[embedded.Postgres]:
    """The PostgreSQL of a restored folder."""
    server = embedded.Postgres(var / "pg", embedded.free_port(), var / "postgres.log")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def looks_measured(report: dict[str, Any]) -> None:
    assert report["lost_s"] > 0 < report["took_s"]
    assert list(report["phases_s"]) == [
        *("check", "keys", "start", "database", "verify", "spools", "reopen", "close")
    ]
    assert report["reopened"]["tombstones"] == 10
    assert report["reopened"]["ended"] == dict.fromkeys(report["reopened"]["ended"], 1)
    assert report["reopened"]["enrollment_tokens"] == 1


def guarded(owner: str) -> None:
    """Evidence is only added to, and the ledger's old transactions are sealed in the new cluster,
    which counts its transactions anew."""
    assert column(owner, "SELECT sum(amount) FROM billing_ledgerentry") == {0}
    for statement in (
        "DELETE FROM compliance_auditevent",
        "UPDATE billing_ledgerentry SET amount = 1",
        "INSERT INTO billing_ledgerentry (transaction_id, account_id, amount)"
        " SELECT transaction_id, account_id, amount FROM billing_ledgerentry",
    ):
        with pytest.raises(psycopg.Error), psycopg.connect(owner) as there:
            there.execute(statement)


def shipped_once(var: Path, server: embedded.Postgres) -> None:
    """The spools of then are shipped once more, and nothing is counted twice or cut off."""
    for name in ("gateway", "gateway-1"):
        ship(var / name / "spool", server.url("stoa_gateway"))
    with psycopg.connect(server.url("stoa_owner")) as there:
        rows = there.execute(
            "SELECT request_id, finish, output_tokens FROM billing_usageinbox ORDER BY 1"
        ).fetchall()
    assert rows == [(name, "stop", 7) for name in ("req_away", "req_runs", "req_waits")]


def restored_at_last(place: Place, words: list[str], var: Path) -> dict[str, Any]:
    """What the second restore says; the first is killed in the middle, and leaves nothing."""
    killed = place.command(*words)
    running = var.with_name("var.restoring") / "pg" / "PG_VERSION"
    until(running.exists, "a restore that runs")
    killed.kill()
    killed.communicate()
    assert not var.exists()
    done = place.command(*words)
    output, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors + output
    found: dict[str, Any] = json.loads(output)
    return found


def test_what_was_ended_after_a_backup_is_ended_again(place: Place, tmp_path: Path) -> None:
    """The whole way: traffic while it is made, a restore that is killed, and one that is not."""
    now = timezone.now()
    ended = tenant(now)
    spool = Spool(place.spool, segment_bytes=1 << 16)
    spool.open(opened("req_waits"))
    spool.close(closed("req_waits"))
    spool.open(opened("req_runs"))

    def between(step: Step) -> None:
        """Spools are copied, and the database is not yet: both requests get there."""
        if step == Step("database"):
            spool.close(closed("req_runs"))
            ship(place.spool, database_url(), spool)
            assert UsageInbox.objects.count() == 2

    # Another gateway cannot reach the database: what it served is in its spool alone.
    away = Spool(tmp_path / "away" / "spool", segment_bytes=1 << 16)
    away.open(opened("req_away"))
    away.close(closed("req_away"))
    place.config = replace(place.config, gateways=(*place.config.gateways, tmp_path / "away"))
    made = running.create(place.config, now=now, told=between)
    assert made.facts["rows"]["public.billing_usageinbox"] == 2
    assert [len(one["writers"]) for one in made.spools] == [1, 1]
    generation = number(database_url(), GENERATION)
    ended.end()
    assert running.ship(place.config, now=now) == 10

    # What happens next is lost: the platform is gone, and comes back from the backup.
    var = tmp_path / "var"
    keys = shelf.keys_file(tmp_path / "elsewhere", made.id)
    words = ["restore", made.id, "--to", str(var), "--identity", str(place.identity), "--json"]
    words += ["--keys-file", str(keys), "--keys-identity", str(place.keys_identity)]
    report = restored_at_last(place, words, var)
    assert report["recovery_point"] == made.snapshot_at
    looks_measured(report)
    assert (var / "secrets" / "master_key").read_text() == house_secrets()["STOA_MASTER_KEY"]

    with served(var) as server:
        owner, app = server.url("stoa_owner"), server.url("stoa_app")
        assert column(owner, ALIVE) == LEFT
        revoked = "SELECT subject FROM fleet_revocation WHERE kind = 'gateway'"
        assert column(owner, revoked) == {"gw-9"}
        guarded(owner)
        assert number(owner, GENERATION) > generation + 1_000_000
        later = "SELECT count(*) FROM gateway.changes WHERE xid > pg_current_xact_id()"
        assert number(owner, later) == 0
        said = "SELECT target_id FROM compliance_auditevent WHERE action = 'backup.restore'"
        assert column(app, said) == {made.id}
        shipped_once(var, server)
    with pytest.raises(BackupError, match="not empty"):
        restoring.onto_folder(place.source(), var, now=now)
    assert AuditEvent.objects.filter(action="backup.create", target_id=made.id).count() == 1


def test_the_other_order_would_lose_what_was_shipped_in_between(place: Place) -> None:
    spool = Spool(place.spool, segment_bytes=1 << 16)
    spool.open(opened("req_lost"))
    spool.close(closed("req_lost"))
    with facts.snapshot(database_url()) as snapshot:
        ship(place.spool, database_url(), spool)
        shutil.rmtree(place.spool)  # as it is once all of it was shipped
        place.spool.mkdir()
        with (place.folder.parent / "copy.tar").open("wb") as target:
            copied = spools.copy(place.config.gateways, target)
        assert snapshot.facts["rows"]["public.billing_usageinbox"] == 0
        assert copied[0]["writers"] == []


def test_a_killed_backup_is_none(place: Place) -> None:
    running.create(place.config, now=timezone.now())
    (whole,) = shelf.entries(place.folder)
    with psycopg.connect(database_url()) as blocker:
        # Whoever counts its rows waits: it is killed in the middle for certain.
        blocker.execute("LOCK TABLE billing_price IN ACCESS EXCLUSIVE MODE")
        process = place.command("create", "--json")
        until(lambda: list(place.folder.glob("*.part/spools.age")), "a backup that is made")
        with pytest.raises(shelf.Busy):
            running.create(place.config, now=timezone.now())
        process.kill()
        process.communicate()
    assert shelf.entries(place.folder) == [whole]
    made = running.create(place.config, now=timezone.now())
    assert {one.id for one in shelf.entries(place.folder)} >= {made.id}
    assert not list(place.folder.glob("*.part"))


def test_what_was_changed_is_refused(place: Place, tmp_path: Path) -> None:
    now = timezone.now()
    first = running.create(place.config, now=now)
    folder = place.folder / first.id
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(Exception, match=match) as caught:
            restoring.onto_folder(place.source(first.id, **changes), tmp_path / "var", now=now)
        assert type(caught.value).__module__.startswith("workers.backup")
        assert not list(tmp_path.glob("var*"))

    for name in ("database.age", "spools.age"):
        data = before[name]
        for changed in (data[:-1], data + b"x", data[:300] + bytes([data[300] ^ 1]) + data[301:]):
            (folder / name).write_bytes(changed)
            refused("not what was written")
        (folder / name).unlink()
        refused("No such file")
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(before["manifest.json"].replace(b'"keys"', b'"kexs"'))
    refused("not signed by this installation")
    (folder / "manifest.json").write_bytes(before["manifest.json"])
    other = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWQ="
    refused("not signed", secrets=house_secrets() | {"STOA_MASTER_KEY": other})
    refused("No matching keys", identity=place.keys_identity)
    # Signed and encrypted as it should be, and yet not what the manifest says of the database.
    lying = json.loads(before["manifest.json"])
    lying["facts"]["rows"]["public.billing_price"] += 1
    lied = manifest.Manifest.decoded(json.dumps(lying).encode())
    for name in ("manifest.json", "manifest.sig"):
        (folder / name).unlink()
    manifest.write(folder, lied, house_secrets()["STOA_MASTER_KEY"])
    refused("billing_price")


def cut_off_after(size: int) -> Callable[[Any, bytes], int]:
    """In place of a pipe's `write`: it takes so many bytes in all."""
    taken = 0

    def write(pipe: Any, data: bytes) -> int:
        nonlocal taken
        taken += len(data)
        if taken > size:
            raise OSError("cut off")
        return int(pipe._target.write(data))

    return write


def test_a_database_of_others_is_filled_whole_or_not_at_all(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    running.create(place.config, now=now)
    url = database_url().rpartition("/")[0]
    name = f"{connection.settings_dict['NAME']}_restored"
    with psycopg.connect(database_url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        target = f"{url}/{name}"
        with pytest.raises(BackupError, match="not empty"):
            restoring.into_database(place.source(), database_url(), tmp_path / "v", now=now)
        with monkeypatch.context() as patch, pytest.raises(Exception, match="cut off"):
            patch.setattr(restoring._Watched, "write", cut_off_after(100_000))
            restoring.into_database(place.source(), target, tmp_path / "v", now=now)
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        assert column(target, tables) == {restoring.MARK}
        restoring.into_database(place.source(), target, tmp_path / "v", now=now)
        assert restoring.MARK not in column(target, tables)
        granted = "SELECT has_table_privilege('stoa_app', 'billing_price', 'SELECT')"
        assert column(target, granted) == {True}
    finally:
        with psycopg.connect(database_url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
