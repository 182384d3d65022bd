"""HTTP/1.1 itself: framing, limits, order, and what must be refused."""

import json

import pytest

from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()


def test_a_connection_serves_one_request_after_another(tiny: Rig) -> None:
    with tiny.connect() as connection:
        for _ in range(3):
            connection.post(CHAT, BODY, key=KEY)
            assert connection.response().status == 200
    assert len(tiny.engines[0].seen) == 3


def test_pipelined_requests_are_answered_in_order(tiny: Rig) -> None:
    slow = BODY[:-1] + b', "user": "delay=0.1;tokens=5"}'
    raw = b"".join(
        HEAD + b"x-request-id: %d\r\ncontent-length: %d\r\n\r\n" % (number, len(body)) + body
        for number, body in enumerate((slow, BODY, BODY))
    )
    with tiny.connect() as connection:
        connection.send(
            raw
            + f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
        )
        replies = [connection.response() for _ in range(4)]
    assert [reply.headers.get("x-client-request-id") for reply in replies] == ["0", "1", "2", None]
    assert replies[0].json["usage"]["completion_tokens"] == 5
    assert replies[3].json["object"] == "list"


def test_a_chunked_body_is_read(tiny: Rig) -> None:
    half = len(BODY) // 2
    with tiny.connect() as connection:
        connection.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for piece in (BODY[:half], BODY[half:], b""):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert connection.response().status == 200
        connection.get("/v1/models", key=KEY)  # and the connection lives on
        assert connection.response().status == 200


def test_trailers_are_ignored(tiny: Rig) -> None:
    head = HEAD.replace(f"authorization: Bearer {KEY}\r\n".encode(), b"")
    trailer = f"authorization: Bearer {KEY}\r\n".encode()
    with tiny.connect() as connection:
        connection.send(head + b"transfer-encoding: chunked\r\n\r\n")
        connection.send(b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(BODY), BODY, trailer))
        assert connection.response().status == 401


def test_a_client_that_waits_for_100_gets_it(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        assert connection.response().status == 100
        connection.send(BODY)
        assert connection.response().status == 200


def test_a_client_that_waits_for_100_learns_at_once_that_its_key_is_bad(tiny: Rig) -> None:
    head = HEAD.replace(KEY.encode(), b"sk-nonsense")
    with tiny.connect() as connection:
        connection.send(head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        reply = connection.response()
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert connection.closed


def test_http_1_0_gets_no_chunks(tiny: Rig) -> None:
    body = BODY[:-1] + b', "stream": true}'
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"content-length: %d\r\n\r\n" % len(body)
    with tiny.connect() as connection:
        connection.send(head + body)
        reply = connection.response()
    assert "transfer-encoding" not in reply.headers
    assert reply.headers["connection"] == "close"
    assert reply.events[-1] == "[DONE]"


def test_a_client_that_offers_http_2_is_served(tiny: Rig) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    with tiny.connect() as connection:
        for _ in range(2):
            connection.send(HEAD + offer + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
            assert connection.response().status == 200


def test_a_20_mb_body_is_refused_and_the_client_reads_why(tiny: Rig) -> None:
    body = json.dumps({"model": "tiny", "prompt": "x" * 20_000_000}).encode()
    reply = tiny.post("/v1/completions", body)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert reply.error["type"] == "invalid_request_error"
    assert tiny.spool.opened == []


def test_a_chunked_body_without_end_is_refused(tiny: Rig) -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    with tiny.connect() as connection:
        connection.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 11)
        assert connection.response().status == 413


@pytest.mark.parametrize(
    "lines",
    [
        b"x-long: " + b"a" * 70_000 + b"\r\n\r\n",
        b"".join(b"x-%d: %b\r\n" % (n, b"a" * 100) for n in range(700)) + b"\r\n",
        b"x-endless: " + b"a" * 400_000,
    ],
)
def test_headers_are_limited(tiny: Rig, lines: bytes) -> None:
    with tiny.connect() as connection:
        connection.send(HEAD + lines)
        reply = connection.response()
        assert (reply.status, reply.error["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        HEAD + b"content-length: 3, 3\r\n\r\nabc",
        HEAD + b"content-length: +3\r\n\r\nabc",
        HEAD + b"content-length: -1\r\n\r\nabc",
        HEAD + b"content-length: 0x3\r\n\r\nabc",
        HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"x: a\r\n folded\r\n\r\n",
        HEAD + b"x: a\nb: c\r\n\r\n",
        HEAD + b"x\x00y: a\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        b"FOO / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/3.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
    ],
)
def test_ambiguous_or_broken_framing_is_refused(tiny: Rig, raw: bytes) -> None:
    with tiny.connect() as connection:
        connection.send(raw)
        reply = connection.response()
        assert reply.status == 400
        assert reply.error["type"] == "invalid_request_error"
        assert connection.closed
    assert tiny.engines[0].seen == []


def test_connect_is_no_tunnel(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.send(b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.response().status == 405
        assert connection.closed


def test_nothing_is_served_behind_a_broken_request(tiny: Rig) -> None:
    broken = HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc"
    with tiny.connect() as connection:
        connection.send(broken + HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        assert connection.response().status == 400
        assert connection.closed
    assert tiny.engines[0].seen == []


def test_connection_close_is_obeyed(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.post(CHAT, BODY, key=KEY, headers={"connection": "close"})
        reply = connection.response()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert connection.closed


def test_bytes_come_one_by_one(tiny: Rig) -> None:
    raw = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    with tiny.connect() as connection:
        for at in range(len(raw)):
            connection.send(raw[at : at + 1])
        assert connection.response().status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny", 405, "method_not_allowed"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/metrics", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, "unknown_url"),
        ("POST", "/v1/../v1/chat/completions", 404, "unknown_url"),
        ("POST", "/v1/assistants", 404, "unknown_url"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods(
    tiny: Rig, method: str, path: str, status: int, code: str
) -> None:
    with tiny.connect() as connection:
        connection.send(
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            "content-length: 0\r\n\r\n".encode()
        )
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (status, code)
    assert reply.json["request_id"] == reply.headers["x-request-id"]


def test_a_query_is_no_part_of_the_path(tiny: Rig) -> None:
    assert tiny.post(f"{CHAT}?api-version=2024-10-21", BODY).status == 200


def test_an_answer_to_head_has_no_body(tiny: Rig) -> None:
    with tiny.connect() as connection:
        for path, status in (("/healthz", 200), ("/v1/models", 405)):
            connection.send(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert connection.head()[0] == status
        connection.get("/healthz", key=None)
        assert connection.response().status == 200


def test_every_answer_has_an_id_and_echoes_the_clients(tiny: Rig) -> None:
    replies = [
        tiny.post(CHAT, BODY, headers={"x-request-id": "mine-1"}),
        tiny.post(CHAT, b"nonsense", headers={"x-request-id": "mine-1"}),
    ]
    for reply in replies:
        assert reply.headers["x-request-id"].startswith("req_")
        assert reply.headers["x-client-request-id"] == "mine-1"
        assert reply.headers["openai-version"]
    assert int(replies[0].headers["openai-processing-ms"]) < 5000
    assert replies[0].headers["x-request-id"] != replies[1].headers["x-request-id"]


def test_a_half_sent_request_behind_does_not_hide_that_the_client_left(tiny: Rig) -> None:
    slow = BODY[:-1] + b', "user": "silent=1"}'
    raw = HEAD + b"content-length: %d\r\n\r\n" % len(slow) + slow
    connection = tiny.connect()
    connection.send(raw + HEAD)
    tiny.until(lambda: len(tiny.engines[0].seen) == 1)
    connection.close()
    tiny.until(lambda: tiny.engines[0].seen[0].aborted)
