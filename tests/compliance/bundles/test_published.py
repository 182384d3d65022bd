"""The verifier as everybody gets it: its bytes, its sum in the documents, the command line."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client

from compliance.bundles import readme, stoa_verify
from tests import signers
from tests.compliance.bundles.making import Key, MemoryLog, bodies, make
from tests.test_layout import ROOT

CODE = Path(stoa_verify.__file__).read_bytes()
SUM = hashlib.sha256(CODE).hexdigest()


def test_the_documents_name_its_sum() -> None:
    """After a change: put the new sum into docs/bundles.md."""
    assert readme.verifier_sha256() == SUM
    assert f"    {SUM}\n" in (ROOT / "docs" / "bundles.md").read_text()


@pytest.mark.django_db
def test_the_console_serves_it_to_everybody() -> None:
    answer = Client().get("/verify/stoa_verify.py")
    assert answer.status_code == 200
    assert b"".join(answer.streaming_content) == CODE  # type: ignore[attr-defined]
    answer.close()
    digest = Client().get("/verify/stoa_verify.py.sha256")
    assert digest.content.decode() == f"{SUM}  stoa_verify.py\n"
    with signers.running():
        key = Client().get("/verify/key").content.decode()
    assert stoa_verify.Vkey.parse(key).algorithm == 1
    assert Client().get("/verify/key").status_code == 503


def test_the_command_line_runs_the_same_file(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle.zip", MemoryLog(bodies(9)))
    main = (
        "import sys; from controlplane import cli; sys.argv = ['stoa', *sys.argv[1:]]; cli.main()"
    )
    command = [sys.executable, "-c", main, "evidence", "verify", f"{bundle}", "--vkey", Key().vkey]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "verdict: ok" in done.stdout
