"""What the join script does with what it finds; tests/flows/test_join.py runs the whole of it."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from workers.agent import join_script


def doctor(folder: Path, *findings: dict[str, Any]) -> Path:
    """A Python whose doctor finds these."""
    program = folder / "python"
    said = json.dumps({"findings": list(findings)})
    program.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(said)}\n")
    program.chmod(0o755)
    return program


def test_what_is_critical_is_told_with_its_cure_and_ends_the_joining(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"ok": False, "refuses": True}
    driver = {"check": "driver", **bad, "text": "too old", "cure": "install 570"}
    disk = {"check": "disk", "ok": False, "text": "slow"}
    with pytest.raises(SystemExit, match="mend what is critical"):
        join_script.examine(doctor(tmp_path, disk, driver), {})
    said = capsys.readouterr().out
    assert "critical driver: too old" in said and "cure: install 570" in said
    assert "warning disk: slow" in said


def test_what_is_no_more_than_a_warning_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unjoined = {"check": "credential", "ok": False, "text": "this node has not joined"}
    disk = {"check": "disk", "ok": False, "text": "slow"}
    join_script.examine(doctor(tmp_path, disk, unjoined), {})
    said = capsys.readouterr().out
    assert "warning disk: slow" in said and "no objection" in said and "joined" not in said


def test_a_doctor_that_cannot_speak_ends_it_too(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(SystemExit, match="broken"):
        join_script.examine(program, {})


@pytest.mark.parametrize("url", ["http://10.0.0.1", "stoa.example", ""])
def test_an_address_without_tls_is_refused(url: str) -> None:
    with pytest.raises(SystemExit, match="expected https"):
        join_script.Door(url, "sha256:" + "0" * 64)
