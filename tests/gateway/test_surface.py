"""The operations besides chat: their shapes, their usage, their errors, and endpoints' own URLs."""

import json
from typing import Any

import pytest

from tests.gateway.fake_engine import CACHED_TOKENS, PROMPT_TOKENS
from tests.gateway.rig import KEY, OTHER_KEY, Rig

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    RESPONSES: {"input": "hello"},
    MESSAGES: {"messages": HELLO, "max_tokens": 99},
}
# A tool whose schema looks like what an engine reports.
FORGED = {"usage": {"input_tokens": 1, "output_tokens": 1}, "type": "response.completed"}


def ask(rig: Rig, path: str, *, model: str = "tiny", how: str = "tokens=5", **more: Any) -> Any:
    return rig.post(path, {"model": model, **BODIES[path], "user": how, **more})


@pytest.mark.parametrize("path", BODIES)
def test_usage_of_a_whole_reply(tiny: Rig, path: str) -> None:
    reply = ask(tiny, path, tools=[{"name": "t", "input_schema": FORGED}])
    (record,) = tiny.closed()
    assert reply.status == 200
    assert reply.json["model"] == "tiny"
    counts = (record.input_tokens, record.cached_tokens, record.output_tokens)
    assert (*counts, record.counted_by) == (PROMPT_TOKENS, CACHED_TOKENS, 5, "engine")
    seen = tiny.engines[0].seen[0]
    assert seen.path == path
    assert seen.body["model"] == "ep_tiny"
    assert seen.body["cache_salt"]
    assert "stream_options" not in seen.body


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("split", [1, 7, 10_000])
def test_usage_of_a_stream(tiny: Rig, path: str, split: int) -> None:
    forged = [{"name": "t", "input_schema": FORGED}]
    reply = ask(tiny, path, how=f"tokens=5;split={split}", stream=True, tools=forged)
    (record,) = tiny.closed()
    kinds = [event["type"] for event in reply.events]
    assert kinds[-1] in ("response.completed", "message_stop")
    assert b"ep_tiny" not in reply.body
    counts = (record.input_tokens, record.cached_tokens, record.output_tokens)
    assert (*counts, record.counted_by) == (PROMPT_TOKENS, CACHED_TOKENS, 5, "engine")
    assert record.finish == "complete"


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_that_is_left_costs_what_was_delivered(tiny: Rig, path: str) -> None:
    body = {"model": "tiny", **BODIES[path], "stream": True, "user": "tokens=500;delay=0.005"}
    with tiny.connect() as connection:
        connection.post(path, body, key=KEY)
        connection.head()
        got = b""
        while got.count(b'"tok"') < 20:
            got += connection.chunk()
    (record,) = tiny.closed()
    assert (record.finish, record.counted_by) == ("client_gone", "events")
    assert 20 <= record.output_tokens <= tiny.engines[0].seen[0].generated
    # A message says at its beginning what its prompt took; of a response it is judged.
    judged = -(-len(json.dumps(body)) // 4)
    assert record.input_tokens == (PROMPT_TOKENS if path == MESSAGES else judged)


@pytest.mark.parametrize("path", BODIES)
def test_an_engine_that_dies_in_the_midst(tiny: Rig, path: str) -> None:
    reply = ask(tiny, path, how="tokens=9;die=4", stream=True)
    assert b"\nevent: error\n" in reply.body
    last = reply.events[-1]
    assert last["type"] == "error"
    if path == MESSAGES:
        assert last["error"]["type"] == "api_error"
    else:
        assert last["code"] == last["error"]["code"] == "engine_gone"
    (record,) = tiny.closed()
    assert (record.finish, record.counted_by) == ("engine_gone", "events")
    assert record.output_tokens >= 2


def test_responses_are_never_stored(tiny: Rig) -> None:
    ask(tiny, RESPONSES, store=True)
    assert tiny.engines[0].seen[0].body["store"] is False
    leaning: dict[str, Any] = {
        "previous_response_id": "resp_1",
        "conversation": {"id": "conv_1"},
        "background": True,
    }
    for name, value in leaning.items():
        reply = ask(tiny, RESPONSES, **{name: value})
        assert (reply.status, reply.error["param"]) == (400, name)
    assert ask(tiny, RESPONSES, previous_response_id=None, background=False).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items?limit=2"),
    ],
)
def test_a_stored_response_is_not_there(tiny: Rig, method: str, path: str) -> None:
    with tiny.connect() as connection:
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        connection.send(f"{head}content-length: 0\r\n\r\n".encode())
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (404, "response_not_stored")


@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/count_tokens"])
def test_anthropics_header_opens_that_path_alone(tiny: Rig, path: str) -> None:
    body = {"model": "tiny", **BODIES[MESSAGES]}
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    assert tiny.post(path, body, key=None, headers=headers).status == 200
    assert tiny.post(path, body, key=KEY).status == 200
    assert (
        tiny.post(RESPONSES, {"model": "tiny", "input": "a"}, key=None, headers=headers).status
        == 401
    )
    # Two keys: the one in Authorization is meant.
    assert tiny.post(path, body, key="sk-stoa-no", headers=headers).status == 401
    seen = tiny.engines[0].seen[0]
    assert not {"x-api-key", "anthropic-version"} & set(seen.headers)


def test_anthropics_errors(tiny: Rig) -> None:
    body = {"model": "tiny", **BODIES[MESSAGES]}
    cases = [
        (tiny.post(MESSAGES, body, key=None), 401, "authentication_error"),
        (tiny.post(MESSAGES, body | {"model": "no"}), 404, "not_found_error"),
        (tiny.post(MESSAGES, b"{"), 400, "invalid_request_error"),
        (tiny.post(MESSAGES, body | {"user": "error=400"}), 400, "invalid_request_error"),
        (tiny.post(MESSAGES, body | {"user": "error=500"}), 500, "api_error"),
        (tiny.post(MESSAGES, body | {"user": "error=429"}), 503, "overloaded_error"),
        (tiny.post(MESSAGES, b"x" * 20_000_000), 413, "request_too_large"),
    ]
    for reply, status, kind in cases:
        assert (reply.status, reply.json["type"]) == (status, "error")
        assert reply.error["type"] == kind
        assert set(reply.error) == {"type", "message"}
        assert reply.json["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "asked", "tokens"),
    [
        ("/v1/rerank", "/rerank", PROMPT_TOKENS),
        ("/v2/rerank", "/rerank", PROMPT_TOKENS),
        ("/rerank", "/rerank", PROMPT_TOKENS),
        ("/v1/score", "/score", PROMPT_TOKENS),
        ("/score", "/score", PROMPT_TOKENS),
        ("/tokenize", "/tokenize", 0),
        ("/v1/tokenize", "/tokenize", 0),
        ("/detokenize", "/detokenize", 0),
        ("/v1/detokenize", "/detokenize", 0),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens", 0),
    ],
)
def test_other_operations(tiny: Rig, path: str, asked: str, tokens: int) -> None:
    documents = ['"usage":{"prompt_tokens":99}', "b"]
    body = {"model": "tiny", "query": "a", "documents": documents, "prompt": "a", "messages": HELLO}
    reply = tiny.post(path, body)
    assert reply.status == 200
    (record,) = tiny.closed()
    assert (record.input_tokens, record.output_tokens) == (tokens, 0)
    assert record.counted_by == "engine"
    seen = tiny.engines[0].seen[0]
    assert seen.path == asked
    # What only looks into the tokenizer knows no salt.
    assert ("cache_salt" in seen.body) == bool(tokens)
    assert tiny.post(path, body | {"cache_salt": "mine"}).status == 400
    assert tiny.post(path, body | {"stream": True}).status == 400


@pytest.mark.parametrize("path", ["/rerank", RESPONSES, MESSAGES])
def test_an_engine_that_counts_nothing_is_judged_by_the_text(tiny: Rig, path: str) -> None:
    body = {"model": "tiny", "user": "plain=1;tokens=8", "documents": ["a"], "query": "b"}
    tiny.post(path, body | BODIES.get(path, {}))
    (record,) = tiny.closed()
    assert record.counted_by == "text"
    assert record.input_tokens > 10
    assert record.output_tokens == (6 if path == MESSAGES else 0)  # 24 letters


URL = "https://example.org/cat.png"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (MESSAGES, [{"type": "image", "source": {"type": "url", "url": URL}}]),
        (MESSAGES, [{"type": "image", "\\u0073ource": {"type": "url", "url": URL}}]),
        (
            MESSAGES,
            [
                {
                    "type": "tool_result",
                    "content": [{"type": "image", "source": {"type": "url", "url": URL}}],
                }
            ],
        ),
        (RESPONSES, [{"type": "input_image", "image_url": URL}]),
    ],
)
def test_media_by_address_is_refused(tiny: Rig, path: str, parts: list[Any]) -> None:
    message = {"role": "user", "content": parts}
    body = {"model": "tiny", "max_tokens": 1, "messages": [message], "input": [message]}
    raw = json.dumps(body).replace("\\\\u0073", "\\u0073").encode()
    reply = tiny.post(path, raw)
    assert reply.status == 400
    assert "data: URLs" in reply.error["message"]
    assert not tiny.engines[0].seen


def test_media_in_a_tools_output_is_refused(tiny: Rig) -> None:
    output = {
        "type": "function_call_output",
        "call_id": "1",
        "output": [{"type": "input_image", "image_url": URL}],
    }
    reply = tiny.post(RESPONSES, {"model": "tiny", "input": [output]})
    assert (reply.status, reply.error["code"]) == (400, "unsupported_media_url")


def test_inline_media_passes(tiny: Rig) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}
    message = {"role": "user", "content": [{"type": "image", "source": source}]}
    body = {"model": "tiny", "max_tokens": 1, "messages": [message], "user": "plain=1"}
    assert tiny.post(MESSAGES, body).status == 200
    (record,) = tiny.closed()
    assert record.input_tokens < 200  # its letters are no text


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (None, "ep_tiny"),
        ("", "ep_tiny"),
        ("tiny", "ep_tiny"),
        ("ep_tiny", "ep_tiny"),
        ("org/model", "ep_tiny"),
        ("poet", "poet"),
        ("tiny:poet", "poet"),
    ],
)
@pytest.mark.parametrize("base", ["tiny", "ep_tiny"])
def test_an_endpoints_own_url(tiny: Rig, base: str, model: str | None, asked: str) -> None:
    body: dict[str, Any] = {"messages": HELLO} | ({} if model is None else {"model": model})
    reply = tiny.post(f"/e/{base}/v1/chat/completions", body)
    assert reply.status == 200
    assert reply.json["model"] == (model or base)
    assert tiny.engines[0].seen[0].body["model"] == asked


def test_an_endpoints_own_url_serves_nothing_else(tiny: Rig) -> None:
    tiny.endpoint("second", tiny.engines)
    body = {"messages": HELLO}
    for base, model in [("tiny", "second"), ("tiny", "tiny:no"), ("no", "tiny"), ("no", None)]:
        given = body if model is None else {**body, "model": model}
        reply = tiny.post(f"/e/{base}/v1/chat/completions", given)
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert tiny.post("/e/tiny/v1/chat/completions", body, key=OTHER_KEY).status == 404
    models = tiny.get("/e/tiny/v1/models").json["data"]
    assert [model["id"] for model in models] == ["tiny", "tiny:poet"]
    assert tiny.get("/e/tiny/v1/models/second").status == 404
    assert tiny.get("/e/tiny/v1/models/tiny").status == 200
    assert tiny.get("/e/no/v1/models").status == 404
    assert tiny.get("/e/tiny").status == tiny.get("/e/").status == 404
    assert tiny.post("/v1/chat/completions", body).status == 400


def test_a_key_for_an_adapter_alone(rig: Rig) -> None:
    rig.key(models=frozenset({"tiny:poet"}))
    rig.endpoint("tiny", [rig.engine("ep_tiny", adapters=["poet"])], adapters=["poet"])
    for model, status in [("poet", 200), ("tiny:poet", 200), ("tiny", 404)]:
        body = {"messages": HELLO, "model": model}
        assert rig.post("/e/tiny/v1/chat/completions", body).status == status


@pytest.mark.parametrize("base", ["", "/e/tiny"])
@pytest.mark.parametrize(
    "path",
    [
        "/sleep",
        "/sleep?level=1",
        "/wake_up",
        "/is_sleeping",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/server_info",
        "/release_kv_cache_memory",
        "/v1/../sleep",
        "//sleep",
        "/sleep/",
        "/%73leep",
    ],
)
def test_what_puts_an_engine_to_sleep_is_nobodys_to_reach(tiny: Rig, base: str, path: str) -> None:
    """Engines that may sleep offer vLLM's development routes, to their node's agent alone."""
    for reply in (tiny.post(base + path, {}), tiny.get(base + path)):
        assert reply.status in (400, 404), path
    assert not tiny.engines[0].seen
