"""An organization leaves, comes in where nothing is, and leaves again: the same configuration."""

import copy
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import Client, override_settings
from pytest_django import Settings

from compliance import audit, exports
from compliance.bundles.writer import PSEUDONYMISED
from compliance.log import signing
from compliance.models import AuditEvent, Export
from compliance.privacy import stores
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.endpoints.models import Endpoint
from controlplane.fleet.models import Region
from controlplane.switching import bundle as bundles
from controlplane.switching import catalogue, register, taking
from controlplane.switching.models import SwitchingImport
from controlplane.tenancy.models import ApiKey, Organization, Project, User
from tests.conftest import empty_tables
from tests.endpoints.world import World
from tests.logs import settle
from tests.signers import running
from tests.switching import people
from tests.switching.people import ASKED

# What is another on arrival, and why.
NEW = {"created_at", "updated_at", "seen_at", "changed_at"}  # it was made now
OTHER: dict[str, set[str]] = {
    "api_keys": {"prefix", "created_by"},  # another secret, issued by whoever took it over
    "endpoints": {"stopped_at"},  # until somebody starts them
    "pools": {"organization_id"},  # a shared pool's place is taken by one of its own
    "uploads": {"finished_at"},  # the bytes have still to come
    "upload_files": {"received_bytes", "verified"},
}


def built(log: str, profile: str = "full", kind: str = "switching") -> Export:
    export = exports.request(
        actor=audit.SYSTEM,
        log=log,
        reason="we leave",
        start=ASKED - timedelta(days=60),
        end=ASKED,
        now=ASKED,
        kind=kind,
        profile=profile,
    )
    settle(ASKED)
    return exports.build(export.id, ASKED)


def unpack(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def lines(files: dict[str, bytes], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files[catalogue.BY_NAME[name].path].splitlines()]


@pytest.fixture
def var(settings: Settings, tmp_path: Path) -> Path:
    settings.VAR = tmp_path / "var"
    settings.UPLOADS_DIR = tmp_path / "uploads"
    return tmp_path


@pytest.fixture
def elsewhere(var: Path, transactional_db: None) -> Iterator[None]:
    """After `left`: a fresh installation, with keys, an origin and a signer of its own."""
    fresh = {"LOG_ORIGIN": "other.example", "MASTER_KEY": "b" * 43 + "=", "KEY_PEPPER": b"p" * 32}
    with override_settings(**fresh), running():
        yield


class Left:
    """What an organization took along. `vkey`: of where it came from."""

    def __init__(self, folder: Path) -> None:
        with running():
            self.acme = people.build(World.build(shared=True))
            export = built(self.acme.organization.id)
            self.others = {
                "profile_not_full": exports.archive(
                    built(self.acme.organization.id, PSEUDONYMISED)
                ),
                "not_switching": exports.archive(
                    built(self.acme.organization.id, kind="audit_log")
                ),
            }
            self.masked = unpack(self.others["profile_not_full"])
            self.vkey = signing.vkey()
            self.path = folder / "acme.zip"
            self.path.write_bytes(exports.archive(export).read_bytes())
            self.files = unpack(self.path)
            exports.archive(export).unlink()
            again = exports.build(export.id, ASKED)
            assert again.manifest_sha256 == export.manifest_sha256
        empty_tables()

    def take(self, *more: str) -> dict[str, Any]:
        return self.take_from(self.path, *more)

    def take_from(self, path: Path, *more: str) -> dict[str, Any]:
        said = StringIO()
        words = [f"{path}", f"--vkey={self.vkey}", "--region=eu-de-1", "--json", *more]
        call_command("switching", "import", *words, stdout=said)
        told: dict[str, Any] = json.loads(said.getvalue())
        return told


@pytest.fixture
def left(var: Path, transactional_db: None, settings: Settings) -> Left:
    """Made once: afterwards there is nothing but the files that were taken along."""
    if not _MADE:
        settings.VAR = Path(_FOLDER.name) / "var"
        _MADE.append(Left(Path(_FOLDER.name)))
        settings.VAR = var / "var"
    Region.objects.create(code="eu-de-1", country="DE", name="New", ca_key=b"", created_at=ASKED)
    made = copy.copy(_MADE[0])
    made.path = Path(shutil.copy(made.path, var))
    return made


_FOLDER = tempfile.TemporaryDirectory(prefix="stoa-left-")
_MADE: list[Left] = []


def test_what_is_listed_is_in_the_bundle_and_nothing_secret_is(left: Left) -> None:
    """Each category of the public list, by the schemas of the public register."""
    assert left.files[register.PATH] == Client().get("/switching/register.json").content
    assert Client().get("/switching/documents/nothing.json").status_code == 404
    page = Client().get("/switching").content.decode()
    listed = json.loads(left.files[register.PATH])
    assert listed["excluded"] and {one["reason"] for one in listed["excluded"]}
    for category in listed["categories"]:
        for file in category["files"]:
            schema = left.files[file["schema"]]
            assert schema == Client().get(f"/switching/{file['schema']}").content
            assert file["path"] in page
            assert hashlib.sha256(schema).hexdigest() == file["schema_sha256"]
            wanted = json.loads(schema)["required"]
            for line in left.files[file["path"]].splitlines():
                assert sorted(json.loads(line)) == sorted(wanted), file["path"]
        for folder in category["folders"]:
            assert any(name.startswith(folder) for name in left.files), folder
    empty = {one.name for one in catalogue.RESOURCES if not lines(left.files, one.name)}
    assert empty <= {"model_facts", "quotes", "pulls", "replicas", "serving_intervals", "starts",
        "prices", "payments", "credit", "debit_mandates", "draft_invoices"}  # fmt: skip
    (file,) = lines(left.files, "files")
    assert left.files[f"documents/files/{file['id']}"] == people.BATCH
    everything = b"".join(left.files.values())
    found = {
        (name, secret)
        for name, content in left.files.items()
        for secret in left.acme.secrets
        if secret.encode() in content
    }
    assert found == {("log/disclosed.jsonl", people.HOOK)}  # of the event, to whose log it is
    masked = b"".join(left.masked.values())
    for canary in (b"acme.example", b"Ada", b"Eve", b"in.jsonl", b"shorter"):
        assert canary in everything and canary not in masked
    assert not any(name.startswith("documents/files/") for name in left.masked)


def test_it_comes_in_elsewhere_as_it_was(left: Left, elsewhere: None, settings: Settings) -> None:
    call_command("grant_roles", stdout=StringIO())
    with connection.cursor() as cursor:  # as the role that runs the house
        cursor.execute(f"SET ROLE {settings.APP_ROLE}")
        told = left.take()
        cursor.execute("RESET ROLE")
    made = Organization.objects.get(id=told["organization"])
    assert not Endpoint.objects.filter(stopped_at=None).exists()
    second = unpack(exports.archive(built(made.id)))
    old = {ours: theirs for theirs, ours in told["ids"].items()}
    for one in catalogue.RESOURCES:
        if one.left:
            continue
        before, after = lines(left.files, one.name), lines(second, one.name)
        assert before
        assert compared(one.name, after, old) == compared(one.name, stays(left, one.name, before))
    assert {(note["resource"], note["code"]) for note in told["notes"]} >= {
        ("members", "password_to_be_set"),
        ("api_keys", "ended"),
        ("api_keys", "secret_to_be_issued"),
        ("uploads", "weights_to_be_sent"),
        ("pools", "nodes_to_be_enrolled"),
        ("endpoints", "ended"),
        ("endpoints", "secret_to_be_entered"),
        ("budgets", "agent_unknown"),
        ("project_secrets", "left"),
        ("log_subscriptions", "left"),
    }
    event = AuditEvent.objects.get(action="switching.import")
    digest = hashlib.sha256(left.path.read_bytes()).hexdigest()
    assert event.log_id == made.id and digest.encode() in bytes(event.body)
    kept = bundles.folder() / f"{digest}.zip"
    assert kept.read_bytes() == left.path.read_bytes()
    seen = by_api(left)
    assert {name: seen[name] for name in told.keys() & seen.keys()} == {
        name: told[name] for name in told.keys() & seen.keys()
    }
    assert seen["organization"] == made.id
    # The same again is nothing new; nor is it under another name.
    events = AuditEvent.objects.count()
    assert left.take("--name=other") == told
    assert (Organization.objects.count(), AuditEvent.objects.count()) == (1, events)


def by_api(left: Left) -> dict[str, Any]:
    """The same bundle once more, as an operator sends it."""
    email = {"email": "ops@stoa.example", "is_operator": True, "created_at": ASKED}
    client = Client()
    client.force_login(User.objects.create(password="!", **email))
    path = f"/api/v1/switching-imports?region=eu-de-1&vkey={quote(left.vkey)}"
    kind = "application/octet-stream"
    made = client.post(path, data=left.path.read_bytes(), content_type=kind)
    assert made.status_code == 201, made.content
    shown: dict[str, Any] = client.get(f"/api/v1/switching-imports/{made.json()['id']}").json()
    assert shown == made.json() == client.get("/api/v1/switching-imports").json()["data"][0]
    worse = left.path.read_bytes().replace(b'"concurrency":3', b'"concurrency":4')
    refused = client.post(path, data=worse, content_type=kind)
    assert (refused.status_code, refused.json()["code"]) == (422, "bundle_refused")
    client.force_login(User.objects.get(email="ada@acme.example"))
    assert client.post(path, data=worse, content_type=kind).status_code == 404
    return shown


def stays(left: Left, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what had ended before, and an agent's budget, whose name is a pseudonym."""
    gone = {one["id"] for one in lines(left.files, "endpoints") if one["deleted_at"]}
    found = [one for one in rows if not (one.get("deleted_at") or one.get("revoked_at"))]
    found = [one for one in found if one.get("endpoint_id") not in gone]
    return [one for one in found if not (name == "budgets" and one["name"])]


def compared(
    name: str, rows: list[dict[str, Any]], ids: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    dropped = NEW | OTHER.get(name, set())
    text = json.dumps([{k: v for k, v in row.items() if k not in dropped} for row in rows])
    for ours, theirs in (ids or {}).items():
        text = text.replace(ours, theirs)
    return sorted(json.loads(text), key=lambda row: json.dumps(row, sort_keys=True))


def test_what_dies_on_the_way_leaves_nothing_and_what_does_not_hold_is_refused(
    left: Left, elsewhere: None, monkeypatch: pytest.MonkeyPatch, var: Path
) -> None:
    def die(taking: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr(taking, "_IN_ORDER", (*taking._IN_ORDER, die))
        with pytest.raises(OperationalError):
            left.take()
    connection.close()
    for model in (Organization, Project, User, ApiKey, Endpoint, AuditEvent, SwitchingImport):
        assert not model._default_manager.exists()
    with pytest.raises(CommandError, match="unknown_region"):
        left.take("--region=eu-fr-1")
    with pytest.raises(CommandError, match="unknown_pool"):
        left.take("--pool=p=pool_nowhere")
    for code, path in left.others.items():
        with pytest.raises(CommandError, match=code):
            left.take_from(path)
    good = left.path.read_bytes()
    left.path.write_bytes(good.replace(b'"concurrency":3', b'"concurrency":4'))
    with pytest.raises(CommandError, match="bundle_refused"):
        left.take()
    assert not any(bundles.folder().iterdir())
    left.path.write_bytes(good)
    ours, left.vkey = left.vkey, signing.vkey()
    with pytest.raises(CommandError, match="bundle_refused"):
        left.take()
    assert not Organization.objects.exists()
    left.vkey = ours
    assert left.take("--name=Acme Europe")["counts"]["endpoints"] == 2
    assert Organization.objects.get().name == "Acme Europe"


def test_the_kept_bundle_goes_with_its_organization(left: Left, elsewhere: None) -> None:
    """And a person's erasure says on what ground it stays."""
    told = left.take()
    done = SwitchingImport.objects.get()
    kept = bundles.folder() / f"{done.bundle_sha256}.zip"
    ada = Subject(PERSON, User.objects.get(email="ada@acme.example").id)
    stays_here = stores.named("switching.bundles/person").erase(ada, ASKED)
    assert (stays_here.action, stays_here.rows) == (stores.KEEP, 1) and stays_here.ground
    assert kept.exists()
    of = stores.named("switching.bundles/organization")
    goes = Subject(ORGANIZATION, told["organization"])
    assert of.find(goes).rows == of.erase(goes, ASKED).rows == 1
    assert not kept.exists() and of.find(goes).rows == of.erase(goes, ASKED).rows == 0
    done.refresh_from_db()
    assert (done.ids, done.notes) == ({}, [])
