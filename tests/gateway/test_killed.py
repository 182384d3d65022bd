"""kill -9 of the gateway under load, again and again, and then its books.

A request that was completed is booked exactly. One that was cut off is booked with no more than
the engine generated, at most a second of delivery less than its client got, and flagged. One that
never reached an engine is not booked at all.
"""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from billing.models import UsageInbox
from tests.gateway.fake_engine import CACHED_TOKENS, PROMPT_TOKENS, FakeEngine
from tests.gateway.house import Road, eventually
from tests.gateway.test_process import CHAT, KEY, Process, engine
from tests.gateway.wire import Connection

__all__ = ["engine"]  # a fixture

CLIENTS = 12
KILLS = 3
REQUESTS_BETWEEN = 60
DELAY_S = 0.01
# Tokens of one second, and what a busy machine delivers late.
SECOND = round(1 / DELAY_S) + 25


@dataclass
class Got:
    """One request as its client saw it."""

    request_id: str = ""
    streamed: bool = False
    asked: int = 0
    delivered: int = 0
    complete: bool = False


class Crowd:
    """Clients that ask without a pause until they are told to stop, on whoever listens."""

    def __init__(self, gateway: Process) -> None:
        self._gateway = gateway
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self.gots: list[Got] = []
        self._running = [self._pool.submit(self._ask_on, number) for number in range(CLIENTS)]

    def served(self, requests: int) -> bool:
        return sum(got.complete for got in self.gots) >= requests

    def stop(self) -> None:
        self._over.set()
        for each in self._running:
            each.result(30)
        self._pool.shutdown()

    def _ask_on(self, number: int) -> None:
        while not self._over.is_set():
            try:
                with Connection(self._gateway.port) as client:
                    while not self._over.is_set():
                        number += 1
                        self._ask(client, number)
            except (OSError, EOFError):
                self._over.wait(0.01)  # the gateway is being started again

    def _ask(self, client: Connection, number: int) -> None:
        got = Got(streamed=number % 2 == 0, asked=5 + number % 40)
        self.gots.append(got)
        body: dict[str, Any] = {"model": "tiny", "messages": []}
        body["user"] = f"tokens={got.asked};delay={DELAY_S}"
        client.post(CHAT, body | {"stream": got.streamed}, key=KEY)
        status, headers = client.head()
        assert status == 200, headers
        got.request_id = headers["x-request-id"]
        if not got.streamed:
            client.exactly(int(headers["content-length"]))
            got.delivered = got.asked
        else:
            while data := client.chunk():
                got.delivered += data.count(b'"delta"')
        got.complete = True


@pytest.mark.trap("leaked-reservation", "dropped-stream")
def test_the_books_after_kills_under_load(engine: FakeEngine, road: Road, tmp_path: Path) -> None:
    gateway = Process(tmp_path, road.port)
    gateway.start()
    crowd = Crowd(gateway)
    try:
        for kills in range(1, KILLS + 1):
            eventually(partial(crowd.served, kills * REQUESTS_BETWEEN), within_s=30)
            gateway.end(signal.SIGKILL)
            gateway.start()
    finally:
        crowd.stop()
    eventually(lambda: UsageInbox.objects.count() >= len(engine.seen) - CLIENTS * KILLS)
    assert gateway.end(signal.SIGTERM) == 0
    rows = {row.request_id: row for row in UsageInbox.objects.all()}
    generated = {seen.headers["x-request-id"]: seen.generated for seen in engine.seen}
    complete = {got.request_id: got for got in crowd.gots if got.complete}
    cut = {got.request_id: got for got in crowd.gots if not got.complete and got.request_id}
    assert len(complete) >= KILLS * REQUESTS_BETWEEN
    assert cut  # or nothing was shown
    for request_id, got in complete.items():
        row = rows[request_id]
        counted = (row.input_tokens, row.cached_tokens, row.output_tokens)
        assert (row.finish, counted) == ("complete", (PROMPT_TOKENS, CACHED_TOKENS, got.asked))
    for request_id, got in cut.items():
        row = rows[request_id]
        if row.finish == "complete":  # its last bytes were lost on the way, after it was settled
            assert row.output_tokens == got.asked
            continue
        assert (row.finish, row.counted_by) == ("gateway_gone", "delivered")
        assert got.delivered - SECOND <= row.output_tokens <= generated[request_id]
    # What no client saw an answer of: never more than its engine did for it, if it got that far.
    for request_id in rows.keys() - complete.keys() - cut.keys():
        assert rows[request_id].output_tokens <= generated.get(request_id, 0)
    assert not any(path.name.startswith("writer-") for path in (tmp_path / "spool").iterdir())
