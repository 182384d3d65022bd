"""Clients that drip, flood or never listen: each gets a bounded share of time and memory."""

import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.client import Client
from gateway.limits import Limits
from tests.gateway import edge
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"
GET = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BODY = b'{"model":"tiny","messages":[]}'
BUFFER = 256 << 10  # a transport's high-water mark, an answer, and some air


@pytest.fixture(scope="module")
def hasty() -> Iterator[Rig]:
    limits = Limits(header_s=0.4, body_s=0.4, idle_s=0.4, write_s=1.0, linger_s=0.3)
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), limits)
        rig.key()
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        yield rig
        rig.stop()


def chat(how: str, *, stream: bool = False) -> bytes:
    body = json.dumps({"model": "tiny", "messages": [], "stream": stream, "user": how}).encode()
    return HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body)


# --- dripping ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"\r\n" * 5 + b"GET /", b"a"),
        (HEAD, b"a"),
        (HEAD, b"a: b\r\n"),
        (HEAD + b"content-length: 1000\r\n\r\n", b" "),
        (CHUNKED, b"1\r\n \r\n"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"0\r\n", b"a: b\r\n"),
    ],
)
def test_who_drips_is_given_up_like_who_is_silent(hasty: Rig, begin: bytes, piece: bytes) -> None:
    """A byte now and then buys no time."""
    with hasty.connect() as connection:
        connection.send(begin)
        began = time.monotonic()
        statuses: list[int] = []
        reader = threading.Thread(target=lambda: statuses.append(connection.head()[0]))
        reader.start()
        while reader.is_alive() and time.monotonic() - began < 5:
            connection.send(piece)
            reader.join(0.05)
        reader.join()
        assert statuses == [408]
    assert hasty.engines[0].seen == []


def test_many_who_only_connect_are_closed_in_time(hasty: Rig) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(hasty.connect()) for _ in range(300)]
        hasty.until(lambda: len(hasty.server.context.clients) >= 300)
        assert hasty.chat("tiny").status == 200  # they are in nobody's way
        assert all(connection.closed for connection in idle)
    hasty.until(lambda: not hasty.server.context.clients)


# --- flooding ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "begin",
    [CHUNKED + b"0\r\nx: ", CHUNKED + b"5;", b"GET /", HEAD + b"x: ", HEAD + b"x"],
    ids=["trailer", "chunk extension", "target", "header", "name"],
)
def test_what_has_no_end_is_refused(tiny: Rig, begin: bytes) -> None:
    with tiny.connect() as connection:
        connection.send(begin + b"a" * 500_000)
        assert connection.response().status in (400, 431)
        assert connection.closed
    assert tiny.engines[0].seen == []


def test_a_long_body_in_small_chunks_is_no_flood(tiny: Rig) -> None:
    body = b'{"model":"tiny","messages":[{"role":"user","content":"%b"}]}' % (b"a" * 40_000)
    chunks = b"".join(b"1\r\n%c\r\n" % letter for letter in body)
    with tiny.connect() as connection:
        connection.send(CHUNKED + chunks + b"0\r\n\r\n")
        assert connection.response().status == 200


def test_who_asks_far_ahead_is_answered_in_order_and_then_closed(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(chat("tokens=3;delay=0.1") + GET * 100)
        assert connection.response().json["usage"]["completion_tokens"] == 3
        statuses = []
        while 400 not in statuses:
            statuses.append(connection.response().status)
        assert statuses == [200] * 32 + [400]
        assert connection.closed


def test_offers_of_another_protocol_one_behind_the_other(tiny: Rig) -> None:
    offer = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    with edge.watched_faults() as faults, tiny.connect() as connection:
        sender = threading.Thread(target=connection.send, args=(offer * 3000,))
        sender.start()
        assert [connection.response().status for _ in range(3000)] == [200] * 3000
        sender.join()
        assert not faults


def test_an_offer_does_not_keep_a_connection_that_the_client_ends(tiny: Rig) -> None:
    offer = b"connection: close, upgrade\r\nupgrade: h2c\r\n"
    with tiny.connect() as connection:
        connection.send(HEAD + offer + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        assert connection.response().headers["connection"] == "close"
        assert connection.closed
    with tiny.connect() as connection:
        connection.send(
            GET.replace(b"/1.1", b"/1.0").replace(b"\r\n\r\n", b"\r\n" + offer + b"\r\n")
        )
        assert connection.response().status == 200
        assert connection.closed


# --- deaf -------------------------------------------------------------------------------
def waiting_bytes(rig: Rig) -> int:
    """What the gateway holds for clients who do not take it."""

    async def look() -> int:
        clients = [each for each in rig.server.context.clients if isinstance(each, Client)]
        return sum(each.transport.get_write_buffer_size() for each in clients)

    return rig.run(look())


def test_who_asks_on_and_reads_nothing_is_not_answered_on(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection._socket.settimeout(0.5)
        sent = b""
        with pytest.raises(TimeoutError):
            while len(sent) < 200 << 20:
                sent += b"."
                connection.send(GET * 1000)
        assert waiting_bytes(tiny) < BUFFER
        connection._socket.settimeout(10)
        statuses = [200]
        while statuses[-1] == 200:
            statuses.append(connection.response().status)
        assert statuses[-1] == 400 and len(statuses) > 32  # it went too far ahead


@pytest.mark.trap("gateway-memory")
def test_who_never_reads_holds_the_engine_back_and_is_cut(hasty: Rig) -> None:
    hasty.spool.closed.clear()
    with hasty.connect() as connection:
        connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send(chat("tokens=20000;fill=2000", stream=True))
        most = 0
        while not hasty.spool.closed:
            most = max(most, waiting_bytes(hasty))
            time.sleep(0.01)
    assert 0 < most < BUFFER
    assert hasty.closed()[0].finish == "client_gone"


def test_who_reads_slowly_gets_everything(hasty: Rig) -> None:
    hasty.spool.closed.clear()
    most = 0
    with hasty.connect() as connection:
        connection.send(chat("tokens=2000;fill=2000", stream=True))
        for number in range(2000):
            assert connection.read_until(b"data: ")
            if number % 50 == 0:
                most = max(most, waiting_bytes(hasty))
                time.sleep(0.02)
        connection.read_until(b"[DONE]")
    assert most < BUFFER
    assert hasty.closed()[0].output_tokens == 2000


# --- 100 Continue -----------------------------------------------------------------------
EXPECTS = b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY)


def test_http_1_0_knows_no_100(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(HEAD.replace(b"/1.1", b"/1.0") + EXPECTS)
        time.sleep(0.05)
        connection.send(BODY)
        assert connection.response().status == 200


def test_an_expectation_behind_a_request_is_met_in_its_turn(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(chat("tokens=2;delay=0.05") + HEAD + EXPECTS)
        assert connection.response().status == 200
        assert connection.response().status == 100
        connection.send(BODY)
        assert connection.response().status == 200
        connection.send(chat("tokens=2;delay=0.05") + HEAD.replace(KEY.encode(), b"none") + EXPECTS)
        assert connection.response().status == 200
        assert connection.response().status == 401
        assert connection.closed


def test_another_expectation_is_passed_over(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(HEAD + EXPECTS.replace(b"100-continue", b"200-ok") + BODY)
        assert connection.response().status == 200


def test_too_much_is_refused_before_it_is_sent(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(HEAD + b"expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n")
        assert connection.response().status == 413
        assert connection.closed
