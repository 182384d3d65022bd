"""What passes as a tool call and as an answer under a schema; tests of real engines ask them."""

import json
from typing import Any

import pytest

from controlplane.fleet import wire
from workers.agent import proving


def answer(content: str | None = None, *calls: Any, finish: str = "stop") -> bytes:
    message = {"content": content, "tool_calls": list(calls)}
    choice = {"message": message, "finish_reason": finish}
    return json.dumps({"choices": [choice]}).encode()


def call(name: str = proving.NAME, arguments: str = '{"ok": true}') -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("said", "flaw"),
    [
        (answer(None, call()), None),
        (answer("", call(arguments='{"ok":false}')), None),
        (answer("<tool_call>{}</tool_call>"), "text and no tool call: '<tool_call>"),
        (answer("  ", finish="length"), "took too many tokens"),
        (answer(None, call("another")), "not the one that was asked for"),
        (answer(None, call(arguments='{"ok": 1}')), "not the one that was asked for"),
        (answer(None, call(arguments="[]")), "not the one that was asked for"),
        (answer(None, call(arguments="{")), "not well-formed"),
        (answer(None, call(), call()), "not well-formed"),
        (answer(None, {"function": None}), "not well-formed"),
        (b'{"choices": []}', "text and no tool call"),
        (b"<html>", "text and no tool call"),
    ],
)
def test_a_tool_call(said: bytes, flaw: str | None) -> None:
    found = proving.no_call(said)
    assert found is None if flaw is None else flaw in (found or "")


@pytest.mark.parametrize(
    ("said", "flaw"),
    [
        (answer('{"ok": true}'), None),
        (answer('\n{"ok":false} '), None),
        (answer('{"ok": "yes"}'), "not what its schema says"),
        (answer('{"ok": true, "more": 1}'), "not what its schema says"),
        (answer("[true]"), "not what its schema says"),
        (answer("yes"), "no JSON"),
        (answer(None), "no JSON"),
        (b"", "no JSON"),
    ],
)
def test_an_answer_under_a_schema(said: bytes, flaw: str | None) -> None:
    found = proving.no_object(said)
    assert found is None if flaw is None else flaw in (found or "")


def test_requests_carry_what_the_recipe_says() -> None:
    recipe = wire.Recipe(
        name="r",
        call="<call>NAME ARGUMENTS</call>",
        probe_tokens=4096,
        template_kwargs={"enable_thinking": False},
    )
    for request in (
        proving.forced_call("m", recipe),
        proving.under_schema("m", recipe),
        proving.written_call("m", recipe),
    ):
        assert request["max_tokens"] == 4096
        assert request["chat_template_kwargs"] == {"enable_thinking": False}
    (written,) = proving.written_call("m", recipe)["structured_outputs"]["choice"]
    assert written == '<call>stoa_probe {"ok": true}</call>'
    assert "chat_template_kwargs" not in proving.forced_call("m", None)
