"""What the fake engine answers besides OpenAI's classic operations, as vLLM words it."""

import json
from collections.abc import Iterator
from typing import Any

PROMPT_TOKENS = 7
CACHED_TOKENS = 3


def whole(path: str, body: dict[str, Any], tokens: int) -> dict[str, Any] | None:
    """A whole reply; None for a path that is none of these."""
    text = "tok" * tokens
    if path == "/v1/responses":
        return {**_response(body), "status": "completed", "usage": _response_usage(tokens)}
    if path == "/v1/messages":
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if body.get("tools"):
            quoted = {"usage": {"input_tokens": 1, "output_tokens": 1}}
            content = [{"type": "tool_use", "id": "t", "name": "t", "input": quoted}]
        return _message(body, content) | {"usage": _message_usage(tokens, CACHED_TOKENS)}
    if path == "/v1/messages/count_tokens":
        return {"input_tokens": PROMPT_TOKENS}
    if path == "/rerank":
        documents = [{"text": text} for text in body["documents"]]
        results = [
            {"index": at, "document": one, "relevance_score": 0.5}
            for at, one in enumerate(documents)
        ]
        usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
        return {"id": "score-1", "model": body["model"], "usage": usage, "results": results}
    if path == "/score":
        data = [{"index": 0, "object": "score", "score": 0.5}]
        return {"model": body["model"], "data": data, "usage": {"total_tokens": PROMPT_TOKENS}}
    if path.startswith("/v1/audio/"):
        return {"text": text, "usage": {"type": "duration", "seconds": 4}}
    if path == "/tokenize":
        return {"count": 2, "max_model_len": 64, "tokens": [1, 2], "token_strs": None}
    if path == "/detokenize":
        return {"prompt": "text"}
    return None


def events(path: str, body: dict[str, Any], tokens: int) -> Iterator[bytes]:
    """A stream of typed events, with a step for each token."""
    if path == "/v1/responses":
        yield _event("response.created", response=_response(body))
        for _ in range(tokens):
            yield _event("response.output_text.delta", delta="tok", item_id="msg", logprobs=[])
        yield _event("response.output_text.done", text="tok" * tokens)
        final = {**_response(body), "status": "completed", "usage": _response_usage(tokens)}
        yield _event("response.completed", response=final)
        return
    yield _event("message_start", message=_message(body, []) | {"usage": _message_usage(0, 0)})
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for _ in range(tokens):
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "tok"})
    yield _event("content_block_stop", index=0)
    used = _message_usage(tokens, CACHED_TOKENS)
    yield _event("message_delta", delta={"stop_reason": "end_turn"}, usage=used)
    yield _event("message_stop")


def _event(kind: str, **content: Any) -> bytes:
    data = json.dumps({**content, "type": kind}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _response(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "model": body["model"],
        "status": "in_progress",
        "output": [],
        "tools": body.get("tools", []),  # quoted as they came
        "usage": None,
        "user": None,
    }


def _message(body: dict[str, Any], content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": body["model"],
        "stop_reason": None,
    }


def _response_usage(tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": CACHED_TOKENS, "input_tokens_per_turn": []},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def _message_usage(tokens: int, cached: int) -> dict[str, Any]:
    """Anthropic's input_tokens are those that were not cached."""
    used = {"output_tokens": tokens, "input_tokens": PROMPT_TOKENS - cached}
    return used | ({"cache_read_input_tokens": cached} if cached else {})
