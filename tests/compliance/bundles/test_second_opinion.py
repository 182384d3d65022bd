"""An implementation that is not ours agrees: Go's sumdb/note and sumdb/tlog, from Debian."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from compliance.bundles import stoa_verify
from tests.compliance.bundles import test_tampering as tampering
from tests.compliance.bundles.making import Change, Key, MemoryLog, bodies, check, forge, make

SOURCE = Path(__file__).parent / "second" / "main.go"
PACKAGES = Path("/usr/share/gocode")
TLOG = PACKAGES / "src/golang.org/x/mod/sumdb/tlog"

pytestmark = pytest.mark.skipif(
    not shutil.which("go") or not TLOG.is_dir(),
    reason="needs Debian's golang-go and golang-golang-x-mod-dev: tests/prepare.py",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("go")
    env = os.environ | {"GO111MODULE": "off", "GOPATH": f"{PACKAGES}", "GOFLAGS": ""}
    env |= {"GOCACHE": f"{folder / 'cache'}"}
    subprocess.run(["go", "build", "-o", folder / "second", SOURCE], env=env, check=True)
    return folder / "second"


def ask(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("size", [3, 64, 75])
def test_both_find_the_same_log(program: Path, tmp_path: Path, size: int) -> None:
    bundle = make(tmp_path / "bundle.zip", MemoryLog(bodies(size)), openings=[])
    report = check(bundle)
    said = ask(program, bundle, Key().vkey)
    assert said.stdout.split() == [f"{size}", report.facts["log"]["root"]], said.stderr
    for earlier in (1, 2, size // 2 + 1, size):
        kept = tmp_path / "kept"
        kept.write_text(MemoryLog(bodies(size)[:earlier]).note)
        assert ask(program, bundle, Key().vkey, kept).returncode == 0
        assert check(bundle, previous=(kept,)).exit_code() != stoa_verify.TAMPERED


@pytest.mark.parametrize(
    "change",
    [tampering.edit, tampering.reorder, tampering.insert, tampering.other_hashes],
)
def test_both_refuse_what_was_signed_anew(program: Path, tmp_path: Path, change: Change) -> None:
    honest = make(tmp_path / "bundle.zip", MemoryLog(bodies(tampering.SIZE)))
    forged = forge(honest, tmp_path / "forged.zip", change, Key())
    assert ask(program, forged, Key().vkey).returncode == 1
    assert check(forged).exit_code() == stoa_verify.TAMPERED


def test_both_refuse_another_past_and_another_key(program: Path, tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle.zip", MemoryLog(bodies(75)))
    assert ask(program, bundle, Key(2).vkey).returncode == 1
    kept = tmp_path / "kept"
    kept.write_text(MemoryLog(bodies(33)).note)  # its last two events are others
    assert ask(program, bundle, Key().vkey, kept).returncode == 1
    assert check(bundle, previous=(kept,)).exit_code() == stoa_verify.TAMPERED
