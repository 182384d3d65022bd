"""A node's conditions, as its findings and its row make them."""

from datetime import UTC, datetime

from controlplane.fleet.conditions import Condition, Facts, Status, Wrong, conditions
from controlplane.fleet.wire import Severity

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def of(facts: Facts, *wrong: Wrong) -> dict[str, Condition]:
    return {one.type: one for one in conditions(facts, wrong)}


def test_a_sound_node() -> None:
    found = of(Facts(heard=True, gpus=True))
    assert [(one.type, one.status) for one in found.values()] == [
        ("Ready", Status.TRUE),
        ("Schedulable", Status.TRUE),
        ("DiskPressure", Status.FALSE),
        ("MemoryPressure", Status.FALSE),
        ("GPUHealthy", Status.TRUE),
        ("ClockSynchronized", Status.TRUE),
    ]
    assert all(one.well for one in found.values())
    assert "GPUHealthy" not in of(Facts(heard=True))


def test_a_critical_finding_makes_a_condition_and_a_warning_does_not() -> None:
    critical = Wrong("disk_free", Severity.CRITICAL, "no room", NOW)
    warned = Wrong("gpu_throttled", Severity.WARNING, "slow", NOW)
    found = of(Facts(heard=True, gpus=True), critical, warned)
    assert found["DiskPressure"] == Condition(
        "DiskPressure", Status.TRUE, "DiskFree", "no room", NOW
    )
    assert not found["DiskPressure"].well and found["GPUHealthy"].well


def test_a_gpu_that_is_not_clean_is_not_healthy() -> None:
    found = of(
        Facts(heard=True, gpus=True), Wrong("device_dirty", Severity.CRITICAL, "held", NOW, 1)
    )
    assert found["GPUHealthy"].reason == "DeviceDirty" and not found["GPUHealthy"].well


def test_of_a_silent_node_nothing_is_known_but_what_we_did() -> None:
    facts = Facts(heard=False, unheard_since=NOW, cordoned_at=NOW, why="gpu_ecc")
    found = of(facts, Wrong("clock_offset", Severity.CRITICAL, "off", NOW))
    assert found["Ready"].status is found["ClockSynchronized"].status is Status.UNKNOWN
    assert (found["Schedulable"].status, found["Schedulable"].message) == (
        Status.FALSE,
        "because of gpu_ecc",
    )
