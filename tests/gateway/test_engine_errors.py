"""What an engine says when it refuses is read with care: it runs a tenant's work."""

import json

import pytest

from gateway import engine_errors, operations, request
from gateway.stream import Rewriter

CALL = request.read(b'{"model":"mine","messages":[],"stream":true,"n":2}', operations.CHAT)
DEEP = b'{"error":' + b"[" * 5000


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"error":{"message":"\xc2"}}', DEEP])
def test_what_cannot_be_read_is_a_refusal_without_words(body: bytes) -> None:
    error = engine_errors.translate(400, body, CALL, "ep_1")
    assert (error.status, error.message) == (400, "The engine refused this request.")


@pytest.mark.parametrize("inside", [b'"\xc2"', b"[" * 5000, b'[{"index":"\xc2"}]'])
def test_an_event_that_cannot_be_read_counts_nothing(inside: bytes) -> None:
    event = b'data: {"choices":' + inside + b',"usage":{"prompt_tokens":1}}\n\n'
    rewriter = Rewriter(CALL, "ep_1")
    assert rewriter.feed(event)
    sound = {"choices": [{"index": 0}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    rewriter.feed(b"data: " + json.dumps(sound, separators=(",", ":")).encode() + b"\n\n")
    used, counted_by = rewriter.delivered()
    assert (used.output, counted_by) == (2, "delivered")
