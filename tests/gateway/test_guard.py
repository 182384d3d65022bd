"""The context window: how full it is, early warnings, and refusals with the numbers."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import engine_errors, guard, operations, request, sizes
from gateway.directory import Endpoint
from gateway.errors import ApiError
from gateway.guard import Learned
from gateway.operations import Operation
from gateway.request import Call
from gateway.sizes import Size
from gateway.usage import Usage
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"
WINDOW = 64


def called(fields: dict[str, Any], operation: Operation = operations.CHAT) -> Call:
    return request.read(json.dumps({"model": "m", **fields}).encode(), operation)


def endpoint(window: int | None = WINDOW) -> Endpoint:
    return Endpoint(
        id="ep_m", project_id="prj", organization_id="org", region="eu", name="m", model="o/m",
        adapters=frozenset(), stopped=False, created=1, replicas=(), max_model_len=window,
    )  # fmt: skip


# --- sizes ----------------------------------------------------------------------------------
texts = st.text(max_size=200)


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=5))
def test_a_prompt_has_no_more_tokens_than_its_upper_bound_and_no_fewer_than_its_lower(
    contents: list[str],
) -> None:
    call = called({"messages": [{"role": "user", "content": text} for text in contents]})
    # The most that a byte-level vocabulary makes of it, with a template's marks around each
    # message; and the fewest: runs of the longest tokens there are.
    most = sum(len(text.encode()) + 8 for text in contents) + 4
    fewest = sum(-(-len(text) // 128) for text in contents)
    assert sizes.measure(call).most >= most
    assert sizes.least(call) <= fewest


def test_what_is_asked_for_is_read() -> None:
    size = sizes.measure(called({"messages": [], "max_tokens": 9, "n": 3}))
    assert (size.asked, size.choices, size.prompts) == (9, 3, 1)
    assert sizes.measure(called({"messages": [], "max_completion_tokens": 7})).asked == 7
    odds: list[object] = ["9", None, -1, 0, 1.5, [], {}, 10**30]
    for odd in odds:
        assert sizes.measure(called({"messages": [], "max_tokens": odd})).asked is None


@pytest.mark.parametrize(
    ("prompt", "prompts", "token_ids"),
    [
        ("a", 1, 0), (["a", "b"], 2, 0), ([1, 2, 3], 1, 3), ([[1], [2, 3]], 2, 2), ([], 1, 0),
        ([None], 1, 0), ({"a": 1}, 1, 0),
    ],
)  # fmt: skip
def test_prompts_are_counted(prompt: object, prompts: int, token_ids: int) -> None:
    size = sizes.measure(called({"prompt": prompt}, operations.COMPLETIONS))
    assert (size.prompts, size.token_ids) == (prompts, token_ids)


def test_an_image_is_not_counted_by_its_bytes() -> None:
    image = "data:image/png;base64," + "A" * 100_000
    part = {"type": "image_url", "image_url": {"url": image}}
    size = sizes.measure(called({"messages": [{"role": "user", "content": [part]}]}))
    assert size.media == 1
    assert size.prompt_bytes < 200


def test_tools_belong_to_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 500}}]
    armed = sizes.measure(called({"messages": [], "tools": tools}))
    assert armed.most - sizes.measure(called({"messages": []})).most > 500


# --- what is learned ------------------------------------------------------------------------


def test_the_expectation_is_learned_from_what_engines_report() -> None:
    learned, size = Learned(), Size(prompt_bytes=4000)
    for _ in range(50):
        learned.learn(size, Usage(input=1600, output=100))
    assert 1600 <= learned.expected(size) <= 2000
    assert 100 <= learned.output_of(size) <= 200
    assert learned.output_of(Size(asked=10)) == 10
    # And follows when a new model is behind the endpoint.
    for _ in range(100):
        learned.learn(size, Usage(input=800, output=1000))
    assert 800 <= learned.expected(size) <= 1100
    assert learned.output_of(size) >= 1000


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5))),
    st.integers(0, 10**7),
)
def test_the_expectation_is_never_beyond_the_bound(
    answers: list[tuple[int, int, int]], prompt_bytes: int
) -> None:
    learned, size = Learned(), Size(prompt_bytes=prompt_bytes)
    for length, tokens, output in answers:
        learned.learn(Size(prompt_bytes=length), Usage(input=tokens, output=output))
    assert 1 <= learned.expected(size) <= size.most
    assert learned.output_of(size) > 0


def test_what_is_learned_is_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_KEPT", 2)
    learning = guard.Learning()
    first = learning.of("a")
    assert learning.of("a") is first
    learning.of("b")
    learning.of("c")
    assert learning.of("a") is not first


# --- what can never fit ----------------------------------------------------------------------


def refusal(call: Call, window: int | None = WINDOW) -> ApiError | None:
    try:
        guard.check(call, window, sizes.measure(call))
    except ApiError as error:
        return error
    return None


def test_token_ids_beyond_the_window_are_refused_with_the_numbers() -> None:
    call = called({"prompt": [1] * 64, "max_tokens": 8}, operations.COMPLETIONS)
    error = refusal(call)
    assert error is not None
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "prompt")
    assert error.message == (
        "This model's maximum context length is 64 tokens. However, you requested 72 tokens "
        "(64 in the prompt, 8 in the completion). Please reduce the length of the prompt or "
        "completion."
    )
    assert refusal(called({"prompt": [1] * 63}, operations.COMPLETIONS)) is None
    assert refusal(call, window=None) is None


def test_more_output_than_the_window_is_refused() -> None:
    error = refusal(called({"messages": [], "max_tokens": 65}))
    assert error is not None
    assert "65 tokens in the completion alone" in error.message
    assert refusal(called({"messages": [], "max_tokens": 64})) is None


def test_only_what_no_tokenizer_could_make_fit_is_refused() -> None:
    def said(length: int, **more: Any) -> ApiError | None:
        junk = {"role": "user", "content": "a" * length, **more}
        return refusal(called({"messages": [junk], "max_tokens": 4}))

    assert said(WINDOW * 128) is None  # 64 runs of 128 spaces would fit
    error = said(WINDOW * 300)
    assert error is not None
    assert "at least 79 tokens (at least 75 in the messages, 4 in the completion)" in error.message
    assert said(10, junk="j" * WINDOW * 300) is None  # no template reads it
    long = {"role": "user", "content": "a" * WINDOW * 300}
    assert refusal(called({"messages": [long], "truncate_prompt_tokens": 5})) is None


def test_it_is_refused_before_anything_is_opened(tiny: Rig) -> None:
    body = {"model": "tiny", "prompt": [1] * 5000}
    reply = tiny.post("/v1/completions", body)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert tiny.engines[0].seen == []
    assert tiny.spool.opened == []


# --- the engine's own refusal ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "This model's maximum context length is 64 tokens. However, your prompt contains "
            "at least 65 input tokens, which exceeds this limit even without any output tokens.",
            "you requested at least 73 tokens (at least 65 in the messages, 8 in the completion)",
        ),
        (
            "The decoder prompt (length 64) plus the number of requested output tokens (at least "
            "1) is longer than the maximum model length of 64. Make sure that …",
            "you requested 72 tokens (64 in the messages, 8 in the completion)",
        ),
        (
            "Input length (70) exceeds model's maximum context length (64).",
            "you requested 78 tokens (70 in the messages, 8 in the completion)",
        ),
        (
            "This model's maximum context length is 64 tokens. However, you requested 75 tokens "
            "(67 in the messages, 8 in the completion).",
            "you requested 75 tokens (67 in the messages, 8 in the completion)",
        ),
        (
            "The engine prompt length 70 exceeds the max_model_len 64. Please reduce prompt.",
            "you requested 78 tokens (70 in the messages, 8 in the completion)",
        ),
    ],
)
def test_vllms_words_become_openais(words: str, expected: str) -> None:
    body = msgspec.json.encode({"error": {"message": words, "code": 400}})
    error = engine_errors.translate(400, body, called({"messages": []}), "ep_m", 8)
    assert error.code == "context_length_exceeded"
    assert error.message.startswith("This model's maximum context length is 64 tokens. ")
    assert expected in error.message


def test_words_without_numbers_are_passed_on() -> None:
    words = "This model's maximum context length is 64 tokens. However, your prompt is odd."
    body = msgspec.json.encode({"error": {"message": words, "code": 400}})
    error = engine_errors.translate(400, body, called({"messages": []}), "ep_m")
    assert (error.code, error.message) == ("context_length_exceeded", words)


# --- headers ----------------------------------------------------------------------------------


def test_every_answer_says_how_full_the_window_is(tiny: Rig) -> None:
    tiny.change("tiny", max_model_len=100)
    whole = tiny.chat("tiny", user="tokens=20")
    assert whole.headers["x-stoa-context-usage"] == "0.27"
    assert "x-stoa-warning" not in whole.headers
    # A stream's head leaves with its first event: the prompt and what came with it.
    stream = tiny.chat("tiny", user="tokens=20;delay=0.01", stream=True)
    assert stream.headers["x-stoa-context-usage"] == "0.08"
    several = tiny.chat("tiny", user="tokens=20", n=2)
    assert several.headers["x-stoa-context-usage"] == "0.17"
    tiny.change("tiny", max_model_len=2048)


def test_a_full_window_is_warned_of(tiny: Rig) -> None:
    tiny.change("tiny", max_model_len=10)
    reply = tiny.chat("tiny", user="tokens=2")
    assert reply.headers["x-stoa-context-usage"] == "0.90"
    assert reply.headers["x-stoa-warning"].startswith("context: 9 of 10 tokens used; ")
    tiny.change("tiny", max_model_len=2048)


def test_an_engine_that_reports_nothing_is_judged_by_an_estimate(tiny: Rig) -> None:
    reply = tiny.chat("tiny", user="plain=1")
    assert 0 < float(reply.headers["x-stoa-context-usage"]) < 0.2


def test_an_unknown_window_has_no_share(tiny: Rig) -> None:
    tiny.change("tiny", max_model_len=None)
    assert "x-stoa-context-usage" not in tiny.chat("tiny").headers
    tiny.change("tiny", max_model_len=2048)


def test_a_list_of_prompts_has_no_one_window(tiny: Rig) -> None:
    body = {"model": "tiny", "prompt": ["a", "b"]}
    assert "x-stoa-context-usage" not in tiny.post("/v1/completions", body, key=KEY).headers
