"""What a node says that it has."""

import os
from pathlib import Path

import msgspec
import pytest

from workers.agent import inventory
from workers.agent.health import nvml
from workers.agent.settings import SettingError, Settings, read

GIB = 1 << 30


def settings(tmp_path: Path, **changes: str) -> Settings:
    names = {
        "STOA_AGENT_DIR": str(tmp_path / "agent"),
        "STOA_CACHE_DIR": str(tmp_path / "cache" / "not-there-yet"),
        "STOA_AGENT_RUN_DIR": "/tmp/sa",
    }
    return read({**names, **changes})


def test_a_machine_without_gpus_offers_shares_of_its_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "installed", lambda: False)
    found = inventory.collect(settings(tmp_path))
    assert found.devices and {device.kind for device in found.devices} == {"cpu"}
    assert all(device.memory_bytes >= 2 * GIB for device in found.devices)
    assert sum(device.memory_bytes for device in found.devices) <= found.memory_bytes
    assert found.cpu_count >= len(found.devices) and found.disk_free_bytes > 0
    assert found.kernel == os.uname().release and found.hostname


def test_the_number_of_shares_can_be_set(tmp_path: Path) -> None:
    found = inventory.collect(settings(tmp_path, STOA_AGENT_DEVICES="cpu:3"))
    assert [device.index for device in found.devices] == [0, 1, 2]


@pytest.mark.parametrize("value", ["cpu", "cpu:0", "cpu:-1", "gpu:1", "cpu:two"])
def test_a_wrong_setting_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingError, match="STOA_AGENT_DEVICES"):
        inventory.collect(settings(tmp_path, STOA_AGENT_DEVICES=value))


@pytest.mark.parametrize(
    ("product", "kind"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Tesla T4", "nvidia-tesla-t4"),
    ],
)
def test_kinds_are_names_for_settings_and_prices(product: str, kind: str) -> None:
    assert inventory.kind(product) == kind


def test_small_changes_of_free_disk_are_no_news(tmp_path: Path) -> None:
    found = inventory.collect(settings(tmp_path, STOA_AGENT_DEVICES="cpu:1"))
    nearly = msgspec.structs.replace(found, disk_free_bytes=found.disk_free_bytes + GIB)
    full = msgspec.structs.replace(found, disk_free_bytes=found.disk_free_bytes - 9 * GIB)
    ready = msgspec.structs.replace(found, engines=["vllm-cpu-1"])
    assert inventory.same(found, nearly)
    assert not inventory.same(found, full) and not inventory.same(found, ready)
    assert not inventory.same(None, found)


def test_settings_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="STOA_AGENT_RELAY"):
        settings(tmp_path, STOA_AGENT_RELAY="8443")
    with pytest.raises(SettingError, match="STOA_AGENT_RUN_DIR"):
        settings(tmp_path, STOA_AGENT_RUN_DIR="/tmp/" + "a" * 80)
    assert settings(tmp_path, STOA_AGENT_RELAY="[::1]:8443").relay == ("::1", 8443)
