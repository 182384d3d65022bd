"""Where a request's time went, as Server-Timing tells it: the parts add up to the whole."""

import re

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import engine_times, timing
from gateway.engine_times import EngineTimes
from gateway.timing import Timing
from tests.gateway.rig import KEY, Rig
from tests.gateway.wire import Response

CHAT = "/v1/chat/completions"
SLOW = {"messages": [{"role": "user", "content": "hi"}], "user": "tokens=3;delay=0.02"}
# What a test on a busy machine may say of its own time is no more than that it is not the engine's.
OWN_MS = 1000.0


def durations(line: str) -> dict[str, float]:
    parts = re.findall(r"([a-z]+);dur=([0-9.]+)(?:, |$)", line)
    assert ", ".join(f"{name};dur={value}" for name, value in parts) == line
    return {name: float(value) for name, value in parts}


def comments(reply: Response) -> list[str]:
    mark = ": server-timing: "
    return [line[len(mark) :] for line in reply.body.decode().split("\n") if line.startswith(mark)]


seconds = st.floats(0, 100)


@given(seconds, seconds, seconds, seconds, seconds, seconds, seconds, seconds, st.booleans())
def test_the_parts_add_up(
    own: float,
    queue: float,
    wake: float,
    prefill: float,
    decode: float,
    after: float,
    told_queue: float,
    told_decode: float,
    streams: bool,
) -> None:
    spent = Timing(5.0)
    spent.read, spent.queue, spent.wake = 6.0, queue, wake
    spent.asked = 6.0 + own + queue + wake
    spent.last = spent.asked + prefill + decode
    if streams:
        spent.first = spent.asked + prefill
    now = spent.last + after
    for told in (None, EngineTimes(told_queue * 1000, told_decode * 1000)):
        parts = spent.split(now, told)
        assert sum(part or 0.0 for part in parts) == pytest.approx((now - 6.0) * 1000, abs=0.01)
        assert all(part is None or part >= -0.01 for part in parts)
        assert (parts[3] is None) == (told is None and not streams)


def test_an_engines_own_account_is_read_and_nothing_else() -> None:
    body = b'{"choices":[{"text":"\\"metrics\\":{\\"queue_time_ms\\":9}"}],"usage":{},'
    told = engine_times.last(body + b'"metrics":{"queue_time_ms":1.5,"generation_time_ms":20}}')
    assert told == EngineTimes(1.5, 20.0)
    assert engine_times.last(body[:-1] + b"}") is None
    assert engine_times.last(b'"metrics":{"queue_time_ms":"x"}') is None
    assert engine_times.last(b'"metrics":{"speculative_decoding":{"a":1}}') == EngineTimes()


def test_a_whole_answer_tells_engine_from_gateway(tiny: Rig) -> None:
    found = durations(tiny.post(CHAT, {"model": "tiny", **SLOW}).headers["server-timing"])
    assert list(found) == ["queue", "wake", "inference", "gateway"]  # this engine tells no more
    assert found["inference"] >= 15
    assert found["queue"] == found["wake"] == 0
    assert 0 < found["gateway"] < OWN_MS


def test_an_engine_that_tells_more_splits_a_whole_answer(tiny: Rig) -> None:
    how = "tokens=3;delay=0.05;times=5/20"
    reply = tiny.chat("tiny", user=how)
    found = durations(reply.headers["server-timing"])
    assert list(found) == ["queue", "wake", "prefill", "decode", "gateway"]
    assert (found["queue"], found["decode"]) == (5.0, 20.0)
    assert found["prefill"] >= 15


def test_what_generates_nothing_has_no_decoding(tiny: Rig) -> None:
    reply = tiny.post("/v1/embeddings", {"model": "tiny", "input": "a"})
    assert durations(reply.headers["server-timing"])["decode"] == 0


def test_a_stream_tells_at_its_head_and_at_its_end(tiny: Rig) -> None:
    reply = tiny.post(CHAT, {"model": "tiny", "stream": True, **SLOW})
    head = durations(reply.headers["server-timing"])
    assert head["prefill"] >= 15
    (line,) = comments(reply)
    found = durations(line)
    assert list(found) == ["queue", "wake", "prefill", "decode", "gateway"]
    assert found["decode"] >= 30
    assert found["prefill"] == head["prefill"]
    assert reply.body.decode().index("server-timing") < reply.body.decode().index("data: [DONE]")


def test_a_client_that_takes_trailers_gets_one(tiny: Rig) -> None:
    body = {"model": "tiny", "stream": True, **SLOW}
    with tiny.connect() as connection:
        connection.post(CHAT, body, key=KEY, headers={"te": "trailers", "connection": "te"})
        _, headers = connection.head()
        assert headers["trailer"] == "server-timing"
        while data := connection.chunk_only():
            assert b"server-timing" not in data
        name, _, value = connection.read_until(b"\r\n\r\n").decode().strip().partition(": ")
        assert name == "server-timing"
        assert durations(value)["decode"] >= 30
        connection.post(CHAT, {"model": "tiny", **SLOW}, key=KEY)  # the framing was right
        assert connection.response().status == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, {"model": "nothing", "messages": []}, 404),
        (CHAT, {"model": "tiny", "messages": [], "user": "error=400"}, 400),
        ("/v1/nothing", {}, 404),
    ],
)
def test_refusals_tell_too(tiny: Rig, path: str, body: dict[str, object], status: int) -> None:
    reply = tiny.post(path, body)
    assert reply.status == status
    assert 0 <= durations(reply.headers["server-timing"])["gateway"] < OWN_MS


def test_pages_tell_too(tiny: Rig) -> None:
    for path in ("/v1/models", "/healthz"):
        assert "gateway" in durations(tiny.get(path).headers["server-timing"])
    with tiny.connect() as connection:
        connection.send(b"nonsense\r\n\r\n")
        assert "gateway" in durations(connection.response().headers["server-timing"])


def test_the_sdk_skips_the_comment_and_shows_the_header(tiny: Rig) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{tiny.port}/v1", api_key=KEY) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            user="tokens=4",
            stream=True,
        )
        assert "prefill;dur=" in raw.headers["server-timing"]
        assert len(list(raw.parse())) == 4


def test_the_wait_for_a_start_is_not_our_own_time(rig: Rig) -> None:
    rig.endpoint("sleepy")
    engine = rig.engine("ep_sleepy")
    with rig.connect() as connection:
        connection.post(CHAT, {"model": "sleepy", **SLOW}, key=KEY)
        rig.until(lambda: rig.server.context.admission.waiting == 1)
        rig.change("sleepy", replicas=rig.replicas("sleepy", [engine]))
        found = durations(connection.response().headers["server-timing"])
    assert found["wake"] > 0
    series = rig.server.context.metrics.of("chat.completions", rig.endpoints["sleepy"])
    assert sum(series.wake.counts) == 1
    assert timing.header((1.0, 2.0, 3.0, 4.0, 5.0)) == (
        b"server-timing: queue;dur=1.0, wake;dur=2.0, prefill;dur=3.0, decode;dur=4.0, "
        b"gateway;dur=5.00\r\n"
    )
