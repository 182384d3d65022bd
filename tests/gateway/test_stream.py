"""The stream's rewriting, alone: any cut of the bytes gives the same result."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import operations, request, stream, typed_events
from gateway.stream import Rewriter
from gateway.usage import Usage


def call(**fields: Any) -> request.Call:
    body = {"model": "mine", "messages": [], "stream": True, **fields}
    return request.read(json.dumps(body).encode(), operations.CHAT)


def event(content: str, tokens: int, *, spaced: bool = False, index: int = 0) -> bytes:
    data = {
        "model": "ep_1",
        "choices": [{"index": index, "delta": {"content": content}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": tokens, "details": {"a": 1}},
    }
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(data, separators=separators).encode() + b"\n\n"


FINAL = (
    b'data: {"model":"ep_1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\ndata: [DONE]\n\n'
)
FAILED = "The engine failed to answer this request."
OURS = {"message": FAILED, "type": "server_error", "param": None, "code": "engine_error"}
NASTY = ['"usage":{"prompt_tokens":1}', '"choices":[]', '"model":"ep_1"', "data: [DONE]\n\n", "}\\"]


@given(
    contents=st.lists(st.one_of(st.text(), st.sampled_from(NASTY)), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    asked=st.booleans(),
)
def test_any_cut_gives_the_same(contents: list[str], cuts: list[int], asked: bool) -> None:
    data = b"".join(event(content, at + 1) for at, content in enumerate(contents)) + FINAL
    rewriter = Rewriter(call(stream_options={"include_usage": asked}), "ep_1")
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    out = b"".join(rewriter.feed(data[start:end]) for start, end in pairwise(bounds))
    found = [json.loads(line[6:]) for line in out.split(b"\n") if line.startswith(b"data: {")]
    assert [one["choices"][0]["delta"]["content"] for one in found if one["choices"]] == contents
    assert {one["model"] for one in found} == {"mine"}
    assert [one for one in found if "usage" in one] == ([found[-1]] if asked else [])
    assert out.endswith(b"data: [DONE]\n\n")
    assert rewriter.done
    assert not rewriter.failed
    assert rewriter.delivered() == (Usage(5, 4, 3), "engine")


def test_only_what_left_counts() -> None:
    rewriter = Rewriter(call(), "ep_1")
    assert rewriter.delivered() == (Usage(), "delivered")
    second = event("b", 2)
    rewriter.feed(event("a", 1) + second[:-2])
    assert rewriter.delivered() == (Usage(5, 0, 1), "delivered")
    rewriter.feed(second[-2:])
    assert rewriter.delivered() == (Usage(5, 0, 2), "delivered")


def test_several_choices_each_count_for_themselves() -> None:
    rewriter = Rewriter(call(n=2), "ep_1")
    rewriter.feed(event("a", 3, index=0) + event("b", 4, index=1) + event("a", 5, index=0))
    assert rewriter.delivered() == (Usage(5, 0, 9), "delivered")


def test_spaces_and_carriage_returns() -> None:
    rewriter = Rewriter(call(), "ep_1")
    out = rewriter.feed(event("a", 1, spaced=True).replace(b"\n", b"\r\n"))
    assert b"usage" not in out
    assert b'"model":"mine"' in out
    assert out.endswith(b"\r\n\r\n")
    assert json.loads(out[6:])["choices"][0]["delta"]["content"] == "a"


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ('{"message": "/srv/secret: see stack trace", "code": 500}', "engine_error", "failed to"),
        ('{"message": "x"}', "engine_error", "failed to answer"),
        ('{"message": ["x"], "code": 400}', "engine_error", "failed to answer"),
        ('{"message": "ep_1 has no such tool", "code": 400}', None, "mine has no such tool"),
    ],
)
def test_an_error_in_the_midst(said: str, code: str | None, told: str) -> None:
    """Said again in our words: the engine's own are its operator's."""
    rewriter = Rewriter(call(), "ep_1")
    text = f'data: {{"error": {said}}}\n\ndata: [DONE]\n\n'.encode()
    out = rewriter.feed(event("a", 1) + text)
    assert rewriter.failed and rewriter.done
    first, error, done, _ = out.split(b"\n\n")
    assert b'"content":"a"' in first and done == b"data: [DONE]"
    found = json.loads(error.removeprefix(b"data: "))["error"]
    assert found["code"] == code
    assert told in found["message"] and "secret" not in found["message"]
    assert found.keys() == {"message", "type", "param", "code"}


def test_what_only_quotes_an_error_is_none() -> None:
    rewriter = Rewriter(call(), "ep_1")
    text = event('data: {"error":{"message":"x"}}', 1)
    assert json.loads(rewriter.feed(text)[6:])["choices"] == json.loads(text[6:])["choices"]
    assert not rewriter.failed


@pytest.mark.parametrize(
    ("operation", "said", "told"),
    [
        (
            operations.MESSAGES,
            b'{"type":"error","error":{"type":"internal_error","message":"/srv/secret"}}',
            {"type": "error", "error": {"type": "api_error", "message": FAILED}},
        ),
        (
            operations.RESPONSES,
            b'{"type":"error","code":"x","message":"/srv/secret","param":null}',
            OURS | {"type": "error", "error": OURS},
        ),
    ],
)
def test_an_error_among_typed_events(
    operation: operations.Operation, said: bytes, told: dict[str, Any]
) -> None:
    body = b'{"model":"mine","messages":[],"input":"x","max_tokens":5,"stream":true}'
    rewriter = typed_events.rewriter(request.read(body, operation), "ep_1")
    out = rewriter.feed(b"event: error\ndata: " + said + b"\n\n")
    assert rewriter.failed
    assert out.startswith(b"event: error\ndata: ") and out.endswith(b"\n\n")
    assert json.loads(out.split(b"data: ")[1]) == told


def test_an_event_that_never_ends() -> None:
    rewriter = Rewriter(call(), "ep_1")
    with pytest.raises(stream.TooLong):
        for _ in range(20):
            rewriter.feed(b"x" * (1 << 20))


def test_a_line_without_an_end() -> None:
    rewriter = Rewriter(call(), "ep_1")
    assert rewriter.feed(event("a", 1)[:-2]) == b""
    assert b'"content":"a"' in rewriter.rest()


def test_a_text_that_quotes_the_end_does_not_end_its_stream() -> None:
    rewriter = Rewriter(call(), "ep_tiny")
    rewriter.feed(b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n')
    assert not rewriter.done
    rewriter.feed(b"data: [DONE]\n\n")
    assert rewriter.done
