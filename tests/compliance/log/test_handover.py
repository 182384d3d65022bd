"""The log's key hands over to another: by the log itself, or not at all."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pytest_django import Settings

from compliance import audit, exports
from compliance.bundles import stoa_verify
from compliance.log import checkpoints, handover, notes, signing
from compliance.models import AuditEvent
from tests.compliance.bundles.making import pack
from tests.logs import settle
from tests.signers import running
from workers.signer import memory

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
DAY = timedelta(days=1)
LOG = "org_00000000000000000000000000"
ADA = audit.Actor("user", "usr_ada", "session")
NAME = "localhost"
Files = dict[str, bytes]

pytestmark = pytest.mark.django_db


def bundle(now: datetime) -> Path:
    audit.record(
        actor=ADA,
        action="api_key.create",
        target=audit.Target("api_key", "key_1"),
        log=LOG,
        now=now - timedelta(minutes=1),
    )
    asked = {"start": NOW - DAY, "end": now, "reason": "audit", "kind": "audit_log"}
    export = exports.request(actor=ADA, log=LOG, now=now, **asked)  # type: ignore[arg-type]
    settle(now)
    return exports.archive(exports.build(export.id, now))


def verified(path: Path, vkey: str, *previous: Path) -> stoa_verify.Report:
    options = stoa_verify.Options([stoa_verify.Vkey.parse(vkey)], previous)
    return stoa_verify.verify(path, options)


def told(report: stoa_verify.Report) -> str:
    return " | ".join(one["detail"] for one in report.checks)


def announced_in_all(now: datetime) -> str:
    return {handover.announce(actor=ADA, owner=one, now=now) for one in handover.owners()}.pop()


def test_the_old_key_leads_to_the_new_one(tmp_path: Path, settings: Settings) -> None:
    settings.VAR, home = tmp_path / "var", tmp_path / "signer"
    with running(home):
        old = signing.vkey()
        first = bundle(NOW)
        new = announced_in_all(NOW)
        assert old != new and signing.vkey() == old
    with running(home):  # a kill between two steps: the same key is announced, once in each log
        assert announced_in_all(NOW + DAY / 2) == new
        events = AuditEvent.objects.filter(action="log.rotate_key")
        assert sorted(events.values_list("log_id", flat=True)) == [LOG, "platform"]
        settle(NOW + DAY / 2)
        head = checkpoints.newest(LOG)
        assert head
        for key in (old, new):  # in between either key alone is enough
            assert notes.open_note(head.note, [notes.parse_vkey(key)]).startswith(NAME)
        with pytest.raises(handover.TooEarly, match="both sign for a day"):
            handover.retire(actor=ADA, now=NOW + DAY / 2)
        with pytest.raises(signing.Refused, match="next"):
            signing.retire(old.replace("localhost", "elsewhere"))
        assert verified(bundle(NOW + DAY / 2), old).exit_code() == stoa_verify.OK
        signing.retire(new)  # done, and killed before it was written down
        assert handover.retire(actor=ADA, now=NOW + DAY) == new == signing.vkey()
        assert handover.retire(actor=ADA, now=NOW + 2 * DAY) == new
        assert handover.untold() == []
        assert AuditEvent.objects.filter(action="log.retire_key").count() == 1
    assert not (home / memory.NEXT).exists()
    with running(home):
        assert signing.vkey() == new
        last = bundle(NOW + 2 * DAY)
        alone = notes.parse_vkey(old)
        with zipfile.ZipFile(last) as made, pytest.raises(notes.NoteError, match="no known key"):
            notes.open_note(made.read("log/checkpoint").decode(), [alone])
    for key in (old, new):
        report = verified(last, key)
        assert report.exit_code() == stoa_verify.OK, report.checks
        assert "announcements of later keys are events of the log" in told(report)
    assert verified(last, old, first).exit_code() == stoa_verify.OK  # only grew since
    for name, change, reason in _FORGERIES:
        path = tmp_path / f"{name}.zip"
        forge(last, path, _private(home / memory.KEY), change)
        report = verified(path, old)
        assert report.exit_code() == stoa_verify.TAMPERED and reason in told(report), name


def test_a_third_key_is_no_way_in(tmp_path: Path, settings: Settings) -> None:
    """Whoever has the database and a key of its own, and not the signer's."""
    settings.VAR = tmp_path / "var"
    with running():
        old = signing.vkey()
        honest = bundle(NOW)
    thief = Ed25519PrivateKey.from_private_bytes(bytes(32))

    def announce(files: Files) -> None:
        vkey = notes.verifier(NAME, thief).vkey()
        note = notes.sign(notes.rotation(NAME, vkey), NAME, thief)
        body = {"change": [{"path": "note", "from": None, "to": note}]}
        files["log/keys.jsonl"] = rfc8785.dumps({"body": body, "index": 0}) + b"\n"

    forge(honest, tmp_path / "thief.zip", thief, announce)
    report = verified(tmp_path / "thief.zip", old)
    assert report.exit_code() == stoa_verify.TAMPERED
    assert "manifest.sig is not signed by the key that you gave" in told(report)


def forge(
    source: Path, target: Path, key: Ed25519PrivateKey, change: Callable[[Files], None]
) -> None:
    """As the insider who has the newest key: the manifest is signed anew over what was changed."""
    with zipfile.ZipFile(source) as honest:
        files = {name: honest.read(name) for name in honest.namelist()}
    change(files)
    manifest = json.loads(files["manifest.json"])
    rows = {one["path"]: one.get("rows") for one in manifest["files"]}
    manifest["files"] = [
        {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        | ({"rows": rows[name]} if rows.get(name) is not None else {})
        for name, data in sorted(files.items())
        if not name.startswith("manifest")
    ]
    files["manifest.json"] = rfc8785.dumps(manifest)
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    text = f"{manifest['origin']}/bundle\n{manifest['kind']}\n{digest}\n"
    files["manifest.sig"] = notes.sign(text, NAME, key).encode()
    pack(target, files)


def _private(path: Path) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def _unlogged(files: Files) -> None:
    files["log/keys.jsonl"] = files["log/keys.jsonl"].replace(b"usr_ada", b"usr_bob")


def _elsewhere(files: Files) -> None:
    line = json.loads(files["log/keys.jsonl"])
    files["log/keys.jsonl"] = rfc8785.dumps(line | {"index": line["index"] - 1}) + b"\n"


def _left_out(files: Files) -> None:
    del files["log/keys.jsonl"]


def _other_key(files: Files) -> None:
    """The old key's signature, over an announcement of a key that it never announced."""
    line = json.loads(files["log/keys.jsonl"])
    (change,) = line["body"]["change"]
    said = change["to"].split("\n")
    said[1] = notes.verifier(NAME, Ed25519PrivateKey.from_private_bytes(bytes(32))).vkey()
    change["to"] = "\n".join(said)
    files["log/keys.jsonl"] = rfc8785.dumps(line) + b"\n"


_FORGERIES = (
    ("unlogged", _unlogged, "is not what the log holds at that place"),
    ("elsewhere", _elsewhere, "is not what the log holds at that place"),
    ("left out", _left_out, "manifest.sig is not signed by the key that you gave"),
    ("other key", _other_key, "does not fit its text"),
)
