"""TensorRT-LLM's driver all the way: an image with a `trtllm-serve` that behaves as documented,
started, proved, drained and ended by the agent on a real podman."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.fleet import wire
from tests.agent import oci
from tests.agent.fake_runner import get, wait_until
from tests.agent.images import MIB, Site
from tests.agent.podman import Podman
from workers.agent import engines, leaving

pytestmark = pytest.mark.xdist_group("podman")

IMAGE = "localhost/stoa-trtllm:1"
PROGRAM = Path(__file__).with_name("fake_trtllm.py")


@pytest.fixture
def site(podman: Podman) -> Iterator[Site]:
    layer = oci.Layer()
    oci.add_python(layer)
    program = f"#!{oci.python()} -I\n{PROGRAM.read_text()}"
    layer.text("usr/bin/trtllm-serve", program, 0o755)
    podman.load(oci.image(layer.close(), ["/nothing/of/the/images/own"]), IMAGE)
    found = Site(podman)
    model = found.root / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    try:
        yield found
    finally:
        found.close()


def wish(site: Site, **engine_args: Any) -> dict[str, Any]:
    return {
        "engine": "trtllm",
        "model": str(site.root / "model"),
        "engine_args": engine_args,
        "image": {"reference": IMAGE, "memory_bytes": 256 * MIB},
    }


def test_from_its_image_to_an_answer_and_its_end(site: Site) -> None:
    spec, running = site.start(**wish(site, max_batch_size=8, kv_cache_dtype="fp8"))
    wait_until(lambda: site.runner.listening(running) or not site.runner.alive(running), 60)
    assert site.runner.alive(running), site.runner.exit_reason(running)
    assert site.runner.probe(running, spec) is None
    proof = site.runner.prove(
        running, wire.ReplicaSpec(**{**_fields(spec), "capabilities": ["json_schema"]})
    )
    assert proof.proved == ["json_schema"]
    assert get(running.socket, "/v1/models").json()["data"] == [{"id": "model"}]
    wait_until(lambda: site.runner.busy(running) is False, 60)
    assert not site.runner.can_sleep(running, spec)

    answers: list[int] = []
    release = Path(running.home) / "go"  # /stoa/home/go, as the engine sees it

    def ask() -> None:
        body = b'{"model": "x", "prompt": "/stoa/home/go"}'
        answers.append(
            engines.call(running.socket, "/v1/completions", body, "application/json", 60)[0]
        )

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: site.runner.busy(running) is True, 60)
    leaving.close(running)
    assert site.runner.busy(running) is True
    release.touch()
    asking.join(60)
    assert answers == [200]
    wait_until(lambda: site.runner.busy(running) is False, 60)
    site.runner.stop(running, 5.0)
    assert not site.runner.alive(running)
    assert site.driver.list(site.mark) == []


def test_a_start_that_fails_says_why(site: Site) -> None:
    _, running = site.start(**wish(site, tool_parser="mine"))
    wait_until(lambda: not site.runner.alive(running), 60)
    reason = site.runner.exit_reason(running)
    assert "ended with status 2" in reason and "--tool_parser" in reason


def _fields(spec: wire.ReplicaSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}
