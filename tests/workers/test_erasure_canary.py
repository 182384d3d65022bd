"""Canaries in every table, file, queue and backup: an erasure, and then the search for each.

They are planted through the API and the verbs, as people and programs leave them. On the day of
the erasure the live stores are empty of them. A backup that was made before holds some in plain:
which, is asserted here and said in docs/erasure.md; the certificate has the day after which no such
backup is left; and that backup, restored, is empty of them before it opens.
"""

import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from compliance import audit, exports
from compliance.bundles import stoa_verify
from compliance.erasure import executing, planning
from compliance.erasure.models import Erasure
from compliance.log import signing
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.batches import files
from controlplane.batches import services as batches
from controlplane.batches.content import Box
from controlplane.batches.models import Line
from controlplane.endpoints import uploads
from controlplane.fleet import services as fleet
from controlplane.tenancy import notices, services
from controlplane.tenancy.models import ApiKey, Organization, Project, User
from gateway.spool import Spool
from tests.billing import invoices
from tests.logs import settle
from tests.signers import running as signer_running
from tests.workers.backups import Place, closed, database_url, opened
from workers import hints, personal
from workers.backup import config, envelope, restoring, running
from workers.local import embedded

OPERATOR = audit.Actor("user", "usr_01k00000000000000000000009", "session")
SECOND = audit.Actor("user", "usr_01k00000000000000000000008", "session")
PASSWORD = "canary battery staple"
# What stands in a backup as it was typed, until the backup's last day.
PLAIN = {
    "address": "zoe.canary-address@example.eu",
    "organization": "Canary-Organization Ltd",
    "project": "canary-project",
    "key": "canary-key-name",
    "notice": "canary-notice-text",
    "contact": "canary-invoice-contact",
    "filename": "canary-filename.jsonl",
    "upload": "canary-upload-name",
    "reason": "canary-export-reason",
}
# What stands there sealed, under a key of its subject's or of its own.
SEALED = {
    "browser": "CanaryBrowser/7",
    "ip": "203.0.113.77",
    "words": "canary-words-of-a-request",
    "content": "canary-file-content",
    "line": "canary-batch-line",
    "secret": "canary-secret-value",
    "siem": "canary-siem-path",
}
CANARIES = PLAIN | SEALED


@pytest.fixture
def place(transactional_db: None, tmp_path: Path, settings: Settings) -> Iterator[Place]:
    settings.VAR, settings.UPLOADS_DIR = tmp_path / "var", tmp_path / "uploads"
    with signer_running(tmp_path / "signer"):
        yield Place.made(tmp_path)


def planted(place: Place) -> tuple[Organization, User]:
    """By the API where there is one, with the canaries' browser and address."""
    now = timezone.now()
    region = fleet.create_region(code="eu-de-1", country="DE", name="x", actor=OPERATOR, now=now)
    assert region
    zoe = services.create_user(actor=OPERATOR, email=PLAIN["address"], password=PASSWORD, now=now)
    home = services.create_organization(
        actor=OPERATOR, name=PLAIN["organization"], region_code="eu-de-1", owner=zoe, now=now
    )
    client = Client(headers={"user-agent": SEALED["browser"]}, REMOTE_ADDR=SEALED["ip"])
    signed = client.post("/sign-in", {"username": PLAIN["address"], "password": PASSWORD})
    assert signed.status_code == 302

    def post(path: str, **body: Any) -> Any:
        answer = client.post(f"/api/v1/{path}", body, content_type="application/json")
        assert answer.status_code < 300, answer.content
        return answer.json()

    project = post("projects", organization=home.id, name=PLAIN["project"])["id"]
    post("api-keys", project=project, name=PLAIN["key"], scopes=["inference"])
    post("secrets", project=project, kind="hub", name="hub", value={"token": SEALED["secret"]})
    post("subject-requests", type="access", words=SEALED["words"])
    address = f"https://siem.example.eu/{SEALED['siem']}"
    where = {"organization": home.id, "kind": "events", "via": "webhook", "address": address}
    post("log-subscriptions", **where)
    post(
        "exports",
        organization=home.id,
        profile="full",
        reason=PLAIN["reason"],
        period_start=(now - timedelta(days=1)).isoformat(),
        period_end=(now + timedelta(days=1)).isoformat(),
    )
    notices.tell(
        home,
        subject="a key leaked",
        text=PLAIN["notice"],
        about=audit.Target("organization", home.id),
        key="leak",
        now=now,
    )
    left_behind(home, Project.objects.get(id=project), place)
    return home, zoe


def left_behind(home: Organization, project: Project, place: Place) -> None:
    """Files, a batch with a result, weights, an invoice's contact, a spool and a message."""
    now = timezone.now()
    key = ApiKey.objects.get(project=project)
    actor = audit.Actor("api_key", key.id, "key")
    upload = files.begin(actor=actor, project=project, now=now)
    upload.write(json.dumps({"prompt": SEALED["content"]}).encode())
    file = files.create(
        actor=actor, upload=upload, filename=PLAIN["filename"], purpose="batch", now=now
    )
    batch = batches.create(
        actor=actor,
        key=key,
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        now=now,
    )
    box = Box(bytes(batch.sealed_key), batches.context(batch.id), project.id)
    Line.objects.create(
        batch=batch,
        number=1,
        offset=0,
        size=1,
        model="m",
        result=box.seal(SEALED["line"].encode(), "1"),
    )
    weights = PLAIN["upload"].encode()
    wanted = {"path": "config.json", "size_bytes": len(weights), "sha256": "0" * 64}
    brought = uploads.begin_upload(
        actor=actor, project=project, name=PLAIN["upload"], files=[wanted], now=now
    )
    folder = uploads.place(brought.files.get()).parent
    folder.mkdir(parents=True)
    uploads.place(brought.files.get()).write_bytes(weights)
    invoices.customer(home.account, invoices.entity(), contact=PLAIN["contact"])
    spool = Spool(place.spool, segment_bytes=1 << 16)
    spool.open(opened("req_canary"))
    spool.close(closed("req_canary"))
    hints.on_changed("ep_01k00000000000000000000000")
    settle(now + timedelta(seconds=1))
    assert exports.build_waiting(now + timedelta(seconds=1)) == 1


def erased(subject: Subject, log: str, region: str = "") -> dict[str, Any]:
    """What its certificate says, which verifies alone."""
    now = timezone.now()
    erasure = planning.plan(actor=OPERATOR, subject=subject, log=log, region=region, now=now)
    planning.approve(actor=SECOND, erasure=erasure, plan_sha256=erasure.plan_sha256, now=now)
    assert executing.carry_on(now) == 1, Erasure.objects.values("state", "failure", "findings")
    erasure.refresh_from_db()
    later = timezone.now() + timedelta(seconds=1)
    export = exports.request(
        actor=OPERATOR,
        log=log,
        kind="erasure_certificate",
        about=erasure.certificate_id,
        profile="full",
        reason="for whoever asked",
        start=now - timedelta(days=1),
        end=later,
        now=now,
    )
    settle(later)
    exports.build(export.id, later)
    key = stoa_verify.Vkey.parse(signing.vkey())
    report = stoa_verify.verify(exports.archive(export), stoa_verify.Options([key]))
    assert report.exit_code() == stoa_verify.OK, report.checks
    said: dict[str, Any] = json.loads(bytes(erasure.certificate or b""))
    return said


def in_database(url: str) -> dict[str, set[str]]:
    """Which canaries stand in which table: every row of every table, as text and in hex."""
    found: dict[str, set[str]] = {}
    with psycopg.connect(url) as there:
        tables = there.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname IN ('public', 'gateway')"
        ).fetchall()
        assert len(tables) > 100
        for (table,) in tables:
            for (row,) in there.execute(f"SELECT row_to_json(t)::text FROM {table} t"):
                here = row.lower()
                for name, value in CANARIES.items():
                    if value.lower() in here or value.lower().encode().hex() in here:
                        found.setdefault(name, set()).add(str(table))
    return found


def in_files(folder: Path) -> set[str]:
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(texts) > 3
    return {name for name, one in CANARIES.items() if any(one.encode() in text for text in texts)}


def in_broker(url: str) -> set[str]:
    texts = list(personal.texts(url))
    return {name for name, one in CANARIES.items() if any(one.encode() in text for text in texts)}


def in_dump(place: Place) -> set[str]:
    """Of the decrypted dump, as whoever has an identity reads it: plain SQL."""
    (made,) = place.folder.glob("bak_*/database.age")
    dump = place.folder.parent / "opened.dump"
    with dump.open("wb") as target:
        envelope.decrypt(made, target, envelope.identities(place.identity))
    words = [str(embedded.binary("pg_restore")), "-f", "-", str(dump)]
    text = subprocess.run(words, check=True, capture_output=True).stdout.lower()
    dump.unlink()
    assert b"copy public.tenancy_user" in text
    return {
        name
        for name, one in CANARIES.items()
        if one.lower().encode() in text or one.encode().hex().encode() in text
    }


def test_nothing_of_a_canary_is_left_where_people_live(
    place: Place, tmp_path: Path, settings: Settings
) -> None:
    home, zoe = planted(place)
    before = in_database(database_url())
    assert before.keys() == PLAIN.keys()  # what the search has to find; the rest is sealed
    assert {"ip", "browser", "upload"} <= in_files(tmp_path)  # the bundle, the upload
    made = running.create(place.config, now=timezone.now())
    assert made.id
    assert in_files(place.folder) == set()  # encrypted

    ends = erased(Subject(ORGANIZATION, home.id), home.id, "eu-de-1")
    gone = erased(Subject(PERSON, zoe.id), audit.PLATFORM)

    # The day itself: no live store has any of them.
    assert in_database(database_url()) == {}
    assert in_files(tmp_path) == set()
    assert in_broker(settings.BROKER_URL) == set()
    for said in (ends, gone):
        assert said["keys_destroyed"]
        assert said["verification"]["left"] == said["verification"]["hits"] == []

    # Backups: what is plain in them, and until when they are there at all.
    assert in_dump(place) == PLAIN.keys()
    last = (timezone.now() + config.kept_for()).date().isoformat()
    for said in (ends, gone):
        assert said["backups"]["made_before"] == 1
        assert said["backups"]["unreadable_after"] == last

    # That backup, restored: empty of them before anybody may read it.
    running.ship(place.config, now=timezone.now())
    name = f"{connection.settings_dict['NAME']}_canary"
    url = f"{database_url().rpartition('/')[0]}/{name}"
    with psycopg.connect(database_url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            restoring.into_database(place.source(), url, tmp_path / "v", now=timezone.now())
            assert in_database(url) == {}
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
