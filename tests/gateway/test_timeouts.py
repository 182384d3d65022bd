"""Slow and idle clients, and those who never read."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.limits import Limits
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def hasty() -> Iterator[Rig]:
    limits = Limits(
        header_s=0.3, body_s=0.3, idle_s=0.3, write_s=0.5, linger_s=0.3, engine_s=0.5, drain_s=1.0
    )
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), limits)
        rig.key()
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        yield rig
        rig.stop()


def test_a_slow_head_is_given_up(hasty: Rig) -> None:
    with hasty.connect() as connection:
        connection.send(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode())
        reply = connection.response()
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert connection.closed


def test_a_slow_body_is_given_up(hasty: Rig) -> None:
    with hasty.connect() as connection:
        connection.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            "content-length: 100\r\n\r\n{".encode()
        )
        assert connection.response().status == 408


def test_an_idle_connection_is_closed_without_a_word(hasty: Rig) -> None:
    with hasty.connect() as connection:
        assert connection.closed
    with hasty.connect() as connection:
        connection.get("/v1/models", key=KEY)
        assert connection.response().status == 200
        assert connection.closed


def test_an_engine_that_says_nothing_is_given_up(hasty: Rig) -> None:
    reply = hasty.chat("tiny", user="silent=1")
    assert (reply.status, reply.error["code"]) == (504, "engine_timeout")
    hasty.until(lambda: hasty.engines[0].seen[-1].aborted)
    assert hasty.closed()[-1].finish == "engine_timeout"


def test_a_stream_that_falls_silent_ends_with_an_error(hasty: Rig) -> None:
    hasty.spool.closed.clear()
    reply = hasty.chat("tiny", stream=True, user="tokens=9;stall=4")
    assert reply.events[-1]["error"]["code"] == "engine_timeout"
    assert len(reply.events) == 5
    record = hasty.closed()[-1]
    assert (record.finish, record.output_tokens) == ("engine_timeout", 4)
    hasty.until(lambda: hasty.engines[0].seen[-1].aborted)


def test_a_client_that_never_reads_is_cut_and_pays_for_what_left(hasty: Rig) -> None:
    """The engine is held back long before it is through: no memory grows here."""
    hasty.spool.closed.clear()
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=20000;fill=2000"}
    with hasty.connect() as connection:
        connection.post(CHAT, json.dumps(body).encode(), key=KEY)
        connection.head()
        record = hasty.closed()[0]
    assert record.finish == "client_gone"
    hasty.until(lambda: hasty.engines[0].seen[-1].generated < 20_000)
    assert 0 < record.output_tokens <= hasty.engines[0].seen[-1].generated
