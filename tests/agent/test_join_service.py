"""What the join script leaves where systemd is: a unit, and what the service is told."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workers.agent import join_script


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "stoa-agent.service"

    def verified(text: str) -> subprocess.CompletedProcess[str]:
        unit.write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", str(unit)]
        return subprocess.run(command, capture_output=True, text=True)

    text = join_script.UNIT.format(python=sys.executable, home=tmp_path)
    good = verified(text)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    assert "ExecStrt" in verified(text.replace("ExecStart", "ExecStrt")).stderr


def test_the_service_is_told_where_packages_come_from_and_nothing_else_that_is_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "os.environ",
        {
            "HOME": "/root",
            "SECRET_OF_ANOTHER": "x",
            "PIP_INDEX_URL": "http://packages.example/simple",
            "PIP_FIND_LINKS": "/srv/a\n/srv/b",
            "https_proxy": "http://proxy.example:3128",
        },
    )
    told = join_script.service_environment({"STOA_AGENT_NAME": "a"})
    assert told.splitlines() == [
        "PIP_FIND_LINKS=/srv/a /srv/b",
        "PIP_INDEX_URL=http://packages.example/simple",
        "STOA_AGENT_NAME=a",
        "https_proxy=http://proxy.example:3128",
    ]
