"""Which model a new installation begins with, and what it says when there is a choice."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers.local import demo
from workers.local.embedded import free_port
from workers.local.screen import Screen


class Hub(BaseHTTPRequestHandler):
    """A model hub that has the one file that is asked for."""

    def do_HEAD(self) -> None:
        known = f"/{demo.HUB_MODEL}/resolve/{demo.HUB_REVISION}/config.json"
        self.send_response(200 if self.path == known else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "HF_HUB_OFFLINE", "STOA_HUB_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(demo, "_tiny_model", lambda screen: Path("/cache/tiny/model"))


@pytest.mark.parametrize(
    ("asked", "name", "revision"),
    [("org/name", "org/name", ""), ("org/name@abc", "org/name", "abc"), ("/a/b", "/a/b", "")],
)
def test_a_person_may_name_it(
    asked: str, name: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", asked)
    model = demo.choose_model(Screen())
    assert (model.name, model.revision) == (name, revision)
    assert asked in model.label


def test_a_hub_in_reach_gives_a_small_real_one_by_its_revision(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOA_HUB_URL", hub)
    model = demo.choose_model(Screen())
    assert (model.name, model.revision) == (demo.HUB_MODEL, demo.HUB_REVISION)
    assert len(model.revision) == 40
    assert "hub" in model.label


@pytest.mark.parametrize("offline", ["", "1"])
def test_without_a_hub_it_is_made_here_and_said_so(
    offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOA_HUB_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    model = demo.choose_model(Screen())
    assert model.name == "/cache/tiny/model"
    assert "made here" in model.label


def test_a_gpu_is_not_offered_where_the_agent_offers_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA H200\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("STOA_AGENT_DEVICES", raising=False)
    assert demo.device_kind() == "nvidia-gpu"
    monkeypatch.setenv("STOA_AGENT_DEVICES", "cpu:2")
    assert demo.device_kind() == "cpu"
