"""An image's own API through the gateway: what passes, what never does, and what is booked."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.limits import Limits
from tests.gateway.fake_image import FakeImage, Heard
from tests.gateway.rig import KEY, OTHER_KEY, Rig
from tests.gateway.wire import Response

LIMITS = Limits(upload_bytes=1 << 20, body_bytes=1000, hold_s=5.0, engine_s=30.0)


class Stand:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.images = [self._image(0)]
        rig.endpoint("own", self.images)  # type: ignore[arg-type]
        rig.change("own", openai=False, model="", max_model_len=None)
        rig.key()

    def _image(self, number: int) -> FakeImage:
        async def made() -> FakeImage:
            image = FakeImage(self.rig.folder / f"image{number}.sock")
            await image.start()
            return image

        return self.rig.run(made())

    @property
    def heard(self) -> list[Heard]:
        return self.images[0].heard

    def ask(
        self, method: str, path: str, body: bytes = b"", key: str | None = KEY, **headers: str
    ) -> Response:
        given = {"host": "gateway.example", **headers}
        if key:
            given["authorization"] = f"Bearer {key}"
        if body and "transfer-encoding" not in given:
            given["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        with self.rig.connect() as connection:
            connection.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            if method == "HEAD":
                return Response(*connection.head(), b"")
            return connection.response()


@pytest.fixture
def stand() -> Iterator[Stand]:
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/tmp") as folder:
        rig = Rig(Path(folder), LIMITS)
        try:
            stand = Stand(rig)
            yield stand
            for image in stand.images:
                rig.run(image.stop())
        finally:
            rig.stop()


def test_any_path_and_method_reach_the_image(stand: Stand) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        reply = stand.ask(method, "/e/own/predict/a%20b?x=1&y=%2F", b"\x00\xffpng")
        assert (reply.status, reply.body) == (200, b"\x00\xffpng")
        assert reply.headers["content-type"] == "image/png"
    assert [one.line for one in stand.heard][:2] == [
        "GET /predict/a%20b?x=1&y=%2F HTTP/1.1",
        "POST /predict/a%20b?x=1&y=%2F HTTP/1.1",
    ]
    assert stand.ask("GET", "/e/ep_own").status == 200
    assert stand.heard[-1].line == "GET / HTTP/1.1"
    # What means something to an engine means nothing here.
    assert stand.ask("POST", "/e/own/v1/chat/completions", b"no json").status == 200
    assert stand.ask("GET", "/e/own/v1/models").status == 200
    assert stand.heard[-1].line == "GET /v1/models HTTP/1.1"


def test_a_head_has_no_body_and_the_connection_lives_on(stand: Stand) -> None:
    with stand.rig.connect() as connection:
        for _ in range(2):
            lines = f"host: x\r\nauthorization: Bearer {KEY}\r\n"
            connection.send(f"HEAD /e/own/x HTTP/1.1\r\n{lines}\r\n".encode())
            status, headers = connection.head()
            assert (status, headers["content-length"]) == (200, "5")
        connection.send(f"GET /e/own/nothing HTTP/1.1\r\n{lines}\r\n".encode())
        status, headers = connection.head()
        assert status == 204 and "content-length" not in headers
        assert "transfer-encoding" not in headers
        connection.get("/healthz", key=None)
        assert connection.response().status == 200


def test_the_key_and_what_is_between_us_stay_here(stand: Stand) -> None:
    stand.ask(
        "POST",
        "/e/own/x",
        b"body",
        **{
            "x-api-key": KEY,
            "api-key": KEY,
            "cookie": "session=1",
            "x-forwarded-for": "10.0.0.1",
            "forwarded": "for=10.0.0.1",
            "x-stoa-run": "night",
            "te": "trailers",
            "proxy-authorization": "Basic x",
            "connection": "keep-alive, x-hop",
            "x-hop": "1",
            "x-mine": "kept",
            "content-type": "text/x",
        },
    )
    (heard,) = stand.heard
    names = sorted(name for name, _ in heard.headers)
    assert names == ["content-length", "content-type", "host", "x-mine", "x-request-id"]
    assert heard.all("host") == ["own"]
    assert KEY not in repr(heard)


def test_an_answers_headers_reach_no_further_than_itself(stand: Stand) -> None:
    reply = stand.ask("GET", "/e/own/odd")
    assert (reply.status, reply.body) == (418, b"tea")
    assert reply.headers["x-own"] == "yes"
    for name in ("set-cookie", "strict-transport-security", "x-hop", "x-stoa-cost"):
        assert name not in reply.headers
    assert reply.headers["x-request-id"] != "mine"
    assert reply.headers["x-stoa-endpoint"] == "own"


def test_bodies_stream_both_ways(stand: Stand) -> None:
    with stand.rig.connect() as connection:
        connection.send(
            f"POST /e/own/both-ways HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        for at, word in enumerate((b"one", b"two", b"three")):
            connection.send(b"%x\r\n%b\r\n" % (len(word), word))
            if at == 0:
                status, headers = connection.head()
                assert (status, headers["transfer-encoding"]) == (200, "chunked")
            # The answer to a piece is there before the next one has left.
            assert connection.chunk() == word.upper()
        connection.send(b"0\r\n\r\n")
        assert connection.chunk() == b""
    (record,) = stand.rig.closed()
    assert (record.operation, record.status, record.finish) == ("proxy", 200, "complete")
    assert (record.input_tokens, record.output_tokens) == (0, 0)
    assert record.endpoint_id == "ep_own"


def test_a_body_is_framed_as_it_came(stand: Stand) -> None:
    stand.ask("POST", "/e/own/x", b"12345")
    chunked = {"transfer-encoding": "chunked"}
    stand.ask("POST", "/e/own/x", b"3\r\nabc\r\n0\r\n\r\n", **chunked)
    stand.ask("GET", "/e/own/x")
    one, two, three = stand.heard
    assert (one.all("content-length"), one.all("transfer-encoding"), one.body) == (
        ["5"],
        [],
        b"12345",
    )
    assert (two.all("content-length"), two.all("transfer-encoding"), two.body) == (
        [],
        ["chunked"],
        b"abc",
    )
    assert (three.all("content-length"), three.all("transfer-encoding")) == ([], [])


def test_a_long_body_passes_and_a_longer_one_does_not(stand: Stand) -> None:
    body = bytes(range(256)) * 3000
    reply = stand.ask("POST", "/e/own/x", body)
    assert (reply.status, reply.body) == (200, body)
    reply = stand.ask("POST", "/e/own/x", b"x" * ((1 << 20) + 1))
    assert reply.status == 413
    assert len(stand.heard) == 1


def test_it_waits_for_a_replica_and_then_is_served(stand: Stand) -> None:
    replicas = stand.rig.endpoints["own"].replicas
    stand.rig.change("own", replicas=())
    with stand.rig.connect() as connection:
        connection.post("/e/own/x", b"patient", key=KEY)
        stand.rig.until(lambda: stand.rig.activity.balance("waiting") == 1)
        stand.rig.change("own", replicas=replicas)
        assert connection.response().body == b"patient"


def test_who_may_not(stand: Stand) -> None:
    stand.rig.key(OTHER_KEY, project_id="prj_other", organization_id="org_other")
    assert stand.ask("GET", "/e/own/x", key=None).status == 401
    assert stand.ask("GET", "/e/own/x", key=OTHER_KEY).status == 404
    assert stand.ask("GET", "/e/none/x").status == 404
    stand.rig.key(models=frozenset({"else"}))
    assert stand.ask("GET", "/e/own/x").status == 404
    stand.rig.key(scopes=frozenset({"read"}))
    assert stand.ask("GET", "/e/own/x").status == 403
    stand.rig.key()
    stand.rig.change("own", stopped=True)
    assert stand.ask("GET", "/e/own/x").error["code"] == "endpoint_stopped"
    assert stand.heard == []


def test_no_client_of_openais_api_is_led_there(stand: Stand) -> None:
    assert stand.rig.chat("own").error["code"] == "unsupported_operation"
    assert stand.rig.get("/v1/models").json["data"] == []
    assert stand.heard == []
    stand.rig.change("own", openai=True)
    assert stand.ask("GET", "/e/own/predict").error["code"] == "unknown_url"
    assert stand.heard == []


@pytest.mark.parametrize("path", ["/die", "/broken"])
def test_a_request_that_an_image_may_have_heard_of_is_not_repeated(stand: Stand, path: str) -> None:
    stand.images.append(stand._image(1))
    replicas = stand.rig.replicas("own", stand.images)  # type: ignore[arg-type]
    stand.rig.change("own", replicas=replicas)
    reply = stand.ask("POST", f"/e/own{path}", b"pay 5 EUR")
    assert reply.status == (503 if path == "/die" else 500)
    assert sum(len(image.heard) for image in stand.images) == 1
    (record,) = stand.rig.closed()
    assert record.finish == ("engine_gone" if path == "/die" else "engine_error")


def test_an_answer_that_ends_in_its_middle_ends_the_connection(stand: Stand) -> None:
    with stand.rig.connect() as connection:
        connection.get("/e/own/die-late", key=KEY)
        assert connection.head()[0] == 200
        with pytest.raises((EOFError, ConnectionError)):
            connection.exactly(10)
    (record,) = stand.rig.closed()
    assert record.finish == "engine_gone"


def test_a_client_that_goes_ends_it(stand: Stand) -> None:
    with stand.rig.connect() as connection:
        connection.get("/e/own/held", key=KEY)
        stand.rig.until(lambda: len(stand.heard) == 1)
    (record,) = stand.rig.closed()
    assert (record.status, record.finish) == (499, "client_gone")
    stand.rig.loop.call_soon_threadsafe(stand.images[0].hold.set)


def test_an_answer_without_a_length_is_passed_on_as_it_comes(stand: Stand) -> None:
    stand.rig.loop.call_soon_threadsafe(stand.images[0].hold.set)
    reply = stand.ask("GET", "/e/own/held")
    assert reply.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert reply.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("TRACE", "/e/own/x", 405), ("PROPFIND", "/e/own/x", 405), ("GET", "/e/own/\xe9", 400)],
)
def test_what_goes_to_no_image(stand: Stand, method: str, path: str, status: int) -> None:
    reply = stand.ask(method, path)
    assert reply.status == status
    assert stand.heard == []


def test_limits_hold(stand: Stand) -> None:
    from gateway.directory import RateLimits

    stand.rig.key(rate_limits=RateLimits(requests_per_minute=1))
    assert stand.ask("GET", "/e/own/x").status == 200
    answers: list[Any] = [stand.ask("GET", "/e/own/x") for _ in range(2)]
    assert {one.status for one in answers} == {429}
    assert len(stand.heard) == 1
