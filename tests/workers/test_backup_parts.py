"""The parts of a backup, each for itself: envelopes, retention, settings, the journal."""

import io
import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils import timezone

from compliance import audit, tombstones
from compliance.actions import ACTIONS
from compliance.models import AuditEvent, Tombstone
from tests.workers.backups import Place
from workers.backup import (
    envelope,
    health,
    journal,
    manifest,
    retention,
    running,
    schedule,
    secrets,
)
from workers.backup.__main__ import main
from workers.backup.config import Config

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
CHUNK = (64 << 10) + 16  # of age: 64 KiB and a tag


# --- envelopes ---------------------------------------------------------------------------


def test_an_envelope_refuses_every_change_of_its_chunks(tmp_path: Path) -> None:
    secret, recipient = envelope.new_identity()
    (tmp_path / "identity").write_text(secret + "\n")
    identity = envelope.identities(tmp_path / "identity")
    plain = random.Random(1).randbytes(300_000)
    written = envelope.encrypt(io.BytesIO(plain), tmp_path / "whole", (recipient,))
    data = (tmp_path / "whole").read_bytes()
    assert (written.size, written.plain_bytes) == (len(data), len(plain))
    assert envelope.sha256(tmp_path / "whole") == (written.size, written.sha256)
    assert envelope.opened(tmp_path / "whole", identity) == plain
    head = len(data) - len(plain) - 16 * 5  # five chunks
    chunks = [data[at : at + CHUNK] for at in range(head, len(data), CHUNK)]
    assert len(chunks) == 5
    for changed in (
        chunks[:-1],  # ends at a chunk's end
        [*chunks[:2], *chunks[3:]],
        [chunks[1], chunks[0], *chunks[2:]],
        [*chunks, chunks[0]],
        [chunks[0][:-1] + bytes([chunks[0][-1] ^ 1]), *chunks[1:]],
        [],
    ):
        (tmp_path / "changed").write_bytes(data[:head] + b"".join(changed))
        with pytest.raises(envelope.EnvelopeError):
            envelope.opened(tmp_path / "changed", identity)


def test_an_envelope_that_cannot_be_filled_says_so(tmp_path: Path) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise OSError("the disk went")

    _, recipient = envelope.new_identity()
    with pytest.raises(envelope.EnvelopeError, match="the disk went"):
        envelope.encrypt(Broken(), tmp_path / "x", (recipient,))
    (tmp_path / "identity").write_text("AGE-SECRET-KEY-1NONSENSE\n")
    with pytest.raises(envelope.EnvelopeError) as caught:
        envelope.identities(tmp_path / "identity")
    assert "NONSENSE" not in str(caught.value)


# --- retention ---------------------------------------------------------------------------


def test_retention_thins_out_with_age() -> None:
    hours = [NOW - timedelta(hours=hour) for hour in range(24 * 100)]
    kept = retention.kept(((at, at) for at in hours), retention.Rules(3, 2, 2, 2))
    assert sorted(kept, reverse=True) == [
        *(NOW - timedelta(hours=hour) for hour in range(3)),
        datetime(2026, 3, 3, 23, tzinfo=UTC),
        datetime(2026, 3, 1, 23, tzinfo=UTC),  # a Sunday: the last of the week before
        datetime(2026, 2, 28, 23, tzinfo=UTC),
    ]


def test_retention_keeps_the_newest_and_counts_no_gap() -> None:
    long_ago = [NOW - timedelta(days=400), NOW - timedelta(days=800)]
    rules = retention.Rules.of("daily=2")
    assert retention.kept(((at, at) for at in long_ago), rules) == set(long_ago)
    assert retention.kept([(1, NOW)], retention.Rules(0, 0, 0, 1)) == {1}
    for nonsense in ("", "daily", "yearly=1", "daily=-1", "daily=0"):
        with pytest.raises(ValueError, match=r"expected|nothing"):
            retention.Rules.of(nonsense)


# --- settings ----------------------------------------------------------------------------


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Config:
    for name, value in values.items():
        monkeypatch.setenv(f"STOA_BACKUP_{name}", value)
    return Config.from_env()


def test_backups_are_off_until_a_folder_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(monkeypatch)
    assert config.folder is None and config.journal is None
    assert not schedule.due(config, NOW)


def test_settings_that_would_undo_the_purpose_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, keys = (envelope.new_identity()[1] for _ in range(2))
    good = {"DIR": str(tmp_path / "a"), "RECIPIENTS": data, "KEYS_DIR": str(tmp_path / "b")}
    good |= {"KEYS_RECIPIENTS": keys}
    assert settings(monkeypatch, **good).keep == retention.Rules()
    for name, value in (
        ("RECIPIENTS", ""),
        ("RECIPIENTS", "age1nonsense"),
        ("KEYS_RECIPIENTS", ""),
        ("KEYS_RECIPIENTS", f"{keys},{data}"),
        ("KEYS_DIR", str(tmp_path / "a")),
        ("KEYS_DIR", str(tmp_path / "a" / "keys")),
        ("EVERY_H", "0"),
        ("KEEP", "sometimes"),
    ):
        with pytest.raises(ImproperlyConfigured, match="STOA_BACKUP_"):
            settings(monkeypatch, **good | {name: value})
        monkeypatch.delenv(f"STOA_BACKUP_{name}")


def test_a_keys_file_holds_what_the_database_is_sealed_under_and_no_password() -> None:
    data = secrets.collected(
        "bak_1",
        {"STOA_TLS": "true", "STOA_MIRROR_TOKEN": "t0ken", "STOA_OWNER_DATABASE_URL": "pg://x"},
    )
    said = json.loads(data)
    assert said["settings"] == {"STOA_TLS": "true"}
    assert set(secrets.read(data).secrets) == {
        *("STOA_SECRET_KEY", "STOA_KEY_PEPPER", "STOA_MASTER_KEY", "STOA_KMS_PASSPHRASE")
    }
    assert secrets.read(data).signer is None
    for broken in (b"", b"[]", b'{"format":"stoa-backup-keys/1","secrets":{}}'):
        with pytest.raises(secrets.KeysError):
            secrets.read(broken)


def test_identities_are_drawn_and_bad_words_have_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["identity", "--out", str(tmp_path / "i")]) == 0
    recipient = capsys.readouterr().out.strip()
    assert f"# public key: {recipient}\n" in (tmp_path / "i").read_text()
    assert (tmp_path / "i").stat().st_mode & 0o777 == 0o600
    assert main(["identity", "--out", str(tmp_path / "i")]) == 1
    for words in (["list"], ["verify", "--dir", str(tmp_path)], ["verify", "x", "--dir", "/x"]):
        assert main([*words, "--json"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert not said["ok"] and said["error"]


# --- the journal -------------------------------------------------------------------------

# An end that may come back with a backup, each with its reason.
MAY_RETURN = {
    "session.delete": "reopening ends all sessions",
    "enrollment_token.revoke": "",  # registered; reopening ends all of them besides
    "log.rotate_key": "the signer's own memory says which keys sign, and every log is succeeded",
    "subject_request.close": "its clock runs again until a person closes it; erasures are replayed",
    "kms.rotate": "an older version opens what the backup has",
    "notice.close": "it is shown once more",
    "run.stop": "a run that was stopped is over long before",
    "model.cancel_pull": "it costs nobody anything",
    "adapter.unload": "it serves nobody who does not ask for it",
    "alias.delete": "a name of the project's own for its own endpoints",
    "batch.end": "what was lost is run again",
    "replica.stop": "the sweep decides anew",
    "replica.end": "nodes report what runs",
    "maintenance.end": "a person ends it again",
    "maintenance.cancel": "a person cancels it again",
    "node.decommission": "its end is what counts: node.decommissioned",
    "node.decommission_cancel": "it takes nothing away",
    "budget.delete": "a bound too many is the careful side",
    "event.disclose": "nothing ended",
    "backup.delete": "the folder is the truth",
    "credit.expire": "the next look at it expires it again",
    "archive.destroy": "its time is over still: the list has it again",
    "books.close": "a person closes them again",
    "payment.close": "the provider and the bank say again what became of it",
}
ENDING = re.compile(
    r"delete|revoke|redact|expire|stop|remove|rotate|\.end$|cancel|close|unshare|unload"
    r"|decommission|set_password|change_role|disclose"
)


def test_every_action_that_ends_something_is_replayed_or_has_a_reason() -> None:
    ending = {action for action in ACTIONS if ENDING.search(action)}
    undecided = ending - tombstones.registered() - MAY_RETURN.keys()
    assert undecided == set(), "register a replay (compliance.tombstones), or say why it may return"


def stone(number: int) -> Tombstone:
    return Tombstone.objects.create(
        action="event.redact", target_type="event", target_id=f"evt_{number}", at=NOW
    )


@pytest.mark.django_db
def test_the_journal_gives_back_what_it_was_given(tmp_path: Path) -> None:
    given = [stone(number).id for number in range(3)]
    assert journal.ship(tmp_path, NOW) == 3
    assert journal.ship(tmp_path, NOW) == 0
    given.append(stone(3).id)
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"id": "cut o')  # what a crash left
    journal.ship(tmp_path, NOW)
    journal.ship(tmp_path, NOW + timedelta(days=40))
    assert [row.id for row in journal.read(tmp_path)] == given
    assert journal.missing(tmp_path) == []
    Tombstone.objects.filter(id=given[1]).delete()
    assert [row.id for row in journal.missing(tmp_path)] == [given[1]]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [lines[0].replace(b"evt_0", b"evt_9"), *lines[1:]],
        lambda lines: [b"nonsense\n", *lines],
    ],
)
def test_a_journal_that_was_changed_is_refused(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    for number in range(3):
        stone(number)
    journal.ship(tmp_path, NOW)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(journal.JournalBroken):
        list(journal.read(tmp_path))


@pytest.mark.django_db
def test_an_end_that_this_version_does_not_know_keeps_the_database_shut() -> None:
    unknown = Tombstone(action="moon.delete", target_type="moon", target_id="m", at=NOW)
    with pytest.raises(tombstones.UnknownEnd, match=r"moon\.delete"):
        tombstones.replay([unknown], NOW)


@pytest.mark.django_db
def test_a_verb_that_is_rolled_back_leaves_no_tombstone() -> None:
    audit.record(
        actor=audit.SYSTEM,
        action="api_key.revoke",
        target=audit.Target("api_key", "key_1"),
        log="org_1",
        region="eu-de-1",
        now=NOW,
        change=[audit.Change("revoked_at", None, "x")],
    )
    found = Tombstone.objects.get()
    assert (found.action, found.target_id) == ("api_key.revoke", "key_1")
    assert found.facts == {"revoked_at": "x", "region": "eu-de-1"}
    assert found.event_id == AuditEvent.objects.get().id


# --- what doctor says -----------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_doctor_knows_how_old_the_last_good_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.made(tmp_path)
    now = timezone.now()

    def said(at: datetime, local: bool = False) -> dict[str, Any]:
        return {one.check: one for one in health.findings(at, local=local)}

    assert said(now, local=True)["backup"].ok and not said(now)["backup"].ok
    monkeypatch.setenv("STOA_BACKUP_DIR", str(place.folder))
    assert "RECIPIENTS" in said(now)["backup"].text
    monkeypatch.setenv("STOA_BACKUP_RECIPIENTS", ",".join(place.config.recipients))
    place.folder.mkdir()
    assert "no good one" in said(now)["backup"].text
    made = running.create(place.config, now=now)
    found = said(now)
    assert found["backup"].ok and found["backup journal"].ok
    assert not found["backup drill"].ok and not found["backup keys"].ok
    assert not said(now + timedelta(hours=49))["backup"].ok
    monkeypatch.setenv("STOA_BACKUP_EVERY_H", "48")
    assert said(now + timedelta(hours=49))["backup"].ok
    assert not schedule.due(Config.from_env(), now) and schedule.due(
        Config.from_env(), now + timedelta(hours=49)
    )
    stone(1)
    assert not said(now)["backup journal"].ok
    with override_settings(MASTER_KEY="MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWQ="):
        assert "no good one" in said(now)["backup"].text
    (place.folder / made.id / manifest.SIGNATURE).unlink()
    assert "no good one" in said(now)["backup"].text
