"""The published file by itself: an empty directory, nothing of ours on the path, no network."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path

import cryptography
import fpdf.output
import pytest

from compliance.bundles import readme, stoa_verify
from tests.compliance.bundles.making import Key, MemoryLog, bodies, forge, make, openings
from tests.compliance.bundles.test_tampering import edit

# Python's own library, `cryptography` and what it needs, and no socket.
ALONE = """
import sys
sys.path[:] = [one for one in sys.path if "site-packages" not in one] + [{packages!r}]
import socket
def refuse(*_, **__): raise AssertionError("the network")
socket.socket = refuse
import runpy
sys.argv = sys.argv[1:]
runpy.run_path("stoa_verify.py", run_name="__main__")
"""


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A directory with the verifier and `cryptography` alone beside it."""
    packages = tmp_path / "packages"
    packages.mkdir()
    site = Path(cryptography.__file__).parents[1]
    for name in ("cryptography", "cffi", "pycparser"):
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    for binary in site.glob("_cffi_backend*"):
        (packages / binary.name).symlink_to(binary)
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(stoa_verify.__file__, folder)
    return folder


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = ALONE.format(packages=f"{folder.parent / 'packages'}")
    command = [sys.executable, "-I", "-c", program, "stoa_verify.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_bundle_is_checked_in_an_empty_directory(empty: Path) -> None:
    log = MemoryLog(bodies(75))
    bundle = make(empty / "bundle.zip", log)
    (empty / "kept").write_text(MemoryLog(bodies(75)[:20]).note)
    done = alone(empty, "bundle.zip", "--vkey", Key().vkey, "--prev", "kept")
    assert done.returncode == 0, done.stderr
    assert "verdict: ok" in done.stdout
    assert "It does not show" in done.stdout
    told = alone(empty, "bundle.zip", "--vkey", Key().vkey, "--json")
    said = json.loads(told.stdout)
    assert said["verdict"] == "ok"
    assert said["log"]["size"] == 75
    forge(bundle, empty / "forged.zip", edit, Key())
    done = alone(empty, "forged.zip", "--vkey", Key().vkey)
    assert done.returncode == 2
    assert "verdict: tampered" in done.stdout
    assert "This supports" not in done.stdout


def run(*arguments: str) -> int:
    try:
        return stoa_verify.main(list(arguments))
    except SystemExit as left:
        return int(left.code or 0)


def test_each_ending_has_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = MemoryLog(bodies(75))
    bundle, key = f"{make(tmp_path / 'bundle.zip', log)}", Key().vkey
    assert run(bundle, "--vkey", key) == 0
    assert run(bundle, "--vkey", Key(2).vkey) == 2
    assert run(bundle) == run(bundle, "--vkey", "nonsense") == run("nowhere", "--vkey", key) == 64
    assert run(bundle, "--vkey", key, "--prev", "nowhere") == run() == 64
    hidden = make(tmp_path / "hidden.zip", log, openings=[])
    assert run(f"{hidden}", "--vkey", key) == 3
    assert "25 are neither shown nor erased" in capsys.readouterr().out


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, key = MemoryLog(bodies(75)), Key().vkey
    uncertified = [replace(one, certificate="") for one in openings(0, 75, 75)]
    bundle = make(tmp_path / "a.zip", log, openings=uncertified)
    assert run(f"{bundle}", "--vkey", key) == 3
    assert "1 are called erased without a certificate" in capsys.readouterr().out
    assert run(f"{bundle}", "--vkey", key, "--max-silence", "60") == 3
    assert "nothing was logged for 90 s" in capsys.readouterr().out
    assert run(f"{bundle}", "--vkey", key, "--witness-key", Key(9, "w.example").vkey) == 3
    assert "by 0 of 1 witnesses" in capsys.readouterr().out


def test_a_profile_without_people_opens_nothing(tmp_path: Path) -> None:
    log = MemoryLog(bodies(75))
    bundle = make(tmp_path / "a.zip", log, profile="pseudonymised", openings=[])
    assert run(f"{bundle}", "--vkey", Key().vkey) == 0


def test_the_sum_in_a_readme_is_the_verifiers(tmp_path: Path) -> None:
    published = hashlib.sha256(Path(stoa_verify.__file__).read_bytes()).hexdigest()
    assert readme.verifier_sha256() == published


def test_a_range_of_a_log_is_proved_without_all_its_hashes(tmp_path: Path) -> None:
    log, key = MemoryLog(bodies(75)), Key().vkey
    for first, count in ((0, 75), (20, 30), (1, 1), (64, 11), (0, 0), (75, 0)):
        bundle = tmp_path / f"{first}-{count}.zip"
        made = make(
            bundle,
            log,
            first=first,
            count=count,
            most_hashes=10,
            uncertified=True,
            profile="pseudonymised",
            openings=[],
        )
        code = run(f"{made}", "--vkey", key)
        assert code == (0 if first in (0, 20, 64, 1) and first + count == 75 else 3)

        changed: list[bytes] = []

        def change(files: dict[str, bytes], changed: list[bytes] = changed) -> None:
            changed.append(files["log/range.json"])
            files["log/range.json"] = changed[0].replace(b"A", b"B", 1)

        forged = forge(made, tmp_path / f"forged-{first}-{count}.zip", change, Key())
        if b"A" in changed[0]:
            assert run(f"{forged}", "--vkey", key) == 2


def test_the_same_bundle_is_the_same_bytes_in_another_year(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the library that writes the page goes on: none of it is in the page."""
    log = MemoryLog(bodies(9))
    first = make(tmp_path / "first.zip", log)

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Later":
            return cls(2031, 5, 6, 7, 8, 9, tzinfo=tz)

    monkeypatch.setattr(fpdf.output, "datetime", Later)
    assert make(tmp_path / "second.zip", log).read_bytes() == first.read_bytes()
