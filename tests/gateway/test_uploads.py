"""Audio through the gateway: passed on while it comes, and counted."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.budgets import Budget
from gateway.limits import Limits
from gateway.operations import TRANSCRIPTIONS
from gateway.prices import TokenPrices
from gateway.request import Call
from gateway.sizes import Size
from gateway.worst import clamp, worst
from tests.gateway.rig import KEY, Rig
from tests.gateway.test_forms import MARK, form, part
from tests.gateway.wire import Connection, Response

PATH = "/v1/audio/transcriptions"
KIND = {"content-type": f"multipart/form-data; boundary={MARK.decode()}"}
MODEL = part("model", b"tiny")


def post(rig: Rig, *parts: bytes, path: str = PATH) -> Response:
    return rig.post(path, form(*parts), headers=KIND)


def file(content: bytes = b"sound") -> bytes:
    return part("file", content, file=True)


def begin(connection: Connection, length: int, path: str = PATH) -> None:
    headers = {"host": "x", "authorization": f"Bearer {KEY}", "content-length": str(length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **KIND}.items())
    connection.send(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode())


@pytest.mark.parametrize("path", [PATH, "/v1/audio/translations"])
def test_a_file_is_heard(tiny: Rig, path: str) -> None:
    parts = [MODEL, part("language", b"de"), file(b"\x00\xff" * 9), part("user", b"tokens=3")]
    reply = post(tiny, *parts, path=path)
    assert reply.status == 200
    assert reply.json["text"] == "toktoktok"
    seen = tiny.engines[0].seen[0]
    assert seen.path == path
    assert seen.headers["transfer-encoding"] == "chunked"
    assert "authorization" not in seen.headers
    assert seen.body["model"] == "ep_tiny"
    assert seen.body["language"] == "de"
    assert seen.body["file"] == "\x00\ufffd" * 9
    (record,) = tiny.closed()
    assert record.operation == path[4:].replace("/", ".")
    # The engine says how long it was, in seconds: what that is in tokens is our guess.
    assert (record.counted_by, record.input_tokens, record.output_tokens) == ("text", 400, 3)


def test_a_stream(tiny: Rig) -> None:
    reply = post(tiny, MODEL, file(), part("stream", b"true"), part("user", b"tokens=4"))
    assert [e for e in reply.events if e != "[DONE]" and e.get("usage")] == []
    assert "".join(e["choices"][0]["delta"]["content"] for e in reply.events[:-1]).startswith("é")
    (record,) = tiny.closed()
    assert (record.counted_by, record.output_tokens) == ("engine", 4)


@pytest.mark.parametrize("model", [None, b"tiny", b"org/model"])
def test_below_an_endpoints_own_url(tiny: Rig, model: bytes | None) -> None:
    late = [] if model is None else [part("model", model)]
    reply = post(tiny, file(), *late, path=f"/e/tiny{PATH}")
    assert reply.status == 200
    assert tiny.engines[0].seen[0].body["model"] == "ep_tiny"


def test_refusals(tiny: Rig) -> None:
    cases: list[tuple[Response, int, str | None]] = [
        (post(tiny, file()), 400, "missing_required_parameter"),
        (post(tiny, MODEL), 400, "missing_required_parameter"),
        (post(tiny, part("model", b"no"), file()), 404, "model_not_found"),
        (post(tiny, MODEL, file(), part("vllm_xargs", b"{}")), 400, "unsupported_parameter"),
        (post(tiny, MODEL, part("priority", b"1"), file()), 400, "unsupported_parameter"),
        (post(tiny, file(), part("model", b"no"), path=f"/e/tiny{PATH}"), 404, "model_not_found"),
        (tiny.post(PATH, {"model": "tiny"}), 415, "unsupported_media_type"),
        (tiny.post(PATH, form(MODEL, file())[:-5], headers=KIND), 400, "malformed_form"),
        (tiny.post(PATH, form(MODEL, file()), headers=KIND, key="sk-no"), 401, "invalid_api_key"),
        (post(tiny, MODEL, file(), part("user", b"error=404")), 404, "unsupported_operation"),
        (post(tiny, MODEL, file(), part("user", b"error=500")), 500, "engine_error"),
    ]
    for reply, status, code in cases:
        assert (reply.status, reply.error["code"]) == (status, code)
    assert tiny.spool.in_flight == 0


def test_it_leaves_while_it_comes(tiny: Rig) -> None:
    """Nothing is kept back: the engine has what the client has sent."""
    data = form(MODEL, file(b"x" * 3_000_000))
    with tiny.connect() as connection:
        begin(connection, len(data))
        connection.send(data[:2_000_000])
        tiny.until(lambda: bool(tiny.engines[0].ear.arriving))
        tiny.until(lambda: tiny.engines[0].ear.arriving[-1] > 1_900_000)
        connection.send(data[2_000_000:])
        assert connection.response().status == 200
        # The connection serves on.
        connection.post("/v1/chat/completions", {"model": "tiny", "messages": []}, key=KEY)
        assert connection.response().status == 200


def test_a_client_that_leaves_while_it_sends(tiny: Rig) -> None:
    data = form(MODEL, file(b"x" * 300_000))
    with tiny.connect() as connection:
        begin(connection, len(data))
        connection.send(data[:200_000])
        tiny.until(lambda: bool(tiny.spool.opened))
    (record,) = tiny.closed()
    assert (record.finish, record.output_tokens) == ("client_gone", 0)


@pytest.mark.parametrize(
    ("late", "status", "param"),
    [
        (part("cache_salt", b"mine"), 400, "cache_salt"),
        (part("model", b"poet"), 400, "model"),
        (part("model", b"no"), 404, "model"),
    ],
)
def test_what_is_wrong_late_ends_it(tiny: Rig, late: bytes, status: int, param: str) -> None:
    ear = tiny.engines[0].ear
    heard, broken = len(ear.arriving), ear.broken
    data = form(file(b"x" * 300_000), late)
    with tiny.connect() as connection:
        begin(connection, len(data), path=f"/e/tiny{PATH}")
        connection.send(data[:200_000])
        tiny.until(lambda: len(ear.arriving) > heard)
        connection.send(data[200_000:])
        reply = connection.response()
        assert (reply.status, reply.error["param"]) == (status, param)
    (record,) = tiny.closed()
    assert (record.status, record.finish) == (status, "refused")
    tiny.until(lambda: ear.broken > broken)


def test_broken_chunks_end_it(tiny: Rig) -> None:
    with tiny.connect() as connection:
        head = {"transfer-encoding": "chunked"}
        lines = "".join(f"{k}: {v}\r\n" for k, v in {**KIND, **head, "host": "x"}.items())
        auth = f"authorization: Bearer {KEY}\r\n"
        connection.send(f"POST {PATH} HTTP/1.1\r\n{auth}{lines}\r\n".encode())
        data = form(MODEL, file(b"x" * 1000))[:-30]
        connection.send(b"%x\r\n%b\r\n" % (len(data), data))
        tiny.until(lambda: bool(tiny.spool.opened))
        connection.send(b"nonsense\r\n")
        assert connection.response().status == 400
        assert connection.closed
    (record,) = tiny.closed()
    assert record.status == 400


def test_pipelined_behind_another(tiny: Rig) -> None:
    data = form(MODEL, file(b"x" * 1000), part("user", b"tokens=1"))
    chat = {"model": "tiny", "messages": [], "user": "delay=0.2"}
    with tiny.connect() as connection:
        connection.post("/v1/chat/completions", chat, key=KEY)
        begin(connection, len(data))
        connection.send(data)
        connection.get("/v1/models", key=KEY)
        assert connection.response().json["object"] == "chat.completion"
        assert connection.response().json["text"] == "tok"
        assert connection.response().json["object"] == "list"


def test_an_engine_that_answers_at_once(tiny: Rig) -> None:
    """It need not hear it all to refuse it; what still comes is dropped."""
    data = form(MODEL, part("user", b"early=404"), file(b"x" * 500_000))
    with tiny.connect() as connection:
        begin(connection, len(data))
        connection.send(data[:100_000])
        assert connection.response().status == 404
        connection.send(data[100_000:])
        connection.get("/v1/models", key=KEY)
        assert connection.response().status == 200


def test_an_engine_that_dies_before_it_answers(tiny: Rig) -> None:
    """A short one is sent again, a long one is not at hand any more."""
    assert post(tiny, MODEL, part("user", b"deaf=1"), file(b"x" * 1000)).status == 503
    reply = post(tiny, MODEL, part("user", b"deaf=1"), file(b"x" * 3_000_000))
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")


@pytest.fixture
def strict() -> Iterator[Rig]:
    """A gateway with little patience."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        limits = Limits(body_bytes=10_000, upload_bytes=500_000, body_s=0.6, upload_s=30, idle_s=9)
        rig = Rig(Path(folder), limits)
        rig.key()
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        yield rig
        rig.stop()


def test_limits(strict: Rig) -> None:
    assert post(strict, MODEL, file(b"x" * 400_000)).status == 200
    assert post(strict, MODEL, file(b"x" * 600_000)).status == 413
    # Whose model comes late must be kept, and is bounded as all other bodies.
    reply = post(strict, file(b"x" * 400_000), MODEL)
    assert (reply.status, reply.error["code"]) == (413, "model_after_file")
    assert post(strict, file(b"x" * 9_000), MODEL).status == 200
    assert strict.post("/v1/embeddings", {"model": "tiny", "input": "x" * 20_000}).status == 413


def test_a_client_that_stops_sending(strict: Rig) -> None:
    data = form(MODEL, file(b"x" * 100_000))
    with strict.connect() as connection:
        begin(connection, len(data))
        connection.send(data[:50_000])
        began = time.monotonic()
        assert connection.response().status == 408
        assert time.monotonic() - began < 5
    (record,) = strict.closed()
    assert record.status == 408


def test_a_slow_engine_is_not_outrun(tiny: Rig) -> None:
    data = form(MODEL, file(b"x" * 20_000_000))
    ear = tiny.engines[0].ear
    ear.open.clear()
    with tiny.connect() as connection:
        begin(connection, len(data))
        connection.timeout(0.5)
        with pytest.raises(TimeoutError):
            connection.send(data)
        connection.timeout(10)
        assert ear.arriving[-1] == 0
    ear.open.set()
    (record,) = tiny.closed()
    assert record.finish == "client_gone"


def test_openais_sdk(tiny: Rig) -> None:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{tiny.port}/v1", api_key=KEY, max_retries=0
    ) as sdk:
        extra = {"user": "tokens=2"}
        audio = ("a.wav", b"sound")
        answer = sdk.audio.transcriptions.create(model="tiny", file=audio, extra_body=extra)
        assert answer.text == "toktok"
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.audio.transcriptions.create(
                model="tiny", file=audio, extra_body={"vllm_xargs": {"a": 1}}
            )
        assert refused.value.param is not None
    assert tiny.engines[0].seen[0].body["model"] == "ep_tiny"


def test_the_worst_case_is_the_longest_file() -> None:
    """How long a sound is stands in no header, and each clip of it is answered for itself."""
    call = Call(
        operation=TRANSCRIPTIONS, model="tiny", stream=False, wants_usage=False,
        wants_running_usage=False, choices=1, several=False, size=0, fields={},
    )  # fmt: skip
    whole = worst(call, Size(media=1), 448, TokenPrices())
    assert whole.prompt >= 600 * 100
    assert whole.output == 448 * 21
    budget = Budget(
        id="bud_1", subject="key", subject_id="key_1", unit="tokens", window="total",
        amount=10**6, time_zone="UTC", hard=True,
    )  # fmt: skip
    nine = whole.affordable(budget, whole.prompt + 21 * 9 + 20)
    assert nine == 9
    bounded = clamp(call, whole, nine)
    assert (bounded.output, bytes(call.fields["max_completion_tokens"])) == (21 * 9, b"9")
