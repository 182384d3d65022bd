"""A real vLLM from an image that was built on the spot, on a real podman."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import engine_image, oci
from tests.agent.engine_bench import chat
from tests.agent.fake_runner import wait_until
from tests.agent.images import MIB, Site
from tests.agent.podman import PROGRAM, Podman, missing
from workers.agent.environment import Environment

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]


@pytest.fixture(scope="module")
def site(engine_environment: Environment) -> Iterator[Site]:
    if why := missing():
        pytest.skip(why)
    podman = Podman(stores=[engine_image.store(engine_environment)])
    try:
        podman.start()
        found = Site(podman)
        try:
            yield found
        finally:
            found.close()
    finally:
        podman.close()


def test_it_answers_and_cannot_reach_out(site: Site, tiny_model: Path) -> None:
    wish, running = site.start(
        engine="vllm",
        model=str(tiny_model / "model"),
        image={"reference": engine_image.REFERENCE, "memory_bytes": 4096 * MIB},
        engine_args={"kv_cache_memory_bytes": 64 * MIB},
        start_timeout_s=300.0,
    )
    runner = site.runner
    wait_until(lambda: runner.listening(running) or not runner.alive(running), 300)
    assert runner.alive(running), runner.exit_reason(running)
    assert runner.probe(running, wish) is None
    answer = chat(running)
    assert answer["usage"]["completion_tokens"] > 0
    assert runner.busy(running) is False
    assert runner.engine_report(running).version == "0.32.0"

    # The program of the tests is not in that image: its own Python runs it, from standard input.
    secret = site.settings.directory / "node.key"
    secret.write_text("the agent's own")
    targets = [f"file:{secret}", f"folder:{site.settings.directory}", f"unix:{running.socket}"]
    targets += [f"unix:{site.podman.socket}", "tcp:192.0.2.1:443", "write:/stoa/model/x"]
    targets += [f"write:{tiny_model}/x", "write:/etc/x"]
    api = site.podman.client.api
    command = [str(oci.python()), "-I", "-c", PROGRAM.read_text(), "reach", *targets]
    done = api.exec_start(api.exec_create(running.container, command)["Id"])
    found = [json.loads(line) for line in done.splitlines()]
    assert [one["reached"] for one in found] == [False] * len(targets), found

    runner.stop(running, 10.0)
    assert not runner.alive(running) and site.driver.list(site.mark) == []
