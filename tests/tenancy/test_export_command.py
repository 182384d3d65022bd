"""`manage.py export`, the command line's way to an organization's records."""

import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> None:
    settings.VAR = tmp_path / "var"


def export(organization: str, out: Path, start: str = "2026-03-01", end: str = "2026-04-01") -> str:
    said = StringIO()
    period = ["--from", start, "--to", end]
    call_command("export", "--organization", organization, *period, "--out", str(out), stdout=said)
    return said.getvalue()


def test_one_command_gives_the_records_of_a_period(ours: Any, tmp_path: Path) -> None:
    out = tmp_path / "records.zip"
    said = export(ours.organization.id, out)
    assert str(out) in said
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
