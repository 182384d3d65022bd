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
from compliance.bundles import kinds, stoa_verify, stored_log, tables
from compliance.log import signing
from compliance.models import AuditEvent, EventSecret, Export
from compliance.privacy import retention
from tests.logs import settle
from tests.signers import running

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
def signer() -> Iterator[None]:
    with running():
        yield


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room's dataset, beside the audit events and without the other rooms' ones."""
    events = kinds.datasets["audit_events"]
    monkeypatch.setattr(kinds, "datasets", {"audit_events": events})
    columns = ("name", "at", "amount", "text", "count", "flag", "nothing")
    exports.register("costs", columns, lambda log, start, end: iter(COSTS), personal=("text",))


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
    wish["profile"] = "full"
    return exports.request(actor=ADA, now=NOW, **{"log": LOG, **wish, **more})


def build(export: Export, now: datetime = NOW) -> Export:
    """As a worker does once the log is signed."""
    settle(now)
    return exports.build(export.id, now)


def verified(export: Export) -> stoa_verify.Report:
    key = stoa_verify.Vkey.parse(signing.vkey())
    return stoa_verify.verify(exports.archive(export), stoa_verify.Options([key]))


def unpack(export: Export) -> dict[str, bytes]:
    with zipfile.ZipFile(exports.archive(export)) as bundle:
        assert bundle.testzip() is None
        return {name: bundle.read(name) for name in bundle.namelist()}


def test_the_bundle_adds_up() -> None:
    events(1, now=NOW - 31 * DAY)
    events(3)
    events(1, log="org_00000000000000000000000001")
    export = build(ask())
    files = unpack(export)
    names = ("audit_events", "costs")
    assert sorted(files) == sorted(
        [
            *("README.md", "manifest.json", "manifest.sig", "summary.pdf"),
            *("log/checkpoint", "log/disclosed.jsonl", "log/events.jsonl"),
            *("log/hashes.bin", "log/meta.json"),
            *(f"data/{name}.{kind}" for name in names for kind in ("csv", "jsonl")),
            *(f"schemas/{name}.json" for name in names),
        ]
    )
    manifest = json.loads(files["manifest.json"])
    assert rfc8785.dumps(manifest) == files["manifest.json"]
    assert hashlib.sha256(files["manifest.json"]).hexdigest() == export.manifest_sha256
    assert export.size_bytes == exports.archive(export).stat().st_size
    rows = {one["path"]: one.get("rows") for one in manifest["files"]}
    assert rows["data/audit_events.csv"] == rows["data/audit_events.jsonl"] == 3
    assert rows["log/events.jsonl"] == 5  # with a neighbour on each side
    assert (manifest["log"], manifest["requested_by"]) == (LOG, "usr_ada")
    assert manifest["period"]["end"] == "2026-03-14T09:26:53.000000Z"
    report = verified(export)
    assert report.exit_code() == stoa_verify.OK, report.checks
    assert report.facts["openings"] == {"disclosed": 5, "redacted": 0, "withheld": 0}


def test_the_exact_bodies_are_in_it_and_what_they_commit_to_opens() -> None:
    events(2)
    files = unpack(build(ask()))
    lines = files["log/events.jsonl"].splitlines()
    stored = [bytes(event.body) for event in audit.events(LOG, NOW - 2 * DAY, NOW)]
    for index, body in enumerate(stored):
        assert lines[index] == b'{"body":%b,"index":%d}' % (body, index)
    opened = [json.loads(line) for line in files["log/disclosed.jsonl"].splitlines()]
    assert {one["value"] for one in opened} == {"ada@example.eu", "yearly audit"}


def test_profiles_leave_people_out() -> None:
    """What was typed or says who somebody is, is in neither; counts have not even rows."""
    events(2)
    canaries = (b"ada@example.eu", b"yearly audit", b"HYPERLINK", b"@cmd")
    for profile in ("pseudonymised", "counts-only"):
        export = build(ask(profile=profile))
        files = unpack(export)
        assert not any(canary in text for text in files.values() for canary in canaries)
        assert verified(export).exit_code() == stoa_verify.OK
        if profile == "counts-only":
            assert b"costs,2" in files["data/counts.csv"]
            assert "log/events.jsonl" not in files
        else:
            masked = [json.loads(line)["text"] for line in files["data/costs.jsonl"].splitlines()]
            assert all(text.startswith("pseudonym-") for text in masked)
            assert masked[0] != masked[1]


def test_an_erased_value_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the event that certifies it, else the verifier finds a certificate lacking."""
    events(1)
    event = AuditEvent.objects.get()
    EventSecret.objects.all().delete()
    assert verified(build(ask())).exit_code() == stoa_verify.INCOMPLETE
    proof = audit.record(
        actor=ADA,
        action="api_key.revoke",
        target=audit.Target("certificate", "cer_1"),
        log=LOG,
        now=NOW,
    )
    gone = {event.id: stored_log.Erasure("GDPR-17", "cer_1", proof)}
    monkeypatch.setattr(stored_log, "_erasures", [lambda ids: gone])
    export = build(ask(), NOW + DAY)
    assert verified(export).exit_code() == stoa_verify.OK, verified(export).checks
    assert verified(export).facts["openings"]["redacted"] == 1


def test_a_bundle_waits_until_the_log_is_signed() -> None:
    events(2)
    export = ask()
    with pytest.raises(stored_log.NotReady):
        exports.build(export.id, NOW)
    assert exports.build_waiting(NOW) == 0
    assert Export.objects.get().failure == ""
    settle(NOW)
    assert exports.build_waiting(NOW) == 1


def test_a_file_may_be_had_for_seven_days() -> None:
    export = build(ask())
    last = NOW + exports.KEPT - timedelta(seconds=1)
    assert exports.downloaded(actor=ADA, export=export, now=last).exists()
    assert not exports.expired(export, last)
    with pytest.raises(exports.ExportError) as caught:
        exports.downloaded(actor=ADA, export=export, now=NOW + exports.KEPT)
    assert caught.value.code == "export_expired"
    retention.carry_out("export_file", NOW + exports.KEPT)
    assert not exports.archive(export).exists()


def test_a_spreadsheet_runs_nothing_and_json_keeps_the_text() -> None:
    files = unpack(build(ask()))
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
    assert tables.cell(f"{first}1+1") == f"'{first}1+1"


def test_a_rebuild_gives_the_same_bytes_though_time_went_on() -> None:
    events(2)
    export = build(ask())
    before = exports.archive(export).read_bytes()
    events(5, now=NOW + timedelta(hours=1))
    exports.archive(export).unlink()
    build(export, NOW + DAY)
    assert exports.archive(export).read_bytes() == before
    assert exports.archive(export).stat().st_mode & 0o777 == 0o600


def test_asking_building_and_fetching_are_events_and_building_happens_once() -> None:
    export = build(ask(region="eu-de-1"))
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
        ({"kind": "gossip"}, "invalid_kind"),
        ({"profile": "some"}, "invalid_profile"),
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

        settle(NOW)
        patch.setattr(kinds, "datasets", {"costs": exports.Dataset("costs", ("name",), broken)})
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
    settle(NOW)
    assert exports.build_waiting(NOW) == 2
    assert exports.build_waiting(NOW) == 0
    assert not Export.objects.filter(completed_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_while_one_worker_builds_the_others_do_something_else() -> None:
    ask()
    settle(NOW)
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('compliance.exports', 0))")
        assert exports.build_waiting(NOW) == 0
        other.execute("SELECT pg_advisory_unlock_all()")
    assert exports.build_waiting(NOW) == 1


def test_a_file_built_on_another_host_is_built_again_here_unless_it_would_differ() -> None:
    events(1)
    export = build(ask())
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
    settle(NOW)
    tracemalloc.start()
    try:
        exports.build(export.id, NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert exports.archive(export).stat().st_size > 10_000_000
    assert peak < 5_000_000  # the fonts of the summary take most of it


def test_a_kind_about_one_thing_has_its_rows_and_its_documents() -> None:
    events(2)

    def written(export: Export, folder: Path) -> Iterator[tuple[str, Path]]:
        source = folder / "letter"
        source.write_text(f"about {export.about}, {export.profile}")
        yield "documents/letter.txt", source

    exports.register_about("of_one", ("about",), lambda log, start, end, about: [(about,)])
    exports.register_kind(
        "one_thing",
        "One thing",
        ("of_one",),
        documents=written,
        about=("usr",),
        known=lambda log, about: (log, about) == (LOG, "usr_1"),
        of=(exports.ORGANIZATION,),
        events=False,
    )
    for wrong in ("", "usr_", "key_1", "usr_2"):
        with pytest.raises(exports.ExportError) as error:
            ask(kind="one_thing", about=wrong)
        assert error.value.field == "about"
    with pytest.raises(exports.ExportError, match="about no single thing"):
        ask(about="usr_1")
    with pytest.raises(exports.ExportError) as error:
        ask(kind="one_thing", about="usr_1", log=audit.PLATFORM)
    assert error.value.field == "kind"
    export = build(ask(kind="one_thing", about="usr_1"))
    files = unpack(export)
    assert files["documents/letter.txt"] == b"about usr_1, full"
    assert files["data/of_one.jsonl"] == b'{"about":"usr_1"}\n'
    assert not any(name.startswith("log/events") for name in files)
    assert json.loads(files["manifest.json"])["about"] == "usr_1"
    assert verified(export).exit_code() == 0
    first = exports.archive(export).read_bytes()
    exports.archive(export).unlink()
    assert exports.downloaded(actor=ADA, export=export, now=NOW).read_bytes() == first
