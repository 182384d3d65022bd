"""Checks that need no GPU: the kernel's log, dcgm-exporter, disk, memory, clock."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.fleet.wire import Finding, Severity
from workers.agent.health import dcgm, disk, examination, memory, xid
from workers.agent.health.cards import Card
from workers.agent.health.clock import FAR_OFF_S, OFF_S, Clock
from workers.agent.health.gpus import of_card
from workers.agent.health.kernel_log import KernelLog
from workers.agent.health.xid import Meaning

GIB = 1 << 30
CARDS = [Card(index=0, pci="00000000:3B:00.0"), Card(index=1, pci="00000000:3C:00.0")]


class Log:
    """A kernel log in a file, and a clock that counts as it does."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.number = path, 100.0, 0
        path.touch()
        self.log = KernelLog(path, lambda: self.now)

    def say(self, text: str) -> None:
        self.number += 1
        with self.path.open("a") as file:
            file.write(f"4,{self.number},{int(self.now * 1e6)},-;{text}\n SUBSYSTEM=pci\n")

    def found(self) -> dict[tuple[str, int | None], str]:
        return {(one.check, one.device): one.text for one in self.log.findings(CARDS)}


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "kmsg")
    yield made
    made.log.close()


# --- XID events -----------------------------------------------------------------------------


def test_an_event_is_found_once_with_its_count(kernel: Log) -> None:
    kernel.say("usb 1-1: new device")
    kernel.say("NVRM: Xid (PCI:0000:3b:00): 119, pid=1, Timeout waiting for RPC from GSP")
    kernel.say("NVRM: Xid (PCI:0000:3b:00): 119, pid=1, Timeout waiting for RPC from GSP")
    assert kernel.found() == {
        ("gpu_xid_reset", 0): "XID 119 (2 times): pid=1, Timeout waiting for RPC from GSP"
    }


@pytest.mark.parametrize(
    ("code", "check", "severity"),
    [
        (13, "gpu_xid_application", Severity.INFO),
        (31, "gpu_xid_application", Severity.INFO),
        (94, "gpu_xid_application", Severity.INFO),
        (48, "gpu_xid_reset", Severity.CRITICAL),
        (74, "gpu_xid_reset", Severity.CRITICAL),
        (95, "gpu_xid_reset", Severity.CRITICAL),
        (119, "gpu_xid_reset", Severity.CRITICAL),
        (79, "gpu_xid_reboot", Severity.CRITICAL),
        (64, "gpu_xid_replace", Severity.CRITICAL),
        (9999, "gpu_xid_unknown", Severity.WARNING),
    ],
)
def test_what_an_event_means(code: int, check: str, severity: Severity) -> None:
    one = xid.finding(code, 3, "words")
    assert (one.check, one.severity, one.device) == (check, severity, 3)
    assert one.cure


def test_an_event_of_a_program_is_soon_over_and_one_of_a_broken_gpu_is_not(kernel: Log) -> None:
    for code in (13, 48, 79, 64):
        kernel.say(f"NVRM: Xid (PCI:0000:3c:00): {code}, words")
    assert len(kernel.found()) == 4
    kernel.now += xid.HOLDS_S[Meaning.APPLICATION]
    assert set(kernel.found()) == {
        ("gpu_xid_reset", 1),
        ("gpu_xid_reboot", 1),
        ("gpu_xid_replace", 1),
    }
    kernel.now += 30 * 86_400
    assert set(kernel.found()) == {("gpu_xid_reboot", 1), ("gpu_xid_replace", 1)}


def test_a_gpu_that_is_gone_is_named_by_no_index(kernel: Log) -> None:
    kernel.say("NVRM: Xid (PCI:0000:99:00): 79")
    assert kernel.found() == {("gpu_xid_reboot", None): "XID 79: no more was said"}


def test_half_a_line_waits_for_its_end(kernel: Log) -> None:
    with kernel.path.open("a") as file:
        file.write("4,1,5,-;NVRM: Xid (PCI:0000:3b:00): 6")
    assert kernel.found() == {}
    with kernel.path.open("a") as file:
        file.write("4, words\n")
    assert set(kernel.found()) == {("gpu_xid_replace", 0)}


def test_a_log_that_is_not_there_is_said_to_be_unreadable(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "none", lambda: 0.0)
    assert log.findings(CARDS) == [] and not log.readable


# --- dcgm-exporter --------------------------------------------------------------------------

PAGE = """
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-0",pci_bus_id="00000000:3B:00.0",modelName="NVIDIA H200"} 44
DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-1",modelName="NVIDIA H200"} 93
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-0",modelName="a \\"quoted\\" name"} 79
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-1"} 13
DCGM_FI_DEV_ROW_REMAP_FAILURE{gpu="0",UUID="GPU-0"} 1
DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu="0",UUID="GPU-0"} NaN
DCGM_FI_DEV_GPU_TEMP{gpu="0",GPU_I_ID="3",UUID="GPU-0"} 99
"""


@pytest.fixture
def exporter() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    server.shutdown()
    server.server_close()


def test_the_exporters_figures_are_judged_as_the_drivers(exporter: str) -> None:
    found = dcgm.read(exporter)
    assert isinstance(found, list)
    first, second = found
    assert (first.temperature_c, first.ecc_uncorrected, first.xid) == (44, None, 79)
    assert {one.check for one in of_card(first)} == {"gpu_row_remap"}
    assert {one.check for one in of_card(second)} == {"gpu_temperature"}
    last = [one for card in found for one in examination._last_xid(card)]
    assert [(one.check, one.device) for one in last] == [("gpu_xid_reboot", 0)]


def test_an_exporter_that_is_away_is_a_finding() -> None:
    found = dcgm.read("http://127.0.0.1:1/metrics")
    assert isinstance(found, Finding) and found.check == "dcgm_exporter"


# --- disk, memory, clock --------------------------------------------------------------------


@given(free=st.integers(0, 1 << 45), total=st.integers(1, 1 << 45))
def test_less_room_is_never_better(free: int, total: int) -> None:
    order = [None, Severity.WARNING, Severity.CRITICAL]
    now, less = disk.judged(free, total), disk.judged(free // 2, total)
    assert order.index(less) >= order.index(now)
    assert disk.judged(0, total) is Severity.CRITICAL


def test_a_large_disk_is_judged_by_bytes_and_a_small_one_by_its_share(tmp_path: Path) -> None:
    assert disk.judged(20 * GIB, 8000 * GIB) is None
    assert disk.judged(9 * GIB, 8000 * GIB) is Severity.WARNING
    assert disk.judged(GIB // 2, 8000 * GIB) is Severity.CRITICAL
    assert disk.judged(5 * GIB, 50 * GIB) is None
    assert disk.nearest(tmp_path / "not" / "there") == tmp_path


def test_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    def found(available: int, stalled: str = "0.00") -> list[tuple[str, Severity]]:
        (tmp_path / "meminfo").write_text(
            f"MemTotal:  1000000 kB\nMemAvailable:  {available} kB\nHugePages_Total:  0\n"
        )
        (tmp_path / "pressure").mkdir(exist_ok=True)
        (tmp_path / "pressure/memory").write_text(
            f"some avg10=0.00 avg60=50.00 total=1\nfull avg10=0.00 avg60={stalled} total=1\n"
        )
        return [(one.check, one.severity) for one in memory.findings(tmp_path)]

    assert found(500_000) == []
    assert found(40_000) == [("memory_pressure", Severity.WARNING)]
    assert found(10_000) == [("memory_pressure", Severity.CRITICAL)]
    assert found(500_000, stalled="12.50") == [("memory_pressure", Severity.WARNING)]
    assert memory.findings(tmp_path / "none") == []


@given(
    offset=st.floats(-500, 500),
    trips=st.lists(
        st.tuples(st.floats(0, 20), st.floats(0, 1)).map(lambda t: (t[0], t[0] * t[1])),
        min_size=1,
        max_size=8,
    ),
)
def test_the_clock_is_known_to_half_the_quickest_round_trip(
    offset: float, trips: list[tuple[float, float]]
) -> None:
    clock, ours = Clock(), 1_700_000_000.0
    for trip_s, there_s in trips:
        clock.heard(ours, ours + there_s + offset, ours + trip_s)
        ours += 30
    best = clock.best()
    assert best is not None
    assert abs(best.offset_s - offset) <= best.within_s + 1e-5
    assert best.within_s == pytest.approx(min(trip for trip, _ in trips) / 2, abs=1e-5)
    if abs(offset) < OFF_S - 1e-3:
        assert clock.findings() == []
    elif best.surely_s >= FAR_OFF_S:
        assert [one.severity for one in clock.findings()] == [Severity.CRITICAL]


def test_a_control_plane_that_says_no_time_tells_nothing() -> None:
    clock = Clock()
    clock.heard(10.0, 0.0, 10.1)
    clock.heard(10.0, 99.0, 9.0)  # set back in between
    assert clock.best() is None and clock.findings() == []


def test_of_two_that_say_the_same_the_worse_is_kept() -> None:
    mild = Finding(check="gpu_ecc", severity=Severity.WARNING, device=0)
    bad = Finding(check="gpu_ecc", severity=Severity.CRITICAL, device=0)
    other = Finding(check="gpu_ecc", severity=Severity.INFO, device=1)
    assert examination.worst_first([other, mild, bad]) == [bad, other]
