"""A bundle: what is in it, that it adds up, that it is made once, and that nothing leaks."""

import csv
import hashlib
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
import rfc8785
from django.db import connection
from pytest_django import Settings

from compliance import audit, exports
from compliance.models import AuditEvent, Export

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
LOG = "org_00000000000000000000000000"
ADA = audit.Actor("user", "usr_ada", "session")
DAY = timedelta(days=1)
COSTS = (
    ("kept", NOW, Decimal("0.000000001234"), "=HYPERLINK(1)", 7, True, None),
    ("line\nbreak", NOW, Decimal("-1.5"), '@cmd, "x"', -7, False, "ü"),
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> Path:
    settings.VAR = tmp_path
    return tmp_path


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room's dataset, beside the audit events and without the other rooms' ones."""
    events = exports._datasets["audit_events"]
    monkeypatch.setattr(exports, "_datasets", {"audit_events": events})
    columns = ("name", "at", "amount", "text", "count", "flag", "nothing")
    exports.register("costs", columns, lambda log, start, end: iter(COSTS))


def events(count: int, **more: Any) -> None:
    for _ in range(count):
        audit.record(
            actor=ADA,
            action="api_key.create",
            target=audit.Target("api_key", "key_1"),
            **{"log": LOG, "now": NOW - DAY, "personal": {"email": "ada@example.eu"}, **more},
        )


def ask(**more: Any) -> Export:
    wish: dict[str, Any] = {"reason": "yearly audit", "start": NOW - 30 * DAY, "end": NOW + DAY}
    return exports.request(actor=ADA, log=LOG, now=NOW, **{**wish, **more})


def unpack(export: Export) -> dict[str, bytes]:
    with zipfile.ZipFile(exports.archive(export)) as bundle:
        assert bundle.testzip() is None
        return {name: bundle.read(name) for name in bundle.namelist()}


def test_the_bundle_adds_up() -> None:
    events(3)
    events(1, log="org_00000000000000000000000001")
    events(1, now=NOW - 31 * DAY)
    export = exports.build(ask().id, NOW)
    files = unpack(export)
    assert sorted(files) == [
        "README.md",
        "data/audit_events.csv",
        "data/audit_events.jsonl",
        "data/costs.csv",
        "data/costs.jsonl",
        "manifest.json",
    ]
    manifest = json.loads(files["manifest.json"])
    assert rfc8785.dumps(manifest) == files["manifest.json"]
    assert hashlib.sha256(files["manifest.json"]).hexdigest() == export.manifest_sha256
    assert export.size_bytes == exports.archive(export).stat().st_size
    assert {one["path"] for one in manifest["files"]} == set(files) - {"manifest.json"}
    for one in manifest["files"]:
        content = files[one["path"]]
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert len(content) == one["size"]
    rows = {one["path"]: one.get("rows") for one in manifest["files"]}
    assert rows["data/audit_events.csv"] == rows["data/audit_events.jsonl"] == 3
    assert manifest["log"] == LOG
    assert manifest["period"]["cut_at"] == "2026-03-14T09:26:53.000000Z"


def test_the_exact_bodies_are_in_it_and_no_personal_value() -> None:
    events(2)
    files = unpack(exports.build(ask().id, NOW))
    lines = files["data/audit_events.jsonl"].splitlines()
    stored = [bytes(event.body) for event in audit.events(LOG, NOW - 2 * DAY, NOW)]
    assert [json.loads(line)["body"].encode() for line in lines] == stored
    assert not any(b"ada@example.eu" in content for content in files.values())


def test_a_spreadsheet_runs_nothing_and_json_keeps_the_text() -> None:
    files = unpack(exports.build(ask().id, NOW))
    sheet = files["data/costs.csv"].decode()
    assert sheet.count("\r\n") >= 3
    head, first, second = csv.reader(StringIO(sheet, newline=""))
    assert head[:3] == ["name", "at", "amount"]
    assert first[2:6] == ["0.000000001234", "'=HYPERLINK(1)", "7", "True"]
    assert second == [
        *("line\nbreak", "2026-03-14T09:26:53.000000Z", "-1.5"),
        *('\'@cmd, "x"', "-7", "False", "ü"),
    ]
    lines = [json.loads(line) for line in files["data/costs.jsonl"].splitlines()]
    assert lines[0]["text"] == "=HYPERLINK(1)"
    assert lines[0]["amount"] == "0.000000001234"
    assert (lines[1]["count"], lines[1]["flag"], lines[1]["nothing"]) == (-7, False, "ü")


@pytest.mark.parametrize("first", "=+-@\t\r")
def test_each_start_of_a_formula_is_disarmed(first: str) -> None:
    assert exports._cell(f"{first}1+1") == f"'{first}1+1"


def test_a_rebuild_gives_the_same_bytes_though_time_went_on() -> None:
    events(2)
    export = exports.build(ask().id, NOW)
    before = exports.archive(export).read_bytes()
    events(5, now=NOW + timedelta(hours=1))
    exports.archive(export).unlink()
    exports.build(export.id, NOW + DAY)
    assert exports.archive(export).read_bytes() == before
    assert exports.archive(export).stat().st_mode & 0o777 == 0o600


def test_asking_building_and_fetching_are_events_and_building_happens_once() -> None:
    export = ask(region="eu-de-1")
    exports.build(export.id, NOW)
    again = exports.build(export.id, NOW + DAY)
    assert again.completed_at == NOW
    exports.downloaded(actor=ADA, export=again, now=NOW)
    found = AuditEvent.objects.filter(log_id=LOG).order_by("id")
    assert list(found.values_list("action", "actor_id", "region")) == [
        ("export.request", "usr_ada", "eu-de-1"),
        ("export.complete", "system", "eu-de-1"),
        ("export.download", "usr_ada", "eu-de-1"),
    ]
    assert audit.opening(found[0], "reason") == "yearly audit"


def test_what_is_not_built_cannot_be_fetched() -> None:
    export = ask()
    with pytest.raises(exports.ExportError, match="not been built"):
        exports.downloaded(actor=ADA, export=export, now=NOW)
    assert not AuditEvent.objects.filter(action="export.download").exists()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"reason": ""}, "invalid_reason"),
        ({"reason": "   "}, "invalid_reason"),
        ({"reason": "x" * 201}, "invalid_reason"),
        ({"reason": "a\x00b"}, "invalid_reason"),
        ({"end": NOW - 30 * DAY}, "invalid_period"),
    ],
)
def test_a_bad_wish_is_refused_and_leaves_nothing(wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(exports.ExportError) as caught:
        ask(**wrong)
    assert caught.value.code == code
    assert not Export.objects.exists()
    assert not AuditEvent.objects.exists()


def test_a_build_that_breaks_leaves_no_half_and_can_be_repeated(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ask()
    with monkeypatch.context() as patch:

        def broken(log: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
            yield ("one",)
            raise OSError("disk full")

        patch.setattr(exports, "_datasets", {"costs": exports.Dataset("costs", ("name",), broken)})
        with pytest.raises(OSError, match="disk full"):
            exports.build(export.id, NOW)
        assert exports.build_waiting(NOW) == 0
    assert list((var / "exports").iterdir()) == []
    assert Export.objects.get().failure == "could not be built: OSError"
    assert exports.build_waiting(NOW) == 0  # it is not tried again by itself
    assert exports.build(export.id, NOW).failure == ""


def test_a_worker_builds_what_waits_once() -> None:
    ask()
    ask()
    assert exports.build_waiting(NOW) == 2
    assert exports.build_waiting(NOW) == 0
    assert not Export.objects.filter(completed_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_while_one_worker_builds_the_others_do_something_else() -> None:
    ask()
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('compliance.exports', 0))")
        assert exports.build_waiting(NOW) == 0
        other.execute("SELECT pg_advisory_unlock_all()")
    assert exports.build_waiting(NOW) == 1


def test_a_file_built_on_another_host_is_built_again_here_unless_it_would_differ() -> None:
    events(1)
    export = exports.build(ask().id, NOW)
    exports.archive(export).unlink()
    assert exports.downloaded(actor=ADA, export=export, now=NOW).exists()
    exports.archive(export).unlink()
    events(1)  # of the past, and only now
    with pytest.raises(exports.ExportError, match="came in later"):
        exports.downloaded(actor=ADA, export=export, now=NOW)
    assert not exports.archive(export).exists()


def test_memory_does_not_grow_with_the_rows() -> None:
    exports.register(
        "many", ("text",), lambda log, start, end: ((f"{n:01000}",) for n in range(5_000))
    )
    export = ask()
    tracemalloc.start()
    try:
        exports.build(export.id, NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert exports.archive(export).stat().st_size > 10_000_000
    assert peak < 2_500_000
