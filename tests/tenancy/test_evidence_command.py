"""`stoa evidence export`, the command line's way to signed bundles."""

import time
import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from compliance import exports
from compliance.bundles import stoa_verify
from compliance.log import signing
from tests.logs import settle
from tests.signers import running


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> None:
    settings.VAR = tmp_path / "var"


def export(organization: str, out: Path, start: str = "2026-03-01", end: str = "2026-04-01") -> str:
    said = StringIO()
    period = ["--from", start, "--to", end]
    words = ["--organization", organization, *period, "--out", str(out), "--reason", "an audit"]
    call_command("evidence", "export", "records", *words, stdout=said)
    return said.getvalue()


def test_one_command_gives_the_records_of_a_period(
    ours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the log is signed."""
    monkeypatch.setattr(time, "sleep", lambda seconds: settle(timezone.now()))
    out = tmp_path / "records.zip"
    with running():
        said = export(ours.organization.id, out)
        key = stoa_verify.Vkey.parse(signing.vkey())
    assert str(out) in said
    report = stoa_verify.verify(out, stoa_verify.Options([key]))
    assert report.exit_code() == stoa_verify.OK, report.checks
    with zipfile.ZipFile(out) as bundle:
        lines = bundle.read("data/audit_events.jsonl").splitlines()
    assert len(lines) == 8  # the organization, five members, a project, a key
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["records.zip"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"organization": "org_nobody"}, "no such organization"),
        ({"start": "yesterday"}, "no date"),
        ({"start": "2026-05-01"}, "ends before it begins"),
        ({"out": Path("/nowhere/at/all.zip")}, "no such folder"),
    ],
)
def test_a_wrong_word_is_one_clear_line(
    ours: Any, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    right: dict[str, Any] = {"organization": ours.organization.id, "out": tmp_path / "o.zip"}
    with pytest.raises(CommandError, match=message):
        export(**{**right, **words})
    assert not (tmp_path / "o.zip").exists()


def test_a_pack_of_each_kind_is_checked_by_the_verifier_alone(
    ours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: settle(timezone.now()))
    folder, said = tmp_path / "pack", StringIO()
    words = ["--organization", ours.organization.id, "--out", str(folder)]
    with running():
        call_command("evidence", "demo", *words, stdout=said)
    files = {path.name for path in folder.iterdir()}
    made = {name.rpartition("-")[0] for name in files if name.endswith(".zip")} - {""}
    skipped = {line.split()[0] for line in said.getvalue().splitlines() if "nothing here" in line}
    assert made | skipped == set(exports.KINDS)
    assert made >= {"annex_a", "audit_log", "records", "switching"}
    assert {"stoa_verify.py", "key", "altered.zip"} <= files
    assert f"exit {stoa_verify.TAMPERED}, expected 2: tampered" in said.getvalue()
    assert "; event 0 is not the one that the log holds" in said.getvalue()
    with pytest.raises(CommandError, match="is there already"):
        call_command("evidence", "demo", *words, stdout=said)
