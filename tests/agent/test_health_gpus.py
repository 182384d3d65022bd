"""What a node finds wrong with its GPUs, read through NVIDIA's own binding."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.endpoints import questions
from controlplane.fleet import wire
from controlplane.fleet.wire import Finding, Severity
from tests.agent.fake_nvml import GIB, FakeGpus
from workers.agent import inventory
from workers.agent.health import nvml
from workers.agent.health.cards import Card, Holder, Reading, position
from workers.agent.health.clock import Clock
from workers.agent.health.examination import Examination
from workers.agent.health.gpus import Gpus
from workers.agent.settings import Settings, read


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    fake = FakeGpus(tmp_path)
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "kmsg").touch()
    return read(
        {
            "STOA_AGENT_DIR": str(tmp_path / "agent"),
            "STOA_CACHE_DIR": str(tmp_path / "cache"),
            "STOA_AGENT_RUN_DIR": "/tmp/sa",
            "STOA_AGENT_KERNEL_LOG": str(tmp_path / "kmsg"),
        }
    )


@pytest.fixture
def examination(settings: Settings) -> Iterator[Examination]:
    made = Examination(settings, Clock())
    yield made
    made.close()


def cards(reading: Reading | None) -> list[Card]:
    assert reading is not None and not reading.error, reading
    return reading.cards


def of_gpus(found: list[Finding]) -> dict[tuple[str, int | None], Severity]:
    return {(f.check, f.device): f.severity for f in found if f.check.startswith("gpu")}


def test_the_driver_says_what_the_gpus_are(fake: FakeGpus) -> None:
    fake.card(0, processes="101:1048576,102:2097152", used=3 * GIB, ecc__uncorrected__ever=4)
    first, second = cards(nvml.read())
    assert (first.uuid, first.serial, first.pci) == ("GPU-0", "165202400000", "00000000:3B:00.0")
    assert first.holders == [Holder(pid=101, bytes=1 << 20), Holder(pid=102, bytes=2 << 20)]
    assert (first.memory_used_bytes, first.temperature_c, first.slowdown_c) == (3 * GIB, 41, 90)
    assert first.ecc_uncorrected is None and first.ecc_uncorrected_ever == 4
    assert second.holders == [] and second.rows_remapped == 0 and second.links == []


def test_an_h100_as_its_driver_described_it(
    fake: FakeGpus, settings: Settings, examination: Examination
) -> None:
    """What driver 580.159.04 said of an idle H100 SXM alone in a virtual machine (2026-11-26), the
    names of the card apart; NVLinks and retired pages it does not know."""
    fake.state = {"gpus": "1", "driver": "580.159.04", "cuda": "13000"}
    fake.card(
        0,
        **{"ecc.corrected.now": 0, "ecc.uncorrected.now": 0, "ecc.uncorrected.ever": 0},
        uuid="GPU-3d",
        serial="16",
        name="NVIDIA H100 80GB HBM3",
        pci="00000000:00:06.0",
        memory=85_520_809_984,
        used=503_316_480,
        temperature=41,
        slowdown=89,
        slowed=1,  # it idles
        remapped=0,
    )
    (card,) = cards(nvml.read())
    assert (card.links, card.holders, card.pages_retired) == ([], [], None)
    assert card.ecc_uncorrected_ever == 0 and card.slowed_by == 1
    assert of_gpus(examination.findings()) == {}
    (device,) = inventory.collect(settings).devices
    assert (device.kind, device.healthy) == ("nvidia-h100-80gb-hbm3", True)
    # The driver keeps 480 MiB for itself; what is left is what engines call the device's memory.
    known = questions.device(device.kind, device.memory_bytes)
    assert known.name == "h100"
    assert abs(known.memory_bytes - (card.memory_bytes - card.memory_used_bytes)) < 8 << 20
    assert card.memory_used_bytes < settings.residue_bytes


def test_the_inventory_has_them_with_their_serial_numbers(
    fake: FakeGpus, settings: Settings
) -> None:
    fake.card(1, lost=1)
    found = inventory.collect(settings)
    assert (found.driver, found.cuda) == ("570.86.15", 12080)
    assert found.devices[0] == wire.DeviceInfo(
        index=0,
        kind="nvidia-h200",
        name="NVIDIA H200",
        memory_bytes=141 * GIB,
        uuid="GPU-0",
        serial="165202400000",
    )
    assert [device.healthy for device in found.devices] == [True, False]


def test_a_machine_without_the_library_has_no_gpus(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr(nvml, "_CACHE", tmp_path / "none")
    assert nvml.read() is None
    assert {device.kind for device in inventory.collect(settings).devices} == {"cpu"}


@pytest.mark.parametrize(
    ("state", "says"),
    [("hang", "did not answer within 1 s"), ("crash", "-6"), ("unloaded", "Driver Not Loaded")],
)
def test_a_driver_that_fails_is_told_and_holds_nobody_up(
    fake: FakeGpus, settings: Settings, state: str, says: str
) -> None:
    fake.put(**{state: 1})
    reading = nvml.read(timeout_s=1.0 if state == "hang" else nvml.TIMEOUT_S)
    assert reading is not None and says in reading.error
    (finding,) = Gpus().findings(reading)
    assert (finding.check, finding.severity) == ("gpu_driver", Severity.CRITICAL)


def test_a_gpu_node_whose_driver_fails_offers_no_cpu_instead(
    fake: FakeGpus, settings: Settings, examination: Examination
) -> None:
    examination.findings()
    fake.put(unloaded=1)
    assert inventory.collect(settings).devices == []
    assert of_gpus(examination.findings()) == {("gpu_driver", None): Severity.CRITICAL}


@pytest.mark.parametrize(
    ("figures", "check", "severity"),
    [
        ({"temperature": 84}, None, None),
        ({"temperature": 86}, "gpu_temperature", Severity.WARNING),
        ({"temperature": 91}, "gpu_temperature", Severity.CRITICAL),
        ({"ecc__uncorrected__now": 1}, "gpu_ecc", Severity.CRITICAL),
        ({"ecc__corrected__now": 900, "ecc__uncorrected__ever": 7}, None, None),
        ({"remapped": 3}, None, None),
        ({"remapped": 3, "remap_pending": 1}, "gpu_remap_pending", Severity.WARNING),
        ({"remapped": 8, "remap_failed": 1}, "gpu_row_remap", Severity.CRITICAL),
        ({"slowed": 0x4 | 0x1}, None, None),
        ({"slowed": 0x40 | 0x1}, "gpu_throttled", Severity.WARNING),
        ({"lost": 1}, "gpu_lost", Severity.CRITICAL),
    ],
)
def test_figures_become_findings(
    fake: FakeGpus,
    examination: Examination,
    figures: dict[str, int],
    check: str | None,
    severity: Severity | None,
) -> None:
    assert of_gpus(examination.findings()) == {}
    fake.card(1, **figures)
    assert of_gpus(examination.findings()) == ({(check, 1): severity} if check else {})


def test_gpus_that_retire_pages(fake: FakeGpus, examination: Examination) -> None:
    del fake.state["0.remapped"]
    fake.card(0, pages__single=2, pages__double=1, pages_pending=1)
    assert cards(nvml.read())[0].pages_retired == 3
    assert of_gpus(examination.findings()) == {("gpu_remap_pending", 0): Severity.WARNING}
    fake.card(0, pages__single=58, pages__double=2)
    assert of_gpus(examination.findings()) == {("gpu_row_remap", 0): Severity.CRITICAL}


def test_links_that_go_down_or_count_errors(fake: FakeGpus, examination: Examination) -> None:
    fake.card(0, link0=1, link0__error1=5, link1=0)
    assert of_gpus(examination.findings()) == {}  # what was counted before says nothing
    fake.card(0, link0__error1=6)
    assert of_gpus(examination.findings()) == {("gpu_nvlink", 0): Severity.WARNING}
    fake.card(0, link0=0)
    assert of_gpus(examination.findings()) == {("gpu_nvlink", 0): Severity.CRITICAL}


def test_a_gpu_that_is_gone_is_missed_by_the_next_agent_too(
    fake: FakeGpus, settings: Settings, examination: Examination
) -> None:
    assert of_gpus(examination.findings()) == {}
    fake.put(gpus=1)
    assert of_gpus(examination.findings()) == {("gpu_lost", 1): Severity.CRITICAL}
    successor = Examination(settings, Clock())
    assert of_gpus(successor.findings()) == {("gpu_lost", 1): Severity.CRITICAL}
    fake.put(gpus=2)
    fake.card(1, uuid="GPU-9")  # another one in its place
    assert of_gpus(successor.findings()) == {}
    fake.put(gpus=1)
    (missed,) = (f for f in successor.findings() if f.check == "gpu_lost")
    assert "GPU-9" in missed.text
    successor.close()


def test_events_of_the_kernels_log_name_the_gpu(
    fake: FakeGpus, settings: Settings, examination: Examination, tmp_path: Path
) -> None:
    assert of_gpus(examination.findings()) == {}
    with (tmp_path / "kmsg").open("a") as log:
        log.write(
            "6,1,5140900,-;NVRM: Xid (PCI:0000:3c:00): 79, pid=7, GPU has fallen off the bus\n"
        )
        log.write(
            "6,2,5140901,-;NVRM: Xid (PCI:0000:3b:00): 13, pid=8, Graphics SM Warp Exception\n"
        )
    found = of_gpus(examination.findings())
    assert found[("gpu_xid_reboot", 1)] is Severity.CRITICAL


@pytest.mark.parametrize(
    ("pci", "place"),
    [
        ("00000000:3B:00.0", (0, 0x3B, 0)),
        ("0000:3b:00", (0, 0x3B, 0)),
        ("3b:00.0", (0, 0x3B, 0)),
        ("00000001:0A:1F.0", (1, 0x0A, 0x1F)),
        ("", None),
        ("zz:00", None),
    ],
)
def test_addresses_are_compared_by_their_numbers(
    pci: str, place: tuple[int, int, int] | None
) -> None:
    assert position(pci) == place
