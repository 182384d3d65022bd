"""What doctor looks at: the driver through a fake library, all else for real."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.fake_nvml import FakeGpus
from workers.agent import cli, doctor, inventory, records
from workers.agent.__main__ import main
from workers.agent.checks import compiler, disk_speed, driver, reach
from workers.agent.health import nvml
from workers.agent.health.cards import Card, Link, Reading
from workers.agent.settings import Settings, read


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    fake = FakeGpus(tmp_path)
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    return fake


def settings(tmp_path: Path, **given: str) -> Settings:
    return read(
        {
            "STOA_AGENT_DIR": str(tmp_path / "agent"),
            "STOA_CACHE_DIR": str(tmp_path / "cache"),
            "STOA_AGENT_RUN_DIR": "/tmp/sc",
            **given,
        }
    )


# --- the driver ---------------------------------------------------------------------------


def test_each_engine_for_gpus_says_which_cuda_it_was_built_for() -> None:
    found = driver.needs()
    assert [name for name in found if name.startswith("vllm-cuda-")]
    assert not [name for name in found if name.startswith("vllm-cpu")]
    assert all(major in driver.OLDEST_DRIVER for major, _ in found.values())


@pytest.mark.parametrize(
    ("version", "cuda", "needed", "ok"),
    [
        ("570.86.15", 12080, (13, 0), False),
        ("580.65.06", 13000, (13, 0), True),
        ("570.86.15", 12080, (12, 9), True),
        ("520.61.05", 11080, (12, 4), False),
        ("610.10", 14000, (13, 2), True),
    ],
)
def test_a_driver_is_held_against_what_the_engine_was_built_for(
    gpus: FakeGpus, version: str, cuda: int, needed: tuple[int, int], ok: bool
) -> None:
    gpus.put(driver=version, cuda=cuda)
    (found, *_) = driver.findings(nvml.read(), wanted={"vllm-cuda-1": needed}, running=[])
    assert found.ok is ok and found.refuses is not ok
    assert version in found.text and bool(found.cure) is not ok


def test_a_machine_with_a_bad_driver_may_not_join_and_is_told_the_cure(
    gpus: FakeGpus, tmp_path: Path
) -> None:
    ours = settings(tmp_path)
    gpus.put(driver="470.10", cuda=11040)
    refused = doctor.before_joining(ours, lambda: inventory.collect(ours))
    assert "driver" in [one.check for one in refused]
    (one,) = (one for one in refused if one.check == "driver")
    assert "too old" in one.text and "install a driver of branch" in one.cure
    gpus.put(unloaded=1)
    refused = doctor.before_joining(ours, lambda: inventory.collect(ours))
    assert any("Driver Not Loaded" in one.text for one in refused)
    gpus.put(unloaded=0, driver="580.65.06", cuda=13000)
    refused = doctor.before_joining(ours, lambda: inventory.collect(ours))
    assert "driver" not in [one.check for one in refused]


def test_the_fabric_of_several_gpus(tmp_path: Path) -> None:
    def machine(*active: bool) -> Reading:
        cards = [
            Card(index=index, links=[Link(index=0), Link(index=1, active=up)])
            for index, up in enumerate(active)
        ]
        return Reading(driver="580", cuda=13000, cards=cards)

    def found(reading: Reading, *running: str) -> dict[str, bool]:
        all_of_them = driver.findings(
            reading, wanted={}, switches=tmp_path / "switches", running=running
        )
        return {one.check: one.ok for one in all_of_them}

    assert found(machine(True)) == {}
    assert found(machine(True, True)) == {"fabric": True}
    assert found(machine(True, False)) == {"fabric": False}
    (tmp_path / "switches" / "0").mkdir(parents=True)
    assert found(machine(True, True)) == {"fabric": True, "fabric manager": False}
    # The kernel keeps 15 characters of a name.
    assert found(machine(True, True), "nv-fabricmanage")["fabric manager"] is True


def test_a_node_with_gpus_needs_what_kernels_are_compiled_with(tmp_path: Path) -> None:
    node = Reading(driver="580", cuda=13000, cards=[Card(index=0)])
    assert compiler.findings(None) == compiler.findings(Reading()) == []
    (bare,) = compiler.findings(node, path=str(tmp_path), include=tmp_path)
    assert not bare.ok and not bare.refuses and "apt-get install gcc python3" in bare.cure
    assert "no C compiler" in bare.text and "Python.h" in bare.text
    (tmp_path / "clang").touch(mode=0o755)
    (half,) = compiler.findings(node, path=str(tmp_path), include=tmp_path)
    assert not half.ok and "no C compiler" not in half.text
    (tmp_path / "Python.h").touch()
    (whole,) = compiler.findings(node, path=str(tmp_path), include=tmp_path)
    assert whole.ok and "clang" in whole.text


# --- disk, clock, reach, ports ------------------------------------------------------------


def test_the_disks_speed_is_measured_and_held_against_a_limit(tmp_path: Path) -> None:
    (found,) = disk_speed.findings(tmp_path / "not" / "there", size=8 << 20, slow_mb_s=0.001)
    assert found.ok and found.figures["read_mb_s"] > 0 and found.figures["written_mb_s"] > 0
    (slow,) = disk_speed.findings(tmp_path, size=8 << 20, slow_mb_s=1e9)
    assert not slow.ok and not slow.refuses and "STOA_CACHE_DIR" in slow.cure
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def web() -> Iterator[str]:
    """A web server whose answers are dated."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("off_s", "ok", "refuses"), [(0, True, False), (60, False, False), (900, False, True)]
)
def test_the_clock_is_held_against_the_control_planes(
    web: str, tmp_path: Path, off_s: int, ok: bool, refuses: bool
) -> None:
    found = reach.findings(settings(tmp_path), web, wall=lambda: time.time() - off_s)
    (clock,) = (one for one in found if one.check == "clock")
    assert (clock.ok, clock.refuses) == (ok, refuses)
    assert ok or ("behind" in clock.text and "NTP" in clock.cure)


def test_whom_a_node_needs_is_tried(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{web}/simple")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    ours = settings(tmp_path, STOA_AGENT_REACH=f"{nobody}, file://{tmp_path}")
    found = [(one.check, one.ok) for one in reach.findings(ours, web)]
    assert ("control plane", True) in found and ("package index", True) in found
    assert [one for one in found if one[0] == "mirror"] == [("mirror", False), ("mirror", True)]
    (lost, *_) = reach.findings(ours, nobody)
    assert not lost.ok and lost.cure


def test_the_relays_port_must_be_free_unless_the_agent_itself_has_it(tmp_path: Path) -> None:
    def port_finding(ours: Settings) -> tuple[bool, bool]:
        (one,) = (one for one in reach.findings(ours, "") if one.check == "relay port")
        return one.ok, one.refuses

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ours = settings(tmp_path, STOA_AGENT_RELAY=f"127.0.0.1:{taken.getsockname()[1]}")
        assert port_finding(ours) == (False, True)
        with records.lock(ours.directory):
            assert port_finding(ours) == (True, False)
    assert port_finding(ours) == (True, False)


def test_join_refuses_a_machine_with_a_bad_driver_before_it_asks_anybody(
    gpus: FakeGpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus.put(driver="470.10", cuda=11040)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOA_AGENT_DIR", str(tmp_path / "agent"))
        patch.setenv("STOA_CACHE_DIR", str(tmp_path / "cache"))
        patch.setenv("STOA_AGENT_DEVICES", "")
        for command in (["join"], ["run"]):
            asked = ["--url", "https://127.0.0.1:9", "--pin", "sha256:00"]
            token = "--token" if command == ["join"] else "--join-token"
            assert main([*command, *asked, token, "stoa-enroll-x"]) == cli.UNFIT
            said = capsys.readouterr().err
            assert "LACK driver: driver 470.10" in said and "cure: install a driver" in said
