"""The workers of one host share its engines: what they hold, who waits, and who is next."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from controlplane.endpoints.models import Replica
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import Beat, Road, eventually
from tests.gateway.test_process import CHAT, KEY, engine
from tests.gateway.test_workers import Gateway, connections
from tests.gateway.wire import Connection

__all__ = ["engine"]  # a fixture

WORKERS = 3
SEQUENCES = 4
KV = 4000


@pytest.fixture
def gateway(engine: FakeEngine, road: Road, tmp_path: Path) -> Iterator[Gateway]:
    report = {"kv_cache_tokens": KV, "max_num_seqs": SEQUENCES}
    Replica.objects.update(engine_report=report)
    process = Gateway(tmp_path, road.port, STOA_GATEWAY_WORKERS=str(WORKERS))
    process.start()
    eventually(lambda: process.ready(WORKERS))
    yield process
    if process.process is not None:
        process.end(signal.SIGKILL)


def ask(stack: ExitStack, gateway: Gateway, how: str, **fields: Any) -> Connection:
    client = stack.enter_context(Connection(gateway.port))
    body = {"model": "tiny", "messages": [], "user": how, **fields}
    client.post(CHAT, body, key=KEY, headers={"connection": "close"})
    return client


class Spread:
    """Whether clients have come to each worker since this was made."""

    def __init__(self, gateway: Gateway) -> None:
        self._before = {pid: connections(pid) for pid in gateway.workers()}

    def __call__(self) -> bool:
        return all(connections(pid) > before for pid, before in self._before.items())


def test_an_engine_gets_no_more_than_it_holds_whoever_asks(
    gateway: Gateway, engine: FakeEngine
) -> None:
    spread = Spread(gateway)
    with ExitStack() as stack:
        clients = [ask(stack, gateway, "delay=0.02;tokens=900", max_tokens=900) for _ in range(40)]
        eventually(spread)
        assert [client.response().status for client in clients] == [200] * 40
    assert engine.most_at_once == 3
    assert 3 * 900 < engine.most_tokens <= KV
    with ExitStack() as stack:
        clients = [ask(stack, gateway, "delay=0.02", max_tokens=10) for _ in range(40)]
        assert [client.response().status for client in clients] == [200] * 40
    assert engine.most_at_once == SEQUENCES  # and no less: all of it is used


def _first_line(client: Connection) -> bytes:
    """Of its response; nothing if it was killed, which the kernel may tell as a reset."""
    try:
        return client.rest().partition(b"\r\n")[0]
    except ConnectionResetError:
        return b""


def test_what_a_killed_worker_held_is_free_at_once(
    gateway: Gateway, engine: FakeEngine, beat: Beat
) -> None:
    spread = Spread(gateway)
    with ExitStack() as stack:
        asked = [ask(stack, gateway, "gate=1", max_tokens=100) for _ in range(40)]
        eventually(lambda: len(engine.seen) == SEQUENCES)
        eventually(spread)
        for victim in list(gateway.workers())[:2]:
            os.kill(victim, signal.SIGKILL)
        # Whoever is left has the engine for itself, as soon as that has seen who has gone.
        eventually(lambda: gateway.ready(WORKERS))
        eventually(lambda: engine.at_once == SEQUENCES)
        engine.most_at_once = 0
        asked += [ask(stack, gateway, "gate=1", max_tokens=100) for _ in range(20)]
        beat.call(engine.gate.set)
        heads = [_first_line(client) for client in asked]
    served = heads.count(b"HTTP/1.1 200 OK")
    assert served + heads.count(b"") == 60
    assert set(heads[40:]) == {b"HTTP/1.1 200 OK"}
    assert served > 20  # those of the worker that lived
    assert engine.most_at_once <= SEQUENCES


def test_a_turn_passes_from_worker_to_worker_in_milliseconds(
    gateway: Gateway, engine: FakeEngine
) -> None:
    with ExitStack() as stack:
        began = time.monotonic()
        clients = [ask(stack, gateway, "tokens=1;delay=0.001", max_tokens=1) for _ in range(120)]
        assert [client.response().status for client in clients] == [200] * 120
        took = time.monotonic() - began
    assert engine.most_at_once <= SEQUENCES
    assert took < 120 / SEQUENCES * 0.1  # a tenth of a second for each turn
