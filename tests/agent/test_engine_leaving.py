"""A real vLLM says whom it has to answer, as long as that takes, and closes its door."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from controlplane.fleet.engines import vllm
from tests.agent.engine_bench import Bench, chat, wait
from workers.agent import engines, leaving

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]


@contextmanager
def begin(running: engines.Running, tokens: int) -> Iterator[http.client.HTTPResponse]:
    """A stream of four choices, of which nothing was read yet."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    with connection.sock as sock:
        sock.settimeout(60)
        sock.connect(running.socket)
        body = {"model": "ep_1", "prompt": "import os", "max_tokens": tokens, "ignore_eos": True}
        content = json.dumps(body | {"n": 4, "stream": True, "logprobs": 5})
        connection.request("POST", "/v1/completions", content, {"content-type": "application/json"})
        with connection.getresponse() as response:
            yield response


def computing(running: engines.Running) -> bool:
    metrics = engines.call(running.socket, "/metrics", None, "", 10.0)[1]
    figures = vllm.Vllm().figures(metrics)
    return bool(figures.running or figures.waiting)


def test_it_is_busy_until_the_last_byte_is_taken(bench: Bench) -> None:
    running = bench.serve(bench.spec("rep_leaving"), bench.standby())
    chat(running)
    wait(lambda: leaving.busy(running) is False, 10.0)
    with begin(running, 1000) as slow:
        with begin(running, 4000):
            assert leaving.busy(running)
        # Who goes away is not waited for. The other's is computed, and does not fit into what the
        # kernel holds for its reader.
        wait(lambda: not computing(running))
        assert leaving.busy(running)
        leaving.close(running)
        assert not engines.listening(running)
        assert slow.read().endswith(b"data: [DONE]\n\n")
    wait(lambda: leaving.busy(running) is False, 10.0)
    engines.stop(running, 5.0)
    assert not engines.alive(running)
