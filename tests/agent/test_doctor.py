"""What `doctor` tells a person, and a script."""

import json
from pathlib import Path

import pytest

from controlplane.fleet import wire
from tests.agent.fake_controlplane import ControlPlane
from workers.agent import credential, doctor, inventory
from workers.agent.checks import disk_speed
from workers.agent.settings import Settings, read


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read({"STOA_AGENT_DIR": str(tmp_path), "STOA_AGENT_DEVICES": "cpu:1"})


def test_each_lack_comes_with_its_cure(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def survey() -> wire.Inventory:
        missing = {"uid": "the agent does not run as root"}
        return inventory.collect(settings, walls=[wire.Wall.SOCKET], missing_walls=missing)

    assert doctor.examine(settings, survey) == 1
    said = capsys.readouterr().out
    assert "LACK wall uid: the agent does not run as root" in said
    assert "LACK credential: this node has not joined" in said
    assert "workers.agent join" in said and "ok   wall socket" in said


def test_a_sound_node_passes_in_json_too(
    settings: Settings,
    plane: ControlPlane,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "DISK_WANTED_BYTES", 1)
    monkeypatch.setattr(doctor, "MEMORY_WANTED_BYTES", 1)
    # How fast this machine's disk is, is no matter here (test_checks.py measures it).
    monkeypatch.setattr(disk_speed, "findings", lambda directory, size: [])
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    key = credential.pending_key(settings.directory)
    answer = plane.certify(credential.request(key, "node"))
    credential.accept(settings.directory, url=plane.url, key=key, credential=answer)

    def survey() -> wire.Inventory:
        return inventory.collect(settings, walls=list(wire.Wall), engines=["vllm-cpu-1"])

    assert doctor.examine(settings, survey, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True and found["inventory"]["engines"] == ["vllm-cpu-1"]
    assert any("node_1, good for 2" in one["text"] for one in found["findings"])
